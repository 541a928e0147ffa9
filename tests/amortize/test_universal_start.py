"""Starts of the universal model on grids finer than potentials have detail."""

import pytest
import torch
from clouds import small_predictor
from torch import Tensor

import metaot
from metaot import Grid, Points, Problem, Sinkhorn
from metaot.amortize.universal import UniversalPotential
from metaot.potentials import DualPotentials, c_transform, marginal_error


@pytest.fixture
def predictor(generator: torch.Generator) -> UniversalPotential:
    return small_predictor(generator, passes=2)


def images(batch: int, sizes: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    a, b = torch.rand(2, batch, *sizes, dtype=torch.float64, generator=generator).pow(6)
    a[:, :5], b[:, :, :3] = 0, 0
    return tuple(image.flatten(1) / image.sum((1, 2))[:, None] for image in (a, b))


def pooled(weights: Tensor, grid: Grid, by: tuple[int, int]) -> tuple[Tensor, Grid]:
    """Return weights on a grid of `by` neighbouring points of each axis, the last of which may be fewer."""
    sums, axes = weights.reshape(-1, *grid.sizes), []
    for dim, (axis, count) in enumerate(zip(grid.axes, by, strict=True), 1):
        sums = torch.stack([part.sum(dim) for part in sums.split(count, dim)], dim)
        axes.append(torch.stack([part.mean() for part in axis.split(count)]))
    return sums.flatten(1), Grid(*axes)


def lifted(problem: Problem, there: Problem, f: Tensor) -> Tensor:
    """Return what f leads to by a Sinkhorn step, from one grid to the other."""
    points = Points(problem.geometry.points[0], there.geometry.points[0])
    return c_transform(Problem(problem.a, there.b, points, problem.eps).T, c_transform(there, f))


@pytest.mark.parametrize("passes", [0, 2])
@pytest.mark.parametrize("highest", [1, 3])
@pytest.mark.parametrize(
    "case", [((64, 65), 1e-2, (2, 2)), ((67, 9), 1e-2, (2, 1)), ((131, 9), 3e-2, (4, 1))], ids=str
)
def test_starts_are_predicted_on_a_coarser_grid(case, highest, passes, predictor, generator):
    """Along axes with enough points: of two as a rule, of more where these are very close for eps."""
    sizes, eps, by = case
    (a, b), grid = images(5, sizes, generator), Grid(*sizes)
    temperature = torch.linspace(eps, highest * eps, 5, dtype=torch.float64) if highest > 1 else eps
    problem = Problem(a, b, grid, temperature)
    predictor.passes = passes
    start = predictor.warm_start(problem)
    torch.testing.assert_close(predictor.warm_start(problem[:1]), start[:1], atol=1e-5, rtol=0)
    source, coarse = pooled(a, grid, by)
    there = Problem(source, pooled(b, grid, by)[0], coarse, temperature)
    seen = DualPotentials.from_f(there, predictor.stages(there)[min(passes, predictor.start_steps)])
    solution = metaot.solve(there, init=seen, solver=Sinkhorn(), tol=1e-3, max_steps=predictor.coarse_steps)
    expected = lifted(problem, there, solution.potentials.f)
    torch.testing.assert_close(start[a > 0], expected[a > 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [64, 200])
def test_plans_of_a_start_miss_little(size, predictor, generator):
    """Whatever the network says: what the coarser grid leaves out is small."""
    a, b = images(5, (size, size), generator)
    problem = Problem(a, b, Grid(size, size), 1e-2)
    start = DualPotentials.from_f(problem, predictor.warm_start(problem))
    assert float(marginal_error(problem, start).max()) < 0.02


@pytest.mark.parametrize(
    ("axes", "eps"),
    [
        ((65 * torch.linspace(0, 1, 65), 60), 1e-3),
        ((65 * torch.linspace(0, 1, 65), 60), 1e-4),
        ((65, 70), 3e-4),
        ((torch.cat([torch.linspace(0, 0.5, 40), torch.linspace(0.8, 1, 25)]), 60), 1e-2),
    ],
)
def test_where_there_is_more_detail_every_point_is_seen(axes, eps: float, predictor, generator) -> None:
    """Of wide grids, at low temperatures, and where there is one wide gap."""
    grid = Grid(*axes)
    a, b = images(2, grid.sizes, generator)
    problem = Problem(a, b, grid, eps)
    expected = predictor.stages(problem)[predictor.start_steps]
    torch.testing.assert_close(predictor.warm_start(problem)[a > 0], expected[a > 0], atol=1e-7, rtol=0)


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
