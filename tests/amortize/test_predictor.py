"""Predictors: gradients, and the refinement steps in predictions and in starts."""

import pytest
import torch

from metaot.amortize import AmortizedPotential
from metaot.geometry import Grid
from metaot.models import PotentialMLP, RefinedPotential, SpectralPotential, single
from metaot.problem import Problem

GRID = Grid(5, 4)
BOUNDS = (1e-2, 1e-1)


def predictor(passes: int = 1) -> AmortizedPotential:
    first = {"moments": 3, "modes": 3, "width": 16, "hidden": 8}
    model = single(RefinedPotential.for_geometry(GRID, BOUNDS, first=first, passes=passes, modes=3, hidden=8))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return AmortizedPotential(model.eval().requires_grad_(False), GRID, BOUNDS)


def problem(eps: float = 0.05, batch: int = 3) -> Problem:
    a, b = torch.rand(2, batch, 20, dtype=torch.float64).softmax(-1)
    return Problem(a, b, GRID, eps)


def test_gradients_reach_all_weights_also_after_a_prediction_without() -> None:
    known, case = predictor(), problem()
    known.predict(case)
    known.model.requires_grad_(True)
    with torch.no_grad():
        known.predict(case)
    sum(f.square().sum() for f in known.stages(case)).backward()  # type: ignore[union-attr]
    assert all(weight.grad is not None for weight in known.model.parameters())


def test_gradients_reach_the_problem_after_a_prediction_in_inference_mode() -> None:
    known, case = predictor(), problem()
    with torch.inference_mode():
        known.predict(case)
    a = case.a.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(known.predict(Problem(a, case.b, GRID, case.eps)).f.square().sum(), a)
    assert gradient.abs().max() > 0


def test_passes_may_be_set_to_none_and_back() -> None:
    known, case = predictor(passes=2), problem()
    for count in (0, 2, 1):
        known.passes = count
        assert known.passes == count
        assert len(known.stages(case)) == count + 1
    with pytest.raises(ValueError, match="-1"):
        known.passes = -1


@pytest.mark.parametrize(
    "model", [PotentialMLP(20, 20, list(BOUNDS), width=8), SpectralPotential([5, 4], list(BOUNDS), modes=3)]
)
def test_a_model_without_refinement_steps_takes_none(model: PotentialMLP | SpectralPotential) -> None:
    known = AmortizedPotential(model, GRID, BOUNDS)
    known.passes = 0
    with pytest.raises(ValueError, match=f"0 for a {type(model).__name__}, got 2"):
        known.passes = 2


def test_a_warm_start_contains_one_refinement_step_at_most() -> None:
    known, case = predictor(passes=2), problem()
    stages = known.stages(case)
    assert torch.equal(known.warm_start(case), stages[1])
    known.passes = 0
    assert torch.equal(known.warm_start(case), stages[0])
