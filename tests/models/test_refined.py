"""The learnt Sinkhorn step: exact where nothing is corrected, and blind to nothing."""

import itertools

import pytest
import torch

from metaot.geometry import Grid
from metaot.models import RefinedPotential, single
from metaot.models.spectral import Correction
from metaot.objectives import dual_value
from metaot.potentials import DualPotentials, c_transform, sinkhorn_step, source_marginal
from metaot.problem import Problem

GRID = Grid(6, 6)


def problem(grid: Grid, eps: float) -> Problem:
    weights = torch.rand(2, 5, grid.shape[0]) * (torch.rand(2, 5, grid.shape[0]) < 0.5) + 1e-9
    a, b = weights / weights.sum(-1, keepdim=True)
    return Problem(a, b, grid, torch.full((5,), eps))


def refined(**settings: int) -> RefinedPotential:
    first = {"moments": 4, "modes": 4, "width": 16, "hidden": 8}
    return single(RefinedPotential.for_geometry(GRID, (1e-2, 1e-1), first=first, modes=4, hidden=8, **settings))


@pytest.mark.parametrize("sizes", [(9,), (5, 6), (3, 4, 2)])
@pytest.mark.parametrize("eps", [1e-1, 1e-2, 1e-3])
def test_the_step_is_sinkhorns(sizes: tuple[int, ...], eps: float) -> None:
    grid = Grid(*sizes)
    case = problem(grid, eps)
    f = 0.1 * torch.rand_like(case.a)
    after, missing, value = sinkhorn_step(case, f)
    exact = c_transform(case.T, c_transform(case, f))
    assert torch.allclose(after.double(), exact, atol=1e-6)
    marginal = source_marginal(case, DualPotentials.from_f(case, f))
    assert torch.allclose(missing.double(), case.a - marginal, atol=1e-6)
    assert torch.allclose(value, dual_value(case, DualPotentials.from_f(case, f)))


def test_untrained_refinement_steps_are_sinkhorn_steps() -> None:
    """The correction starts at zero, so each refinement step can only raise the dual value."""
    model, case = refined(passes=3), problem(GRID, 0.02)
    stages = list(model.stages(case, model))
    assert len(stages) == 4
    values = [(f.double() * case.a).sum(-1) + (c_transform(case, f.double()) * case.b).sum(-1) for f in stages]
    assert all(bool((later > earlier - 1e-7).all()) for earlier, later in itertools.pairwise(values))


def test_nothing_missing_nothing_corrected() -> None:
    correction = Correction([4, 4], modes=3, width=8, hidden=8).float()
    torch.nn.init.normal_(correction.outputs.weight)
    x, temperature = torch.rand(2, 8).float(), torch.rand(2, 5).float()
    small = correction(torch.zeros(2, 16).float(), x, temperature).abs().max()
    large = correction(torch.rand(2, 16).float(), x, temperature).abs().max()
    assert small < 1e-3 * large


def test_training_makes_the_refinement_steps_that_are_unrolled() -> None:
    model, case = refined(passes=1, unrolled=2), problem(GRID, 0.02)
    trained, used = list(model.train().stages(case, model)), list(model.eval().stages(case, model))
    assert (len(trained), len(used)) == (3, 2)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(trained, used, strict=False))
