"""Problems whose solution is known: Diracs, two points, permutations, the line, Gaussians."""

import math

import pytest
import torch
from strategies import assert_close, both_back_ends, every_solver, every_space, matrix, weights
from torch import Tensor
from torch.nn.functional import one_hot

from metaot.geometry import Dense, Grid, Points
from metaot.problem import Problem
from metaot.solvers import solve

pytestmark = both_back_ends


@every_solver
@every_space
@pytest.mark.parametrize("eps", [1.0, 1e-3])
def test_diracs(solver, space, eps):
    geometry, batch = space((2, 3)), (2, 3)
    i, j = (torch.randint(size, batch) for size in geometry.shape)
    a, b = (one_hot(k, size).double() for k, size in zip((i, j), geometry.shape, strict=True))
    solution = solve(Problem(a, b, geometry, eps), solver=solver)
    cost = (matrix(geometry) * a[..., None] * b[..., None, :]).sum((-2, -1))
    assert_close(solution.plan(), a[..., None] * b[..., None, :])
    assert_close(solution.cost(), cost)
    assert_close(solution.value, cost)
    assert (solution.steps == 0).all()


@every_solver
@pytest.mark.parametrize("eps", [10.0, 1.0, 0.1, 0.01])
def test_two_points(solver, eps):
    """By symmetry both marginals are right for P = (1, t; t, 1) / (2 + 2 t) with t = exp(-1/eps)."""
    half = torch.tensor([0.5, 0.5])
    solution = solve(Problem(half, half, Grid(2), eps), solver=solver, tol=1e-12)
    t = math.exp(-1 / eps)
    assert_close(solution.plan(), torch.tensor([[1, t], [t, 1]]) / (2 + 2 * t))
    assert_close(solution.cost(), t / (1 + t))
    assert_close(solution.value, -eps * math.log((1 + t) / 2))


@every_solver
def test_a_permutation_is_found(solver):
    x = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0))
    order = torch.rand(2, 3, 9).argsort(-1)
    y = (x + 0.2 * torch.rand(9, 2))[order]
    a = torch.full((2, 3, 9), 1 / 9)
    solution = solve(Problem(a, a, Points(x.expand_as(y), y), 1e-2), solver=solver)
    assert torch.equal(solution.plan().argmax(-1), order.argsort(-1))
    assert_close(solution.plan().amax(-1), 1 / 9, 1e-4)


def cost_by_sorting(x: Tensor, a: Tensor, y: Tensor, b: Tensor) -> Tensor:
    """Return the integral of |F^-1 - G^-1|^2 over quantiles, with F and G step functions."""
    x, y, a, b = x[x.argsort()], y[y.argsort()], a[x.argsort()], b[y.argsort()]
    steps = torch.cat([a.cumsum(0), b.cumsum(0)]).clamp(0, 1).sort().values
    middle = (steps + torch.cat([torch.zeros(1), steps[:-1]])) / 2
    i, j = (torch.searchsorted(w.cumsum(0), middle).clamp_max(len(w) - 1) for w in (a, b))
    return (steps.diff(prepend=torch.zeros(1)) * (x[i] - y[j]).square()).sum()


@every_solver
@pytest.mark.parametrize("eps", [1e-1, 1e-2, 2e-3])
@pytest.mark.parametrize("seed", range(3))
def test_on_the_line_the_sorted_coupling_is_the_limit(solver, eps, seed):
    """Exact cost <= <C, P> (when P is feasible) <= min <C, P> + eps KL <= exact + eps log n."""
    torch.default_generator.manual_seed(seed)
    x, y, a, b = torch.rand(9), torch.rand(8), weights(9), weights(8)
    problem = Problem(a, b, Points(x[:, None], y[:, None]), eps)
    exact = cost_by_sorting(x, a, y, b)
    solution = solve(problem, solver=solver, tol=1e-5)
    assert solution.converged
    assert solution.cost() >= exact - 1e-5
    assert solution.cost() <= solution.value + 1e-5
    assert exact - 1e-5 <= solution.value <= exact + eps * math.log(8)


@every_solver
@pytest.mark.parametrize("eps", [1.0, 0.2])
@pytest.mark.parametrize("dimension", [1, 2])
def test_gaussians(solver, eps, dimension):
    """On a fine grid, the closed form of Janati, Muzellec, Peyre and Cuturi (2020, theorem 1).

    With sigma^2 = eps/2, D = (4 A^1/2 B A^1/2 + sigma^4)^1/2 and the covariance
    K = A^1/2 D A^-1/2 / 2 - sigma^2/2 of the plan.
    """
    mean_a, mean_b = torch.tensor([0.3, -0.2])[:dimension], torch.tensor([-0.4, 0.1])[:dimension]
    A = torch.tensor([[0.5, 0.2], [0.2, 0.3]])[:dimension, :dimension]
    B = torch.tensor([[0.3, -0.1], [-0.1, 0.6]])[:dimension, :dimension]
    grid = Grid(*[torch.linspace(-4, 4, 41)] * dimension)
    x, _ = grid.points
    a, b = normal(x, mean_a, A), normal(x, mean_b, B)
    solution = solve(Problem(a, b, grid, eps), solver=solver, tol=1e-9)

    variance, identity = eps / 2, torch.eye(dimension)
    root = power(A, 0.5)
    D = power(4 * root @ B @ root + variance**2 * identity, 0.5)
    K = root @ D @ power(A, -0.5) / 2 - variance / 2 * identity
    shift = (mean_a - mean_b).square().sum()
    value = (
        shift
        + (A + B - D).trace()
        + dimension * variance * (1 - math.log(2 * variance))
        + variance * torch.logdet(D + variance * identity)
    )
    assert_close(solution.cost(), shift + (A + B - 2 * K).trace(), 1e-5)
    assert_close(solution.value, value, 1e-5)
    middle = a > 1e-4
    expected = mean_b + (x - mean_a) @ torch.linalg.solve(A, K)
    assert_close(solution.transport()[middle], expected[middle], 1e-4)


def normal(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Return the weights of a normal distribution on points x."""
    return torch.distributions.MultivariateNormal(mean, covariance).log_prob(x).softmax(0)


def power(A: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(A)
    return (vectors * values**exponent) @ vectors.mT


@every_solver
def test_a_high_temperature_forgets_the_cost(solver):
    problem = Problem(weights(7), weights(5), Dense(torch.rand(7, 5)), 1e5)
    solution = solve(problem, solver=solver, tol=1e-12)
    product = problem.a[:, None] * problem.b
    assert_close(solution.plan(), product, 1e-5)
    assert_close(solution.value, (product * matrix(problem.geometry)).sum(), 1e-5)


@every_solver
@pytest.mark.parametrize("size", [0.0, 1.0])
def test_a_cost_that_is_a_sum_is_solved_by_one_step(solver, size):
    """Then the plan is a b^T, and the potentials are the two summands."""
    u, v = size * torch.rand(7), size * torch.rand(5)
    problem = Problem(weights(7), weights(5), Dense(u[:, None] + v), 0.1)
    solution = solve(problem, solver=solver, tol=1e-12)
    assert solution.steps <= size
    assert_close(solution.plan(), problem.a[:, None] * problem.b)
    assert_close(solution.potentials.f - u, (solution.potentials.f - u).mean())
    assert_close(solution.value, problem.a @ u + problem.b @ v)
