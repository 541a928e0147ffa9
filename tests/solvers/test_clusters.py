"""Coarse to fine between clouds: the same solutions as from zeros, in fewer steps, by both back ends."""

from collections.abc import Callable

import pytest
import torch
from strategies import assert_close, both_back_ends
from test_back_ends import by_torch, needs_both
from torch import Tensor

from metaot.core import method
from metaot.geometry import Points
from metaot.marginals import KL, TV
from metaot.potentials import DualPotentials, centred, marginal_error
from metaot.problem import Problem
from metaot.solvers import Sinkhorn, refine, solve
from metaot.solvers.stages import WIDTH, Clusters, order_of


@pytest.fixture
def small_clouds(monkeypatch):
    """Have clusters between a few hundred atoms."""
    monkeypatch.setattr(method, "_PAIRS", 2**16)
    monkeypatch.setattr(method, "_COARSEST", 64)


def cloud(n: int, d: int, seed: int) -> Tensor:
    """Return points of a few bells."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(4, d, generator=generator, dtype=torch.float64)
    which = torch.randint(0, 4, (n,), generator=generator)
    return centres[which] + 0.15 * torch.randn(n, d, generator=generator, dtype=torch.float64)


def weights(n: int, seed: int) -> Tensor:
    w = 0.1 + torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return w / w.sum()


def between(n: int, m: int, d: int, eps: float, cost: str = "sqeuclidean", **marginals: KL | TV) -> Problem:
    x, y = cloud(n, d, 1), cloud(m, d, 2)
    if cost == "sphere":
        x, y = (z / z.norm(dim=-1, keepdim=True) for z in (x - 0.5, y - 0.5))
    return Problem(weights(n, 3), weights(m, 4), Points(x, y, cost=cost), eps, **marginals)


def with_zeros(problem: Problem) -> Problem:
    """Take the mass of every third source atom."""
    a = problem.a.clone()
    a[::3] = 0
    return Problem(a / a.sum(), problem.b, problem.geometry, problem.eps)


def with_duplicates() -> Problem:
    x, y = cloud(250, 2, 1), cloud(750, 2, 2)
    return Problem(weights(750, 3), weights(750, 4), Points(x.repeat(3, 1), y), 2e-2)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "plane": lambda: between(600, 700, 2, 2e-2),
    "small eps": lambda: between(600, 700, 2, 3e-3),
    "space": lambda: between(600, 700, 3, 5e-2),
    "line": lambda: between(600, 700, 1, 5e-3),
    "five dimensions": lambda: between(600, 700, 5, 0.2),
    "one side is small": lambda: between(2400, 300, 2, 2e-2),
    "distances": lambda: between(600, 700, 2, 5e-2, "euclidean"),
    "atoms without mass": lambda: with_zeros(between(900, 700, 2, 2e-2)),
    "duplicates": with_duplicates,
    "KL": lambda: between(600, 700, 2, 2e-2, marginals=KL(0.3)),
    "TV": lambda: between(600, 700, 2, 5e-2, marginals=TV(0.2)),
    "an eps each": lambda: batch(between(600, 700, 2, 2e-2), torch.tensor([2e-2, 5e-3])),
    "clouds and an eps each": lambda: batch(between(600, 700, 2, 2e-2), torch.tensor([2e-2, 5e-2]), moved=True),
    "other atoms without mass in each": lambda: with_empty_places(batch(between(600, 700, 2, 2e-2), 2e-2)),
}


def batch(problem: Problem, eps: float | Tensor, *, moved: bool = False) -> Problem:
    """Return two problems with weights and eps of their own; if `moved`, with clouds of their own, too."""
    space = problem.geometry
    weights = [torch.stack((w, w.roll(7))) for w in (problem.a, problem.b)]
    if moved:
        space = Points(torch.stack((space.x, space.x.flip(0))), torch.stack((space.y, space.y.square())))
    return Problem(*weights, space, eps)


def with_empty_places(problem: Problem) -> Problem:
    """Take the mass of the source atoms on the left in the first instance, of some target atoms in the second."""
    a, b = problem.a.clone(), problem.b.clone()
    a[0, problem.geometry.x[:, 0] < 0.4] = 0
    b[1, ::3] = 0
    a, b = (w / w.sum(-1, keepdim=True) for w in (a, b))
    return Problem(a, b, problem.geometry, problem.eps)


@both_back_ends
@pytest.mark.usefixtures("small_clouds")
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_solution_is_that_from_zeros_in_fewer_steps(name):
    problem = PROBLEMS[name]()
    quick, slow = solve(problem, tol=1e-5), solve(problem, solver=Sinkhorn(), tol=1e-5)
    assert quick.converged.all()
    assert (quick.steps < slow.steps).all()
    assert_close(quick.value, slow.value, 1e-5)
    assert_close(quick.cost(), slow.cost(), 1e-4)
    if problem.is_balanced:
        assert (marginal_error(problem, quick.potentials) <= 1.01e-5).all()  # no block that was left out counts
        eps = torch.as_tensor(problem.eps)
        found, known = (centred(problem.a, s.potentials.f) for s in (quick, slow))
        off = torch.where(problem.a > 0, found - known, 0.0)
        assert (off.abs().amax(-1) <= 0.3 * eps).all()


@needs_both
@pytest.mark.usefixtures("small_clouds")
@pytest.mark.parametrize("name", PROBLEMS)
def test_compiled_code_and_torch_make_the_same_steps(name):
    problem = PROBLEMS[name]()
    compiled, torch_ = solve(problem, tol=1e-5), by_torch(problem, tol=1e-5)
    assert (compiled.steps - torch_.steps).abs().amax() <= 1
    assert_close(compiled.cost(), torch_.cost(), 1e-4)


@pytest.mark.usefixtures("small_clouds")
def test_torch_has_clusters_on_the_sphere():
    """Compiled code has a matrix of so few angles."""
    problem = between(600, 700, 3, 0.1, "sphere")
    quick, slow = by_torch(problem, tol=1e-5), solve(problem, solver=Sinkhorn(), tol=1e-5)
    assert quick.converged
    assert 2 * quick.steps <= slow.steps
    assert_close(quick.value, slow.value, 1e-5)


@pytest.mark.usefixtures("small_clouds")
@pytest.mark.parametrize("name", ["plane", "distances", "an eps each", "KL", "TV"])
def test_single_precision_takes_the_same_steps(name):
    double = PROBLEMS[name]()
    space = double.geometry.to(torch.zeros(1))
    a, b = (w.float() / w.float().sum(-1, keepdim=True) for w in (double.a, double.b))
    single = Problem(a, b, space, double.eps, double.marginals)
    found, known = solve(single, tol=1e-3), by_torch(double, tol=1e-3)
    assert found.converged.all()
    assert (found.steps - known.steps).abs().amax() <= 1
    assert_close(found.cost(), known.cost(), 1e-4)


@pytest.mark.usefixtures("small_clouds")
@pytest.mark.parametrize("name", ["other atoms without mass in each", "an eps each", "KL", "TV"])
@pytest.mark.parametrize("solver", [None, Sinkhorn()])
def test_torch_solves_clouds_without_a_matrix(monkeypatch, name, solver):
    problem = PROBLEMS[name]()
    known = by_torch(problem, tol=1e-5, solver=solver)
    monkeypatch.setattr(refine, "_MATRIX", 0)
    found = by_torch(problem, tol=1e-5, solver=solver)
    assert torch.equal(found.steps, known.steps)
    assert_close(found.potentials.f, known.potentials.f, 1e-8)


@pytest.mark.parametrize("n", [1, 2, 7, 64, 300, 1025])
def test_an_order_divides_in_two_along_the_widest_axis(n):
    """As recursion does, part by part; and all clouds of a batch at once."""

    def ordered(atoms: Tensor, z: Tensor) -> list[int]:
        if len(atoms) == 1:
            return atoms.tolist()
        unit = 1
        while 4 * unit <= len(atoms):
            unit *= 2
        half = (len(atoms) + unit) // (2 * unit) * unit
        extent = z[atoms].amax(0) - z[atoms].amin(0)
        atoms = atoms[z[atoms][:, extent.argmax()].argsort()]
        return ordered(atoms[:half], z) + ordered(atoms[half:], z)

    clouds = torch.rand(2, n, 3, generator=torch.Generator().manual_seed(n)) * torch.tensor([3.0, 1.0, 2.0])
    for z, order in zip(clouds, order_of(clouds), strict=True):
        assert order.tolist() == ordered(torch.arange(n), z)


def test_clusters_are_means_and_as_hot_as_they_are_wide():
    """Pairs of points 1 apart, with masses of 1 and 3, or without mass; of the target with equal masses."""
    places = 100 * torch.arange(128.0, dtype=torch.float64)
    x = places[:, None] + torch.tensor([0.0, 1.0], dtype=torch.float64)
    a = torch.tensor([1.0, 3.0, 0.0, 0.0], dtype=torch.float64).repeat(64) / 256
    b = torch.full((256,), 1 / 256, dtype=torch.float64)
    (coarse,) = Clusters(Problem(a, b, Points(x.reshape(-1, 1), x.reshape(-1, 1)), 1e-3).flat(), [(2,)]).problems
    assert_close(coarse.geometry.x[0, :, 0], places + torch.tensor([0.75, 0.5]).repeat(64))
    assert_close(coarse.geometry.y[0, :, 0], places + 0.5)
    assert_close(coarse.a[0], torch.tensor([4.0, 0.0]).repeat(64) / 256)
    assert_close(coarse.eps, WIDTH * torch.tensor([0.25]))


def test_the_middle_of_points_on_the_sphere_is_a_direction():
    x = torch.eye(3, dtype=torch.float64)
    middle = Points(x, x, "sphere").middle(torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64), x)
    assert_close(middle, torch.tensor([1.0, 1.0, 0.0]) / 2**0.5)
    assert_close(Points(x, x, "sphere").distances(x, middle), torch.tensor([0.25, 0.25, 0.5]) * torch.pi)


@needs_both
def test_blocks_that_are_left_out_do_not_count():
    """Of clouds too large for a matrix in a cache, whose blocks are compared in groups."""
    problem = between(2500, 2600, 2, 3e-3)
    solution = solve(problem, tol=1e-3)
    assert solution.converged
    assert marginal_error(problem, solution.potentials) <= 1.01e-3


@needs_both
def test_steps_hardly_depend_on_the_number_of_atoms():
    steps = [solve(between(n, n, 2, 2e-2), tol=1e-4).steps.item() for n in (2100, 8400)]
    assert steps[1] <= steps[0] + 1


@both_back_ends
@pytest.mark.usefixtures("small_clouds")
def test_starts_that_are_better_are_kept():
    problem = between(600, 700, 2, 2e-2)
    exact = solve(problem, tol=1e-9).potentials
    assert solve(problem, init=exact, tol=1e-7).steps == 0
    for bad in (torch.nan, 1e9):
        far = solve(problem, init=DualPotentials(exact.f * bad, exact.g), tol=1e-4)
        assert far.converged


@both_back_ends
@pytest.mark.usefixtures("small_clouds")
def test_threads_and_batches_change_nothing():
    problem = between(600, 700, 2, 2e-2)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(solve(problem, tol=1e-5).potentials.f)
    finally:
        torch.set_num_threads(before)
    space = problem.geometry
    points = Points(torch.stack((space.x, space.x + 1)), torch.stack((space.y, space.y + 1)))
    a, b = problem.a.expand(2, -1), problem.b.expand(2, -1)
    together = solve(Problem(a, b, points, problem.eps), tol=1e-5).potentials.f
    for f in (found[1], *together):
        assert_close(f, found[0], 1e-9)


def test_clusters_are_a_fourth_as_many_down_to_some_hundred():
    assert method.clusters([(1000, 1000)], 2) == ()
    assert method.clusters([(10**5, 10**5)], 0) == ()
    assert method.clusters([(10**4, 10**4)], 2) == [(4,), (16,), (64,)]
    assert len(method.clusters([(10**9, 10**9)], 2)) <= method.MOST_LEVELS


@pytest.mark.parametrize(
    ("n", "d", "spacings", "tol"),
    [
        (2500, 2, 2, 1e-3),
        (2500, 2, 3, 1e-6),
        (2500, 3, 2, 1e-3),
        pytest.param(6000, 2, 2, 1e-2, marks=pytest.mark.slow),
    ],
)
def test_where_mass_moves_far_beside_the_spacing(n, d, spacings, tol):
    """Potentials then change by hundreds of eps between neighbouring blocks; the error is that of all digits."""
    x, y = (
        torch.rand(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
        1 + cloud(n, d, 2) / 4,
    )
    problem = Problem(weights(n, 3), weights(n, 4), Points(x, y), (spacings * n ** (-1 / d)) ** 2)
    solution = solve(problem, tol=tol)
    assert bool(solution.converged)
    C = (x[:, None] - y).square().sum(-1)
    P = (
        problem.a.log()[:, None]
        + problem.b.log()
        + (solution.potentials.f[:, None] + solution.potentials.g - C) / problem.eps
    ).exp()
    error = (P.sum(1) - problem.a).abs().sum() + (P.sum(0) - problem.b).abs().sum()
    assert_close(solution.error, error, rtol=1e-4, atol=1e-10)
