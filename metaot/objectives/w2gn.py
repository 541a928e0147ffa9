"""The loss of Wasserstein-2 generative networks (Korotin et al., arXiv 1909.13082; equation 12 of Meta OT)."""

from jaxtyping import Float
from torch import Tensor

from metaot.brenier import BrenierPair, SampleProblem

CYCLE = 3.0
"""The weight gamma of the cycle term, in units of the frame's variance."""
PENALTY = 1e-6
"""The weight of the mean square of the ICNNs' weights, which keeps them finite."""


def w2gn_loss(
    problem: SampleProblem, pair: BrenierPair, *, cycle: float = CYCLE, penalty: float = PENALTY
) -> Float[Tensor, "*batch"]:
    r"""Return equation 12 of each pair of measures: dual objective, cycle consistency and a small penalty.

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
