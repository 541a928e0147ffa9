"""A predictor remembers what it computes of eps; nobody may notice."""

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

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


def exact(known: AmortizedPotential, case: Problem) -> torch.Tensor:
    """Return f by the network's reference, which remembers nothing."""
    eps = torch.as_tensor(case.eps, dtype=torch.float32).expand(len(case.a))
    return known.model(case.a.float(), case.b.float(), eps).double()


def agree(known: AmortizedPotential, case: Problem) -> bool:
    return torch.allclose(known.predict(case).f, exact(known, case), rtol=1e-5, atol=1e-6)


def replace_a_weight(model: torch.nn.Module) -> None:
    for part in model.modules():
        if isinstance(part, torch.nn.LayerNorm):
            part.weight = torch.nn.Parameter(3 * part.weight, requires_grad=False)


CHANGES: dict[str, Callable[[torch.nn.Module], object]] = {
    "written in place": lambda model: [value.mul_(1.5) for value in model.parameters()],
    "loaded": lambda model: model.load_state_dict({k: 1.5 * v for k, v in model.state_dict().items()}),
    "replaced by loading": lambda model: model.load_state_dict(
        {k: 1.5 * v for k, v in model.state_dict().items()}, assign=True
    ),
    "moved": lambda model: model.bfloat16().float(),
    "assigned": replace_a_weight,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_predicts_as_itself(change: str) -> None:
    known, case = predictor(), problem()
    before = known.predict(case).f
    CHANGES[change](known.model)
    for part in known.model.modules():  # the costs are constants in float64
        if hasattr(part, "set_costs"):
            part.double()
            part.set_costs(GRID)
    assert agree(known, case)
    assert not torch.allclose(known.predict(case).f, before, rtol=1e-5, atol=1e-6)


def test_many_temperatures_and_back() -> None:
    known = predictor()
    for eps in [0.02, 0.05, *torch.linspace(0.01, 0.1, 12).tolist(), 0.02, 0.05]:
        assert agree(known, problem(eps))


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


def test_copies_do_not_share_what_is_remembered() -> None:
    known, case = predictor(), problem()
    known.predict(case)
    for twin in (copy.deepcopy(known), pickle.loads(pickle.dumps(known))):
        assert torch.equal(twin.predict(case).f, known.predict(case).f)
        with torch.no_grad():
            next(twin.model.parameters()).mul_(2)
        assert agree(twin, case)
        assert agree(known, case)


def test_threads_may_predict_at_once() -> None:
    known = predictor()
    cases = [problem(eps) for eps in torch.linspace(0.01, 0.1, 12).tolist()] * 10
    alone = [known.predict(case).f for case in cases]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda case: known.predict(case).f, cases))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(alone, together, strict=True))


def test_passes_may_be_set_to_none_and_back() -> None:
    known, case = predictor(passes=2), problem()
    for count in (0, 2, 1):
        known.passes = count
        assert known.passes == count
        assert len(known.stages(case)) == count + 1
        assert agree(known, case)
    with pytest.raises(ValueError, match="-1"):
        known.passes = -1


@pytest.mark.parametrize(
    "model", [PotentialMLP(20, 20, list(BOUNDS), width=8), SpectralPotential([5, 4], list(BOUNDS), modes=3)]
)
def test_a_model_without_passes_takes_none(model: PotentialMLP | SpectralPotential) -> None:
    known = AmortizedPotential(model, GRID, BOUNDS)
    known.passes = 0
    with pytest.raises(ValueError, match=f"0 for a {type(model).__name__}, got 2"):
        known.passes = 2


def test_a_solver_starts_from_one_pass_at_most() -> None:
    known, case = predictor(passes=2), problem()
    stages = known.stages(case)
    assert torch.equal(known.start_f(case), stages[1])
    known.passes = 0
    assert torch.equal(known.start_f(case), stages[0])
