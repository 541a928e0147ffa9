"""Gromov-Wasserstein: rigid copies, Gaussians, the definition, features, and what is refused."""

import itertools

import ot
import pytest
import torch
from strategies import assert_close

from metaot import Dense, Points
from metaot.core import Status
from metaot.maps import gromov_wasserstein
from metaot.maps.descent import Descent
from metaot.maps.distortion import CloudDistortion, MatrixDistortion
from metaot.maps.spaces import Spaces

KINDS = ["sqeuclidean", "dot", "euclidean"]


def clouds(n: int, m: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([1.0, 0.7, 0.4])
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64) * lengths
    return x, torch.randn(m, 3, generator=generator, dtype=torch.float64) * lengths.flip(0)


def rigid_copy(x: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a rotated, shifted and permuted cloud, and where each point is in it."""
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=x.dtype))[0]
    order = torch.randperm(len(x), generator=generator)
    return (x @ rotation + torch.tensor([1.0, -2.0, 3.0]))[order], order.argsort()


def by_definition(D: torch.Tensor, E: torch.Tensor, P: torch.Tensor) -> torch.Tensor:
    differences = (D[:, None, :, None] - E[None, :, None, :]).square()
    return torch.einsum("ijkl,ij,kl->", differences, P, P)


@pytest.mark.parametrize("cost", KINDS)
def test_a_rigid_copy_has_value_zero_and_the_right_permutation(cost):
    x = clouds(40, 1)[0]
    y, places = rigid_copy(x)
    if cost == "dot":
        y = y - y.mean(0)
        x = x - x.mean(0)
    found = gromov_wasserstein(Points(x, cost=cost), Points(y, cost=cost))
    assert found.assignment is not None
    assert found.assignment.equal(places)
    assert_close(found.value, torch.tensor(0.0), 1e-10)
    assert found.converged
    assert found.status == Status.CONVERGED
    assert_close(found.transport(y), y[places])


@pytest.mark.parametrize("cost", KINDS)
@pytest.mark.parametrize("eps", [0.0, 0.5])
def test_the_value_is_that_of_the_plan_by_definition(cost, eps):
    x, y = clouds(9, 7)
    found = gromov_wasserstein(Points(x, cost=cost), Points(y, cost=cost), eps=eps)
    D, E = (Points(z, cost=cost).cost_rows(slice(None)) for z in (x, y))
    P = found.plan()
    assert_close(P.sum(0), torch.full((7,), 1 / 7), 1e-5)
    assert_close(P.sum(1), torch.full((9,), 1 / 9), 1e-5)
    assert_close(found.value, by_definition(D, E, P), 1e-5)


def test_clouds_and_their_matrices_agree():
    x, y = clouds(30, 30)
    by_moments = gromov_wasserstein(x, y)
    matrices = [Dense(torch.cdist(z, z).square()) for z in (x, y)]
    by_matrices = gromov_wasserstein(*matrices, starts=0, init=by_moments)
    assert_close(by_moments.value, by_matrices.value, 1e-9)
    assert by_moments.assignment is not None
    assert by_moments.assignment.equal(by_matrices.assignment)


def test_gaussians_have_the_plan_of_the_closed_form():
    """For inner products: aligned axes, of lengths in order (arXiv 2108.10961, theorem 4.1)."""
    points = torch.tensor(list(itertools.product([-1.5, -0.5, 0.5, 1.5], repeat=2)), dtype=torch.float64)
    x, y = points * torch.tensor([2.0, 1.0]), points.flip(-1) * torch.tensor([0.6, 1.5])
    found = gromov_wasserstein(Points(x, cost="dot"), Points(y, cost="dot"))
    A, B = (torch.linalg.eigvalsh(z.mT @ z / len(z)) for z in (x, y))
    assert_close(found.value, (A - B).square().sum(), 1e-9)


def test_large_gaussian_samples_come_near_the_closed_form():
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(300, d, generator=generator, dtype=torch.float64) for d in (3, 2))
    x, y = x * torch.tensor([2.0, 1.0, 0.5]), y * torch.tensor([0.7, 1.5])
    x, y = x - x.mean(0), y - y.mean(0)
    A, B = (torch.linalg.eigvalsh(z.mT @ z / len(z)).flip(0) for z in (x, y))
    exact = (A[:2] - B).square().sum() + A[2:].square().sum()
    found = gromov_wasserstein(Points(x, cost="dot"), Points(y, cost="dot"))
    assert exact <= found.value + 1e-9
    assert found.value <= 1.1 * exact


@pytest.mark.parametrize("symmetric", ["distances", "any"])
def test_no_step_between_matrices_raises_what_is_minimised(symmetric):
    """Neither does one where the distortion is not concave, and only a part of the way may be gone."""
    generator = torch.Generator().manual_seed(2)
    D, E = (torch.rand(n, n, generator=generator, dtype=torch.float64) for n in (12, 15))
    if symmetric == "distances":
        D, E = (torch.cdist(*2 * [torch.randn(n, 2, generator=generator, dtype=torch.float64)]) for n in (12, 15))
    D, E = D + D.mT, E + E.mT
    a, b = torch.full((12,), 1 / 12), torch.full((15,), 1 / 15)
    descent = Descent(MatrixDistortion.of(a, b, D, E), torch.rand(1, 12, 15, generator=generator))
    values = []
    for _ in range(8):
        descent.moments = descent.step(0.05, 1e-9)
        assert descent.moments.rest is not None
        values.append(float(descent.moments.value + 0.05 * descent.moments.rest[:, 2]))
    assert all(after <= before + 1e-7 for before, after in itertools.pairwise(values))


def test_what_starts_are_compared_by_bounds_what_is_minimised():
    x, y = clouds(20, 20)
    spaces = Spaces.of((x, y), (None, None), None, None)
    distortion = spaces.distortion
    assert isinstance(distortion, CloudDistortion)
    eps = 0.1 * spaces.scale
    descent = Descent(distortion, spaces.starts(4, torch.Generator()))
    bounds = []
    for _ in range(12):
        before = descent.moments
        descent.moments = descent.step(eps, 1e-9)
        bounds.append(distortion.bound(before.M, descent.solution))
    assert all(bool((after <= before + 1e-7).all()) for before, after in itertools.pairwise(bounds))
    P = descent.solution.plan()
    entropy = eps * (P * (P * 400).log()).sum((-2, -1))
    assert bool((descent.moments.value + entropy <= bounds[-1] + 1e-6).all())


@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean"])
def test_potentials_of_a_permutation_prove_that_it_is_optimal_for_its_slope(cost):
    x, y = clouds(30, 30)
    spaces = Spaces.of((Points(x, cost=cost), Points(y, cost=cost)), (None, None), None, None)
    found = gromov_wasserstein(spaces.source, spaces.target)
    assert found.assignment is not None
    slack = spaces.distortion.slope(spaces.distortion.of_permutation(found.assignment).M[0])
    slack = slack - found.potentials.f[:, None] - found.potentials.g
    assert float(slack.min()) >= -1e-9
    assert_close(slack[torch.arange(30), found.assignment], torch.zeros(30), 1e-9)


@pytest.mark.parity
def test_entropic_plans_are_those_of_pot():
    x, y = clouds(15, 12)
    D, E = (torch.cdist(z, z).square() for z in (x, y))
    eps = 0.1 * float(Points(x).std_cost() * Points(y).std_cost())
    found = gromov_wasserstein(x, y, eps=eps)
    G = ot.gromov.entropic_gromov_wasserstein(D, E, epsilon=eps, G0=found.plan(), max_iter=1, tol=1e-12)
    assert_close(found.plan(), G, 1e-5)
    assert found.error <= 1e-6


def test_the_distortion_is_no_larger_than_that_of_pot():
    for seed in range(3):
        x, y = clouds(40, 40, seed)
        D, E = (torch.cdist(z, z).square() for z in (x, y))
        other = ot.gromov.gromov_wasserstein2(D, E)
        assert float(gromov_wasserstein(x, y).value) <= 1.001 * float(other)


def test_features_decide_where_structure_cannot():
    """Of a square, all symmetries have value zero; features that name the corners leave one."""
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    names = torch.tensor([[0.0], [1.0], [2.0], [3.0]], dtype=torch.float64)
    order = torch.tensor([2, 3, 0, 1])
    features = Points(names, names[order])
    for given in (features, features.cost_rows(slice(None))):
        found = gromov_wasserstein(corners, corners[order], features=given, alpha=0.7)
        assert found.assignment is not None
        assert found.assignment.equal(order.argsort())
        assert_close(found.value, torch.tensor(0.0), 1e-9)


def test_features_have_their_share_of_the_value():
    x, y = clouds(12, 12)
    F = torch.rand(12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = gromov_wasserstein(x, y, features=F, alpha=0.3)
    D, E = (torch.cdist(z, z).square() for z in (x, y))
    P = found.plan()
    assert_close(found.value, 0.3 * by_definition(D, E, P) + 0.7 * (F * P).sum(), 1e-9)


def test_starts_and_the_plan_of_the_user_are_all_reported():
    x = clouds(30, 1)[0]
    y, places = rigid_copy(x)
    truth = torch.zeros(30, 30, dtype=torch.float64)
    truth[torch.arange(30), places] = 1 / 30
    found = gromov_wasserstein(x, y, starts=0, init=truth)
    assert found.values.shape == (1,)
    assert found.assignment is not None
    assert found.assignment.equal(places)
    again = gromov_wasserstein(x, y, starts=10, init=found, generator=torch.Generator().manual_seed(3))
    assert again.values.shape == (11,)
    assert_close(again.values[-1], torch.tensor(0.0), 1e-10)
    assert again.value <= again.values.min() + 1e-12


def test_weights_of_zero_take_no_part():
    x, y = clouds(20, 15)
    a = torch.ones(20, dtype=torch.float64)
    a[12:] = 0
    found = gromov_wasserstein(x, y, a, eps=1.0)
    alone = gromov_wasserstein(x[:12], y, eps=1.0)
    assert_close(found.value, alone.value, 1e-4)
    assert_close(found.plan()[:12], alone.plan(), 1e-4)


def test_many_atoms_are_compared_by_some_of_them():
    x = clouds(530, 1)[0]
    y, places = rigid_copy(x)
    found = gromov_wasserstein(x, y)
    assert found.assignment is not None
    assert found.assignment.equal(places)


def test_float32_stays_float32():
    x = clouds(30, 1)[0]
    y, places = rigid_copy(x)
    found = gromov_wasserstein(x.float(), y.float())
    assert found.value.dtype == torch.float32
    assert found.plan().dtype == torch.float32
    assert found.assignment is not None
    assert found.assignment.equal(places)


def test_what_does_not_fit_is_refused():
    x, y = clouds(6, 6)
    cases = [
        (lambda: gromov_wasserstein(x[0], y), "x must be a cloud n d"),
        (lambda: gromov_wasserstein(Points(x, y), y), "two different clouds"),
        (lambda: gromov_wasserstein(Dense(torch.rand(5, 6)), y), "x must be a cloud n d"),
        (
            lambda: gromov_wasserstein(Dense(torch.arange(36.0).reshape(6, 6)), y),
            r"x\[0, 1\] = 1 and x\[1, 0\] = 6",
        ),
        (lambda: gromov_wasserstein(x, y, eps=-1.0), "eps must be zero"),
        (lambda: gromov_wasserstein(x, y, starts=0), "starts must be at least one"),
        (lambda: gromov_wasserstein(x, y, alpha=0.5), "without features"),
        (lambda: gromov_wasserstein(x, y, features=torch.rand(6, 6), alpha=0.0), r"in \(0, 1\], got 0.0"),
        (lambda: gromov_wasserstein(x, y, features=torch.rand(5, 6)), "6 x 6, got Dense"),
        (lambda: gromov_wasserstein(x, y, init=torch.rand(5, 6)), r"shape \(6, 6\), got \(5, 6\)"),
        (lambda: gromov_wasserstein(x, y, init=-torch.rand(6, 6)), "no entry below zero"),
        (lambda: gromov_wasserstein(x, y, a=torch.ones(5)), r"a must have the shape"),
        (lambda: gromov_wasserstein(x, y, a=torch.ones(2, 6)), "one number for each atom"),
        (lambda: gromov_wasserstein(x, y).transport(torch.ones(5, 2)), r"shape \(6, k\), got \(5, 2\)"),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(TypeError, match="x must be a cloud"):
        gromov_wasserstein("x", y)


def test_the_best_of_all_starts_is_returned():
    """A line that is laid on itself from its other end is a local minimum, if it is a little uneven."""
    t = torch.linspace(-1, 1, 12)
    x = (t + 0.05 * t**2)[:, None]
    found = gromov_wasserstein(x, x, starts=4, init=torch.eye(12).flip(0) / 12)
    assert_close(found.value, found.values.min(), 1e-12)
    assert found.value < found.values[-1] - 1e-4
