"""Potentials of populations: exact where a population is Gaussian or its particles are seen again and again."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from strategies import assert_close
from torch import nn

from metaot.inverse import L1, GaussianSnapshots, Monomials, Nuclear, Products, Radial, learn_potential
from metaot.inverse.matching import at_new
from metaot.inverse.sharpened import Sharpened
from metaot.inverse.snapshots import Transport
from metaot.inverse.terms import Terms

TAU = 0.1
THETA = torch.tensor([[1.0, 0.3, 0.0], [0.3, 0.5, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
EYE = torch.eye(3, dtype=torch.float64)
JKO = torch.linalg.inv(EYE + 2 * TAU * THETA)
FLOW = torch.linalg.matrix_exp(-2 * TAU * THETA)


def gaussians(step: torch.Tensor) -> GaussianSnapshots:
    maps = [torch.linalg.matrix_power(step, k) for k in range(6)]
    return GaussianSnapshots(torch.stack([2 * A.sum(1) for A in maps]), torch.stack([A @ A.mT / 2 for A in maps]))


def clouds(step: torch.Tensor = JKO, n: int = 60, times: int = 4) -> list[torch.Tensor]:
    x = torch.randn(n, 3) + 2
    return [(x @ torch.linalg.matrix_power(step, k).mT)[torch.randperm(n)] for k in range(times)]


def descended(gradient, n: int = 120, tau: float = 0.02) -> list[torch.Tensor]:
    """Return particles that descend, in random order."""
    found = [2 * torch.rand(n, 2) - 1]
    for _ in range(3):
        found.append(found[-1] - tau * gradient(found[-1]))
    return [x[torch.randperm(n)] for x in found]


@pytest.mark.parametrize("sharpen", [None, math.inf])
def test_of_gaussians_each_scheme_is_exact_for_its_steps(sharpen):
    for scheme, step in (("jko", JKO), ("flow", FLOW)):
        found = learn_potential(gaussians(step), tau=TAU, scheme=scheme, sharpen=sharpen)
        assert_close(found.theta, THETA, 1e-12)
        assert found.converged
        assert abs(float(found.loss)) < 1e-12
    linearised = learn_potential(gaussians(FLOW), tau=TAU, sharpen=sharpen).theta
    assert 0.05 < float((linearised - THETA).norm() / THETA.norm()) < 0.2
    if sharpen is None:
        middle = learn_potential(gaussians(FLOW), tau=TAU, scheme="trapezoid").theta
        assert float((middle - THETA).norm() / THETA.norm()) < 0.01


@pytest.mark.parametrize("scheme", ["jko", "explicit", "trapezoid"])
def test_particles_that_move_linearly_are_their_moments(scheme):
    seen = clouds()
    exact = learn_potential(GaussianSnapshots.of(seen), tau=TAU, scheme=scheme)
    found = learn_potential(seen, tau=[TAU] * 3, scheme=scheme)
    assert_close(found.theta, exact.theta, 1e-9)
    assert_close(found.model.constant, exact.model.constant, 1e-9)
    general = learn_potential(
        seen, tau=TAU, scheme=scheme, features=lambda x: Products(3)(x)[:, [0, 1, 2, 4, 5, 8]]
    )
    assert_close(general.theta, (exact.theta + exact.theta.triu(1))[*torch.triu_indices(3, 3)], 1e-9)


def test_particles_that_are_seen_again_tell_a_potential_exactly():
    seen = descended(lambda x: 4 * x**3 - 2 * x)
    found = learn_potential(seen, tau=0.02, scheme="explicit", features=[Monomials(2, 4), lambda x: x.sin()])
    at = torch.rand(5, 2)
    assert_close(found.drift(at), 2 * at - 4 * at**3, 1e-7)
    assert_close(found.potential(at) - found.potential(-at + 0 * at), torch.zeros(5), 1e-6)
    for move in found.moves:
        assert sorted(move.old.tolist()) == sorted(move.x.tolist())
        assert_close(move.old - move.new, 0.02 * (4 * move.old**3 - 2 * move.old), 1e-12)


def test_an_interaction_is_learned_beside_a_potential():
    def gradient(x):
        z = x[:, None] - x
        return 2 * x * torch.tensor([1.0, -0.5]) + 2 * (4 * z * z.square().sum(-1, keepdim=True)).mean(1)

    found = learn_potential(
        descended(gradient), tau=0.02, scheme="explicit", features=lambda x: x**2,
        interaction=[lambda z: z.square().sum(1) ** 2],
    )  # fmt: skip
    assert_close(found.theta, torch.tensor([1.0, -0.5]), 1e-8)
    assert_close(found.interaction_theta, torch.tensor([2.0]), 1e-8)
    assert_close(found.drift(found.moves[0].x, found.moves[0].x), -gradient(found.moves[0].x), 1e-7)
    assert_close(found.interaction([[1.0, 1.0]]), torch.tensor([8.0]), 1e-7)


def test_the_sharpened_loss_has_its_derivatives_and_its_limit():
    seen = clouds(n=25, times=2)
    limit = learn_potential(seen, tau=TAU, eps=0.3, sharpen=math.inf, unbiased=False, tol=1e-10)
    values, theta, h = at_new(limit.energy, limit.moves), 0.1 * torch.randn(9), 1e-4
    loss = Sharpened(values, 0.3, 5.0, None, (9,), 10_000)

    def slope(at):
        model, _ = loss._model(at, ())
        return model.H @ at - model.h

    model, _ = loss._model(theta, ())
    way = (EYE + EYE.roll(1, 0) + EYE.roll(-1, 0)).flatten()
    ahead, behind = (loss._model(theta + sign * h * way, ())[0] for sign in (1, -1))
    numeric = (ahead.value(theta + h * way) - behind.value(theta - h * way)) / (2 * h)
    assert_close(numeric, slope(theta) @ way, 1e-6)
    assert_close((slope(theta + h * way) - slope(theta - h * way)) / (2 * h), model.H @ way, 1e-6)
    off = [learn_potential(seen, tau=TAU, eps=0.3, sharpen=r).theta - limit.theta for r in (300.0, 3000.0)]
    assert float(off[1].norm()) < 0.3 * float(off[0].norm())
    penalised = learn_potential(seen, tau=TAU, eps=0.3, sharpen=20.0, penalty=L1(0.05))
    assert penalised.converged
    assert int((penalised.theta == 0).sum()) > 0


@pytest.mark.parametrize("at_new", [True, False])
def test_a_step_is_a_good_start_for_the_next_one(at_new):
    seen, transport = clouds(n=100), Transport(0.3, at_new, tol=1e-3)
    warm = transport.moves(seen, [TAU] * 3)
    cold = [transport.moves(pair, [TAU])[0] for pair in pairwise(seen)]
    assert sum(int(m.solutions[0].steps) for m in warm[1:]) < 0.7 * sum(
        int(m.solutions[0].steps) for m in cold[1:]
    )
    for one, other in zip(warm, cold, strict=True):
        assert float((one.force - other.force).norm() / other.force.norm()) < 1e-2
    still = transport.moves([seen[0], seen[0][torch.randperm(100)]], [TAU])[0]
    assert float(still.force.abs().max()) < 0.1


def test_penalties_find_the_support_and_the_rank():
    for sharpen in (None, math.inf):
        found = learn_potential(gaussians(FLOW), tau=TAU, scheme="flow", sharpen=sharpen, penalty=L1(1e-3))
        assert torch.equal(found.theta != 0, THETA != 0)
        assert found.converged
        slope = found.model.H @ found.theta.flatten() - found.model.h
        on = found.theta.flatten() != 0
        assert_close(slope[on], -1e-3 * found.theta.flatten()[on].sign(), 1e-9)
        assert float(slope[~on].abs().max()) <= 1e-3
        assert found.certificate_at(THETA).certified
        assert found.certificate.certified
    u = torch.tensor([1.0, 1.0, 0.0]) / math.sqrt(2)
    snapshots = gaussians(torch.linalg.matrix_exp(-2 * TAU * torch.outer(u, u)))
    rank = learn_potential(snapshots, tau=TAU, scheme="flow", penalty=Nuclear(1e-2))
    assert torch.linalg.svdvals(rank.theta)[1] < 1e-8
    assert_close(rank.theta, torch.outer(u, u), 1e-2)


def test_a_network_learns_a_gradient():
    network = nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, 1)).double()
    before = network[0].weight.clone()
    seen = descended(lambda x: 2 * x)
    found = learn_potential(seen, tau=0.02, scheme="explicit", network=network, network_steps=150)
    at = seen[0]
    assert float((found.drift(at) + 2 * at).norm() / (2 * at).norm()) < 0.3
    assert torch.equal(network[0].weight, before)


def test_a_ridge_is_chosen_by_steps_that_are_left_out():
    features = [Radial.on([[-1.0, -1.0], [1.0, 1.0]], 6)]
    exact = descended(lambda x: 2 * x)
    noisy = [x + 0.02 * torch.randn_like(x) for x in exact]
    at = torch.rand(50, 2) - 0.5
    off = {}
    for ridge in (0.0, None):
        found = learn_potential(noisy, tau=0.02, scheme="explicit", features=features, ridge=ridge)
        off[ridge] = float((found.drift(at) + 2 * at).norm())
    assert off[None] < 0.7 * off[0.0]
    assert learn_potential(exact, tau=0.02, scheme="explicit", features=features, ridge=None).ridge < 1e-6


@pytest.mark.parametrize("basis", [Products(3), Monomials(3, 3), Radial([[0.0, 1.0, 0.5], [1.0, 0.0, 0.0]], 0.7)])
def test_a_basis_knows_its_gradients(basis):
    x = torch.randn(4, 3)
    assert_close(basis.slopes(x), Terms((partial(basis),), "features").slopes(x), 1e-12)


def test_clouds_of_different_sizes_are_matched():
    seen = clouds(n=60)
    found = learn_potential([seen[0], seen[1][:50], seen[2]], tau=TAU)
    assert [len(move.old) for move in found.moves] == [60, 60]
    assert float((found.moves[1].old - found.moves[1].x.mean(0)).mean().abs()) < 0.5


SEEN = [[[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]]] * 2


@pytest.mark.parametrize(
    ("snapshots", "settings", "words"),
    [
        (SEEN[:1], {}, "two or more clouds"),
        ("clouds", {}, "two or more clouds"),
        ([[[0.0, 1.0]], [[1.0, 2.0, 3.0]]], {}, r"snapshots\[1\] must have the shape \(points, 2\), got \(1, 3\)"),
        ([[0.0, 1.0], [1.0, 2.0]], {}, r"snapshots\[0\]\[:, None\]"),
        ([SEEN[0], [[0.0, math.nan]]], {}, r"snapshots\[1\]\[0, 1\] = nan"),
        (SEEN, {"tau": 0.0}, "tau must be positive"),
        (SEEN, {"tau": [0.1, 0.1]}, "one for each of 1 steps, got 2"),
        (SEEN, {"eps": -1.0}, "eps must be positive"),
        (SEEN, {"features": [lambda x: x[:, 0], lambda x: 3 + 0 * x[:, 0]]}, r"features\[1\] is constant"),
        (
            SEEN,
            {"features": lambda x: torch.stack([x[:, 0], x[:, 0] ** 0], 1)},
            r"features\(x\)\[:, 1\] is constant",
        ),
        (SEEN, {"features": lambda x: x.log().sum(1)}, "infinite or NaN"),
        (SEEN, {"features": lambda x: x[:1]}, "for each of"),
        (SEEN, {"features": []}, "at least one function"),
        (SEEN, {"features": Monomials(2, 4)}, "6 numbers, fewer than 14 unknowns"),
        (SEEN, {"features": Monomials(2, 1), "network": nn.Linear(2, 1)}, "leave out one"),
        (SEEN, {"scheme": "euler"}, "scheme must be one of"),
        (SEEN, {"scheme": "flow"}, "GaussianSnapshots"),
        (SEEN, {"sharpen": -1.0}, "sharpen must be positive"),
        (SEEN, {"sharpen": 5.0}, "name eps"),
        (SEEN, {"sharpen": 5.0, "eps": 1.0}, r"above eps/\(2 tau\), here 5"),
        (SEEN, {"sharpen": math.inf, "scheme": "explicit"}, 'scheme="jko"'),
        (SEEN, {"features": Monomials(2, 1), "penalty": Nuclear(1.0)}, "leave out features"),
        (SEEN, {"ridge": None, "penalty": L1(1.0)}, "got both"),
        (GaussianSnapshots([[0.0], [1.0]], [[[1.0]], [[1.0]]]), {"eps": 1.0}, "eps is for samples"),
    ],
)
def test_what_is_refused(snapshots, settings, words):
    with pytest.raises(ValueError, match=words):
        learn_potential(snapshots, **{"tau": 0.1, **settings})


def test_what_is_no_setting():
    for settings in ({"features": 3}, {"penalty": 0.1}, {"network": "mlp"}):
        with pytest.raises(TypeError, match="must be"):
            learn_potential(SEEN, tau=0.1, **settings)
    with pytest.raises(ValueError, match=r"covariances\[1\] must be symmetric"):
        GaussianSnapshots.of([torch.randn(9, 2), torch.ones(9, 2)])
