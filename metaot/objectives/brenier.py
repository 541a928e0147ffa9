r"""Objectives of continuous transport: the dual value (equation 10 of Meta OT), and losses to train with.

The dual value is a lower bound of $W_2^2 / 2$: zero at the identity, and the largest at the solution.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.brenier import BrenierPair, BrenierPotential, SampleProblem, conjugate
from metaot.brenier.conjugate import solve_positive

REACH = 2.0
"""The longest Newton step of the loss, in standard deviations."""
CYCLE = 3.0
"""The weight gamma of the cycle term, in units of the frame's variance."""
PENALTY = 1e-6
"""The weight of the mean square of the ICNNs' weights, which keeps them finite."""


def brenier_value(problem: SampleProblem, pair: BrenierPair, *, tol: float = 1e-5) -> Float[Tensor, "*batch"]:
    r"""Return $E[|x|^2/2 - \phi(x)] + E[|y|^2/2 - \bar\phi(y)]$ over the samples, the conjugate exact to `tol`.

    For every phi it is at most half of the squared Wasserstein distance between the two sets of samples; psi is
    only the start of the solver. In float64, and not differentiable: see `brenier_loss`.
    """
    double = problem.to(problem.x.double())
    pair = pair.to(double.x)
    best = conjugate(pair.phi, double.y, pair.pull(double.y), tol=tol)
    return _half_square(double.x) + _half_square(double.y) - pair.phi(double.x).mean(-1) - best.value.mean(-1)


def brenier_loss(problem: SampleProblem, pair: BrenierPair) -> Float[Tensor, "*batch"]:
    """Return the loss of a prediction: minus both dual values, in units of the frame's variance.

    The maximiser of each conjugate is the end of a Newton step from the best sample, without gradient (Danskin's
    theorem), or that sample where it is better. So the loss is bounded below by discrete transport between the
    samples, for all networks.
    """
    forth = _minus_dual_value(problem, pair.phi)
    back = _minus_dual_value(problem.T, pair.psi)
    return (forth + back) / pair.phi.frame.scale


def w2gn_loss(
    problem: SampleProblem, pair: BrenierPair, *, cycle: float = CYCLE, penalty: float = PENALTY
) -> Float[Tensor, "*batch"]:
    r"""Return the loss of Wasserstein-2 generative networks (arXiv 1909.13082; equation 12 of Meta OT).

    It is the sum of the dual objective, cycle consistency and a small penalty:
    $E[\phi(x)] + E[\langle \nabla\psi(y), y \rangle - \phi(\nabla\psi(y))]$, in which the conjugate's map
    $\nabla\psi$ takes no gradient, and $\gamma E |\nabla\phi(\nabla\psi(y)) - y|^2$, by which psi learns to be the
    conjugate. Divided by the frame's variance, so that gamma means the same at every scale.
    """
    pulled = pair.pull(problem.y)
    still = pulled.detach()
    means = (pair.phi.frame.m * pair.phi.frame.n).sum(-1)
    dual = pair.phi(problem.x).mean(-1) - pair.phi(still).mean(-1) + (still * problem.y).sum(-1).mean(-1) - means
    back = (pair.push(pulled) - problem.y).square().sum(-1).mean(-1)
    size = pair.phi.weights.square().mean(-1) + pair.psi.weights.square().mean(-1)
    return (dual + cycle * back) / pair.phi.frame.scale + penalty * size


def _minus_dual_value(problem: SampleProblem, phi: BrenierPotential) -> Float[Tensor, "*batch"]:
    """Return E phi(x) + E phi*(y), phi* over samples and a step, without the terms of the frame's means."""
    u, target = phi.frame.enter(problem.x), phi.frame.T.enter(problem.y)
    at_samples = phi.icnn.value(phi.weights, u)
    with torch.no_grad():
        slope, H = phi.icnn.gradient_and_hessian(phi.weights, u)
        best = (target @ u.mT - at_samples[..., None, :]).argmax(-1)
        near, step = _gathered(u, best), _gathered(slope, best) - target
        step = solve_positive(_gathered(H.flatten(-2), best).unflatten(-1, H.shape[-2:]), step)
        place = near - step * (REACH / step.norm(dim=-1, keepdim=True).clamp_min(REACH))
    gain = (place * target).sum(-1) - phi.icnn.value(phi.weights, place)
    sample_gain = (near * target).sum(-1) - at_samples.gather(-1, best)
    return phi.frame.scale * (at_samples.mean(-1) + torch.maximum(gain, sample_gain).mean(-1))


def _gathered(values: Float[Tensor, "*batch n k"], index: Int[Tensor, "*batch m"]) -> Float[Tensor, "*batch m k"]:
    return values.gather(-2, index[..., None].expand(*index.shape, values.shape[-1]))


def _half_square(z: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch"]:
    return 0.5 * z.square().sum(-1).mean(-1)
