"""The dual of continuous transport: closed forms, weak duality, and the gradients that training follows."""

from collections.abc import Sequence

import pytest
import torch
from clouds import clouds, random_potential, random_weights
from strategies import assert_close

from metaot.brenier import BrenierPair, BrenierPotential, Frame, Icnn, SampleProblem, conjugate
from metaot.objectives import brenier_loss, brenier_value, w2gn_loss


def framed_pair(icnn: Icnn, weights: Sequence[torch.Tensor], frame: Frame) -> BrenierPair:
    return BrenierPair(BrenierPotential(icnn, weights[0], frame), BrenierPotential(icnn, weights[1], frame.T))


def flat_pair(problem: SampleProblem, kind=Frame.gaussian) -> BrenierPair:
    """The frame's linear map and its inverse: ICNNs without ridges."""
    icnn, frame = Icnn(problem.dim, (4,)), kind(problem)
    weights = icnn.quadratic().double().expand((*problem.batch_shape, -1))
    return framed_pair(icnn, (weights, weights), frame)


def exact_on_a_line(problem: SampleProblem) -> torch.Tensor:
    x, y = (z[..., 0].sort(-1).values for z in (problem.x, problem.y))
    return 0.5 * (x - y).square().mean(-1)


def test_the_identity_has_the_value_zero() -> None:
    problem = clouds(3)
    assert_close(brenier_value(problem, flat_pair(problem, Frame.identity)), 0.0, atol=1e-7)


def test_the_bures_map_has_the_value_between_gaussians() -> None:
    problem = clouds(3, n=200)
    (m, A), (n, B) = (
        (z.mean(-2), torch.stack([c.mT.cov(correction=0) for c in z])) for z in (problem.x, problem.y)
    )
    values, vectors = torch.linalg.eigh(A)
    half = vectors @ torch.diag_embed(values.sqrt()) @ vectors.mT
    cross = torch.linalg.eigvalsh(half @ B @ half).sqrt().sum(-1)
    trace = (A + B).diagonal(dim1=-2, dim2=-1).sum(-1)
    expected = 0.5 * ((m - n).square().sum(-1) + trace - 2 * cross)
    assert_close(brenier_value(problem, flat_pair(problem)), expected, rtol=1e-3)


def test_no_potential_has_more_than_the_distance() -> None:
    problem = clouds(5, dim=1)
    exact = exact_on_a_line(problem)
    for seed in range(5):
        pair = BrenierPair(random_potential(problem, seed=seed), random_potential(problem.T))
        assert (brenier_value(problem, pair) <= exact + 1e-9).all()
    assert (brenier_value(problem, flat_pair(problem)) > 0.5 * exact).all()


def test_the_loss_is_bounded_by_the_distance_however_wild_the_networks() -> None:
    problem = clouds(5, dim=1)
    constant = 0.5 * (problem.x.square().mean(1) + problem.y.square().mean(1))[:, 0]
    frame = Frame.gaussian(problem)
    lowest = 2 * (constant - exact_on_a_line(problem) - (frame.m * frame.n).sum(-1)) / frame.scale
    icnn = Icnn(1, (8, 8))
    for strength in (0.1, 1.0, 10.0, 100.0):
        weights = random_weights(icnn, 5, strength=strength)
        pair = framed_pair(icnn, (weights, weights), frame)
        assert (brenier_loss(problem, pair) >= lowest - 1e-6).all()


def test_the_loss_has_the_value_and_the_gradient_of_both_duals() -> None:
    """Where samples are dense: a Newton step from the best one arrives."""
    problem = clouds(2, n=1500, dim=2)
    icnn = Icnn(2, (8,))
    frame = Frame.gaussian(problem)
    weights = [random_weights(icnn, 2, seed=seed, strength=0.5).requires_grad_() for seed in (0, 1)]
    pair = framed_pair(icnn, weights, frame)
    loss = brenier_loss(problem, pair)
    constant = (problem.x.square().sum(-1).mean(-1) + problem.y.square().sum(-1).mean(-1)) / frame.scale
    linear = 2 * (frame.m * frame.n).sum(-1) / frame.scale
    values = [brenier_value(p, q) / frame.scale for p, q in ((problem, pair), (problem.T, pair.T))]
    assert_close(loss.detach(), (constant - linear - sum(values)).detach(), rtol=5e-3)
    (found,) = torch.autograd.grad(loss.sum(), weights[0])
    best = conjugate(pair.phi, problem.y).x
    exact = (pair.phi(problem.x).mean(-1) - pair.phi(best).mean(-1)) / frame.scale
    (expected,) = torch.autograd.grad(exact.sum(), weights[0])
    assert (found - expected).norm() < 0.1 * expected.norm()


def test_the_cycle_is_closed_between_inverse_maps() -> None:
    problem = clouds(3)
    pair = flat_pair(problem)
    assert_close(w2gn_loss(problem, pair, cycle=1e6), w2gn_loss(problem, pair, cycle=0.0), atol=1e-4)
    both = 2 * w2gn_loss(problem, pair, penalty=0.0)
    assert_close(both, brenier_loss(problem, pair), rtol=0.05)


@pytest.mark.parametrize("loss", [w2gn_loss, brenier_loss])
def test_losses_of_a_batch_are_one_by_one(loss) -> None:
    problem = clouds(3)
    pair = BrenierPair(random_potential(problem), random_potential(problem.T, seed=1))
    for k in range(3):
        assert_close(loss(problem, pair)[k], loss(problem[k], pair[k]), rtol=1e-9)


def test_the_conjugates_map_takes_no_gradient_from_the_dual_term() -> None:
    problem, icnn = clouds(2), Icnn(3, (8,))
    frame = Frame.gaussian(problem)
    weights = [random_weights(icnn, 2, seed=seed).requires_grad_() for seed in (0, 1)]
    pair = framed_pair(icnn, weights, frame)
    loss = w2gn_loss(problem, pair, cycle=0.0, penalty=0.0).sum()
    own, other = torch.autograd.grad(loss, weights, allow_unused=True)
    assert own.norm() > 0
    assert other is None or not bool(other.any())
    through_the_cycle = torch.autograd.grad(w2gn_loss(problem, pair, penalty=0.0).sum(), weights)
    assert all(part.norm() > 0 for part in through_the_cycle)
