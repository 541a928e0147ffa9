"""Learn a cost from covariances alone, as if the pairs were Gaussian: closed forms in place of transport problems.

For Gaussian pairs it is the loss of infinitely many samples. As eps falls, with a penalty of lam eps, it tends to
the graphical Lasso; as eps grows, with lam / eps, to the Lasso (Andrade, Peyre and Poon, arXiv 2310.05461).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.arrays import ArrayLike, require_limits, wrong
from metaot.core.status import Status
from metaot.inverse.estimate import Certificate, certificate
from metaot.inverse.gaussian import Gaussians
from metaot.inverse.penalties import Free, Penalty
from metaot.inverse.proximal import accelerated

_SHARE = 0.5
"""How much further than the tolerance asks for steps go on, for their length is not the error itself."""


@final
@dataclass(frozen=True)
class GaussianEstimate:
    """The cost x^T theta y that explains the covariances of pairs, under a penalty.

    `error` is how far the gradient is from optimal, in units of the largest standard deviation of a product
    x_k y_l of independent points; `S` is the cross covariance that was observed.
    """

    pair: Gaussians
    S: Float[Tensor, "d k"]
    theta: Float[Tensor, "d k"]
    penalty: Penalty | None
    error: float
    steps: int
    status: Status

    @property
    def converged(self) -> bool:
        """Whether `error` is at most the tolerance."""
        return self.status == Status.CONVERGED

    @property
    def loss(self) -> float:
        """<c, P^> less the value of transport at theta."""
        return float((self.theta * self.S).sum() - self.pair.value(self.theta))

    @cached_property
    def certificate(self) -> Certificate | None:
        """The certificate of the penalty at this estimate; None without a penalty."""
        if self.penalty is None:
            return None
        return certificate(self.penalty, self.theta, self.pair.hessian(self.theta))

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.theta.shape))
        words = "converged" if self.converged else f"not converged ({self.status.name})"
        return (
            f"GaussianEstimate of {shape} parameters, eps {self.pair.eps:g}: {words}, error {self.error:.1e}, "
            f"{self.steps} steps"
        )


@torch.no_grad()
def learn_cost_from_covariances(
    Sa: ArrayLike,
    Sb: ArrayLike,
    S: ArrayLike,
    *,
    eps: float,
    penalty: Penalty | None = None,
    init: ArrayLike | GaussianEstimate | None = None,
    tol: float = 1e-8,
    max_steps: int = 20_000,
) -> GaussianEstimate:
    """Learn the cost x^T theta y of pairs from covariances: Sa of x, d d, Sb of y, k k, and S of both, d k.

    S is the mean of x y^T of centred pairs. What is minimised is <c, P^> less the value of transport between
    Gaussians with these covariances, plus `penalty`, `L1(lam)` or `Nuclear(lam)`; without one the answer is a
    closed form. Steps start from `init`, another theta or estimate, by default from zero. They end where the
    optimality condition holds to `tol`, in units of the largest standard deviation of a product x_k y_l, or after
    `max_steps`: not converging is a result. The number of samples changes nothing in the time that it takes.

    Raises ValueError for covariances that are not positive definite, for shapes that do not fit, for an eps that
    is not positive, and without a penalty for an S that no plan has.
    """
    pair = Gaussians(Sa, Sb, eps)
    S, (tol, most) = pair.matrix("S", S), require_limits(tol, max_steps)
    if penalty is not None and not isinstance(penalty, Penalty):
        raise wrong("penalty", "None, metaot.inverse.L1(lam) or metaot.inverse.Nuclear(lam)", penalty)
    scale = float((pair.Sa.diagonal().max() * pair.Sb.diagonal().max()).sqrt())

    def error(theta: Tensor) -> float:
        return (penalty or Free()).residual(theta, S - pair.cross_covariance(theta)) / scale

    if penalty is None:
        theta, steps = pair.theta(S), 0
    else:
        theta, steps = torch.zeros_like(S), 0
        if init is not None:
            theta = init.theta if isinstance(init, GaussianEstimate) else pair.matrix("init", init)
        step = eps / float(torch.linalg.matrix_norm(pair.Sa, 2) * torch.linalg.matrix_norm(pair.Sb, 2))
        closer = _SHARE * scale * tol
        while error(theta) > tol and steps < most:
            theta, more = accelerated(
                lambda at: S - pair.cross_covariance(at), theta, penalty, step, tol=closer, most=most - steps
            )
            steps, closer = steps + more, _SHARE * closer
    found = error(theta)
    return GaussianEstimate(pair, S, theta, penalty, found, steps, Status.of_one(found <= tol, found))
