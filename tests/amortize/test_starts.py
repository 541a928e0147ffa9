import pytest
import torch
from torch import Tensor

from metaot import DualPotentials, Grid, Points, Problem, Sinkhorn, dual_value, solve
from metaot.amortize import GaussianStart, ZeroStart
from metaot.amortize.starts import gaussian_potential
from metaot.geometry import Dense, Geometry
from metaot.potentials import marginal_error, transport_cost


def normal(points: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    z = points - mean
    weights = (-0.5 * (z @ covariance.inverse() * z).sum(-1)).exp()
    return weights / weights.sum()


def random_weights(*shape: int) -> Tensor:
    return torch.rand(*shape).softmax(-1)


def covariance(weights: Tensor, points: Tensor) -> Tensor:
    z = points - weights @ points
    return (weights[:, None] * z).mT @ z


@pytest.mark.parametrize("eps", [1e-1, 1e-2, 2e-3])
def test_gaussians_on_a_fine_grid_are_solved_without_a_step(eps: float) -> None:
    grid = Grid(64, 64)
    a = normal(grid.points[0], torch.tensor([0.4, 0.45]), torch.tensor([[5e-3, 2e-3], [2e-3, 4e-3]]))
    b = normal(grid.points[0], torch.tensor([0.6, 0.5]), torch.tensor([[3e-3, -1e-3], [-1e-3, 6e-3]]))
    problem = Problem(a, b, grid, eps)
    assert solve(problem, init=GaussianStart(), tol=1e-3).steps == 0
    assert solve(problem, solver=Sinkhorn(), tol=1e-3).steps > 1


def test_the_limit_is_the_map_of_monge() -> None:
    x, y = torch.randn(50, 3), torch.randn(60, 3) @ torch.randn(3, 3) + 1
    a, b = random_weights(50), random_weights(60)
    z = x.clone().requires_grad_()  # the potential between the atoms: seen by atoms without mass
    f = gaussian_potential(torch.cat([a, 0 * a]), torch.cat([x, z]), b, y, 1e-9)[50:]
    (gradient,) = torch.autograd.grad(f.sum(), z)
    image = x - gradient / 2
    torch.testing.assert_close(a @ image, b @ y)
    torch.testing.assert_close(covariance(a, image), covariance(b, y))
    moved = (image[:, None] - image) * (x[:, None] - x)
    assert (moved.sum(-1) >= 0).all()  # monotone, so the gradient of a convex function


def test_a_translation_is_solved_as_eps_vanishes() -> None:
    x, shift = torch.rand(40, 2), torch.tensor([0.3, -0.7])
    a = random_weights(40)
    problem = Problem(a, a, Points(x, x + shift), 1e-6)
    start = GaussianStart().predict(problem)
    assert marginal_error(problem, start) < 1e-6
    torch.testing.assert_close(transport_cost(problem, start), shift.square().sum(), rtol=1e-6, atol=0)


def test_points_on_a_line_are_the_problem_on_that_line() -> None:
    s, t, direction = torch.rand(30, 1), torch.rand(20, 1), torch.tensor([[0.6, 0.8]])
    a, b = random_weights(30), random_weights(20)
    line = GaussianStart().predict(Problem(a, b, Points(s, t), 1e-2))
    plane = GaussianStart().predict(Problem(a, b, Points(s @ direction, t @ direction), 1e-2))
    torch.testing.assert_close(plane.f, line.f)


@pytest.mark.parametrize("eps", [1e-1, 1e-6])
@pytest.mark.parametrize("flip", [False, True])
def test_a_dirac_is_solved(flip: bool, eps: float) -> None:
    dirac = torch.zeros(2, 64)
    dirac[:, 9] = 1
    problem = Problem(dirac, random_weights(2, 64), Grid(8, 8), eps)
    problem = problem.T if flip else problem
    start = GaussianStart().predict(problem)
    assert start.f.isfinite().all()
    if not flip:
        assert (marginal_error(problem, start) < 1e-9).all()
    assert solve(problem, init=start, tol=1e-9).steps.max() <= 1


def test_it_saves_steps_on_blobs() -> None:
    grid = Grid(16, 16)
    centres, widths = 0.3 + 0.4 * torch.rand(2, 20, 1, 2), 0.1 + 0.1 * torch.rand(2, 20, 1)
    blobs = (-(grid.points[0] - centres).square().sum(-1) / (2 * widths**2)).exp()
    a, b = blobs / blobs.sum(-1, keepdim=True)
    problem = Problem(a, b, grid, 1e-2)
    warm, cold = (solve(problem, init=s, tol=1e-3).steps.double().mean() for s in (GaussianStart(), None))
    assert warm < 0.7 * cold


def test_one_cloud_for_each_instance_and_one_eps_for_each() -> None:
    x, y, a, b = torch.rand(3, 9, 2), torch.rand(3, 7, 2), random_weights(3, 9), random_weights(3, 7)
    eps = torch.tensor([1e-3, 1e-2, 1e-1])
    start = GaussianStart().predict(Problem(a, b, Points(x, y), eps))
    for k in range(3):
        single = GaussianStart().predict(Problem(a[k], b[k], Points(x[k], y[k]), float(eps[k])))
        torch.testing.assert_close(start[k].f, single.f)
        torch.testing.assert_close(start[k].g, single.g)


def test_it_answers_in_the_dtype_of_the_problem() -> None:
    a, b = random_weights(2, 16), random_weights(2, 16)
    double = GaussianStart().predict(Problem(a, b, Grid(4, 4), 1e-2))
    single = GaussianStart().predict(Problem(a.float(), b.float(), Grid(4, 4), 1e-2))
    assert single.f.dtype == single.g.dtype == torch.float32
    torch.testing.assert_close(single.f.double(), double.f, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "geometry",
    [
        Dense(torch.zeros(4, 4)),
        Grid(2, 2, cost="l1"),
        Points(torch.rand(4, 2), torch.rand(4, 2), "euclidean"),
    ],
)
def test_other_costs_are_refused(geometry: Geometry) -> None:
    a = torch.full((4,), 0.25)
    assert not GaussianStart.fits(geometry)
    with pytest.raises(ValueError, match=f"sqeuclidean.*{type(geometry).__name__}"):
        GaussianStart().predict(Problem(a.to(torch.float64), a, geometry, 0.1))


def test_zeros_are_the_cold_start() -> None:
    problem = Problem(random_weights(3, 16), random_weights(3, 16), Grid(4, 4), 0.1)
    zeros = ZeroStart().predict(problem)
    assert (zeros.f == 0).all()
    torch.testing.assert_close(
        dual_value(problem, zeros), (DualPotentials.from_f(problem, zeros.f).g * problem.b).sum(-1)
    )
    assert (solve(problem, init=zeros).steps == solve(problem).steps).all()
