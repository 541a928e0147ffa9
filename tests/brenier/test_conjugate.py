"""The conjugate: brute force, Fenchel-Young, closed forms."""

import pytest
import torch
from clouds import SMOOTH, clouds, random_potential
from strategies import assert_close, unchecked

from metaot.amortize.maps import BuresStart
from metaot.brenier import BrenierPair, Icnn, conjugate
from metaot.brenier.conjugate import solve_positive


@pytest.mark.parametrize("activation", SMOOTH)
def test_equal_to_brute_force_in_two_dimensions(activation: str) -> None:
    problem = clouds(n=30, dim=2)
    phi = random_potential(problem, Icnn(2, (16, 8), activation))
    y = phi.gradient(problem.x)
    axis = torch.linspace(-1, 1, 301)
    around = torch.cartesian_prod(axis, axis) * problem.x.std() + problem.x.mean(0)
    brute = (y @ around.mT - phi(around)[None]).amax(-1)
    exact = conjugate(phi, y)
    assert bool(exact.converged.all())
    assert (exact.value >= brute - 1e-9).all()
    inside = (problem.x - problem.x.mean(0)).abs().amax(-1) < 0.9 * problem.x.std()
    assert inside.any()
    assert_close(exact.value[inside], brute[inside], atol=2e-2)


@pytest.mark.parametrize("activation", SMOOTH)
@pytest.mark.parametrize("dim", [1, 3, 10])
def test_the_maximiser_inverts_the_gradient(activation: str, dim: int) -> None:
    problem = clouds(3, dim=dim)
    phi = random_potential(problem, Icnn(dim, (16, 8), activation))
    y = phi.gradient(problem.x)
    result = conjugate(phi, y)
    assert bool(result.converged.all())
    assert result.steps < 40
    assert_close(phi.gradient(result.x), y, atol=1e-4)
    assert_close(result.value, (problem.x * y).sum(-1) - phi(problem.x), atol=1e-6)


def test_fenchel_young_and_a_warm_start() -> None:
    problem = clouds(3)
    phi = random_potential(problem)
    result = conjugate(phi, problem.y, tol=1e-9)
    bound = (problem.x[:, :, None] * problem.y[:, None]).sum(-1) - phi(problem.x)[:, :, None]
    assert (bound <= result.value[:, None] + 1e-9).all()
    assert conjugate(phi, problem.y, result.x, tol=1e-9).steps == 0
    near = result.x + 1e-3 * torch.randn_like(result.x)
    assert 0 < conjugate(phi, problem.y, near, tol=1e-9).steps < result.steps


def test_the_bures_potential_has_a_closed_conjugate() -> None:
    problem = clouds(3)
    pair = BuresStart().predict(problem)
    phi, psi = pair.phi, pair.psi
    assert_close(pair.pull(pair.push(problem.x)), problem.x, atol=1e-6)
    result = conjugate(phi, problem.y, tol=1e-8)
    assert result.steps <= 1
    assert_close(result.x, psi.gradient(problem.y), atol=1e-6)
    constant = (phi.frame.m * phi.frame.n).sum(-1, keepdim=True)  # both potentials are made without one
    assert_close(result.value + constant, psi(problem.y), atol=1e-6)


def test_leaky_networks_do_not_converge_where_the_map_jumps() -> None:
    problem = clouds(n=200)
    phi = random_potential(problem, Icnn(3, (16,), "leaky_relu"))
    reached = conjugate(phi, phi.gradient(problem.x), max_steps=60)
    assert reached.converged.double().mean() > 0.5
    assert (reached.value >= (problem.x * phi.gradient(problem.x)).sum(-1) - phi(problem.x) - 1e-3).all()
    assert bool(((reached.error > 1e-5) == ~reached.converged).all())


def test_steps_that_do_not_suffice_are_reported() -> None:
    problem = clouds(3)
    result = conjugate(random_potential(problem), 5 * problem.y, max_steps=1)
    assert result.steps == 1
    assert not bool(result.converged.all())
    with pytest.raises(ValueError, match="tol must be positive"):
        conjugate(random_potential(problem), problem.y, tol=0.0)
    with unchecked(), pytest.raises(ValueError, match="start has the shape"):
        conjugate(random_potential(problem), problem.y, problem.y[:, :3])


@pytest.mark.parametrize("d", [1, 2, 3, 8, 9])
def test_small_systems(d: int) -> None:
    root = torch.randn(5, 4, d, d)
    H, r = root @ root.mT + 0.1 * torch.eye(d), torch.randn(5, 4, d)
    assert_close(solve_positive(H, r), torch.linalg.solve(H, r[..., None])[..., 0], rtol=1e-8)


def test_a_pair_is_taken_apart_and_exchanged() -> None:
    problem = clouds(3)
    pair = BrenierPair(random_potential(problem), random_potential(problem.T, seed=1))
    assert_close(pair[1].push(problem.x[1]), pair.push(problem.x)[1])
    assert_close(pair.T.push(problem.y), pair.pull(problem.y))
    assert pair.to(torch.zeros((), dtype=torch.float32)).push(problem.x.float()).dtype == torch.float32
