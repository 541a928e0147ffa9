"""Starts of the universal model on grids."""

import pytest
import torch
from clouds import small_predictor
from torch import Tensor

import metaot
from metaot import Grid, Problem, Sinkhorn
from metaot.amortize.universal import UniversalPotential
from metaot.potentials import DualPotentials


@pytest.fixture
def predictor(generator: torch.Generator) -> UniversalPotential:
    return small_predictor(generator, passes=2)


def images(batch: int, sizes: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    a, b = torch.rand(2, batch, *sizes, dtype=torch.float64, generator=generator).pow(6)
    a[:, :5], b[:, :, :3] = 0, 0
    return tuple(image.flatten(1) / image.sum((1, 2))[:, None] for image in (a, b))


def test_solve_leaves_the_model_out_where_it_goes_coarse_to_fine(predictor, generator) -> None:
    """On grids that are finer than potentials have detail; a method of the user's begins with the prediction."""
    (a, b), asked = images(2, (64, 64), generator), []
    predictor.model.register_forward_pre_hook(lambda *_: asked.append(1))
    fine, coarse = Problem(a, b, Grid(64, 64), 1e-2), Problem(a, b, Grid(64, 64), 3e-4)
    torch.testing.assert_close(metaot.solve(fine, init=predictor).value, metaot.solve(fine).value)
    assert not asked
    metaot.solve(coarse, init=predictor, max_steps=1)
    assert asked
    asked.clear()
    metaot.solve(fine, init=predictor, solver=Sinkhorn(), max_steps=1)
    assert asked


@pytest.mark.parametrize("size", [20, 64])
def test_what_is_lost_on_the_way_is_predicted_otherwise(size: int, predictor: UniversalPotential) -> None:
    """Between corners far from each other numbers leave floating point, unless eps is large enough."""
    a, b = torch.zeros(2, 2, size, size, dtype=torch.float64)
    a[:, :2, :2] = b[1, 1:3, :2] = 0.25
    a[0, :2, :2] = torch.tensor([[0.97, 0.01], [0.01, 0.01]])
    b[0, -2:, -2:] = 0.25
    a, b = a.flatten(1), b.flatten(1)
    predictor.model.outputs.weight.mul_(0)  # the potential between Gaussians
    for eps in torch.linspace(1.1e-3, 2.5e-3, 15).tolist():
        problem = Problem(a, b, Grid(size, size), eps)
        start, expected = predictor.warm_start(problem), predictor.stages(problem)[predictor.start_steps]
        torch.testing.assert_close(start[a > 0], expected[a > 0], atol=0.1, rtol=0)


def test_a_start_of_the_users_is_left_as_it_is(generator: torch.Generator) -> None:
    (a, b), grid = images(3, (20, 20), generator), Grid(20, 20)
    start = DualPotentials(*torch.rand(2, 3, 400, dtype=torch.float64, generator=generator))
    before = start.f.clone()
    assert metaot.solve(Problem(a, b, grid, 1e-2), init=start).converged.all()
    assert torch.equal(start.f, before)


@pytest.mark.parametrize("eps", [1e-2, torch.zeros(0, dtype=torch.float64)])
@pytest.mark.parametrize("size", [7, 64])
def test_an_empty_batch_has_empty_potentials(size: int, eps, predictor: UniversalPotential) -> None:
    none = torch.zeros(0, size * size, dtype=torch.float64)
    problem = Problem(none, none, Grid(size, size), eps)
    assert predictor.predict(problem).f.shape == predictor.warm_start(problem).shape == none.shape
    assert metaot.solve(problem, init=predictor).steps.shape == (0,)
