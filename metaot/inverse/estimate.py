"""What learning a cost returns: the parameters, the cost, and how far they can be trusted.

The certificate is that of Andrade, Peyre and Poon ("Sparsistency for inverse optimal transport", ICLR 2024): if it
is below one, the support (or the rank) of the truth is found from enough samples with a penalty small enough.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.core.status import Status
from metaot.geometry import Dense
from metaot.geometry.costs import Cost
from metaot.inverse.penalties import Free, Penalty
from metaot.inverse.proximal import Fit
from metaot.solvers import Solution


@final
@dataclass(frozen=True)
class Certificate:
    """z = H_{:, T} H_{T, T}^-1 sign on the tangent space T of the penalty at theta, and its largest value off T.

    H is the Hessian of the loss; T are the parameters that are not zero, or the matrices with the row or the
    column space of theta. `largest` is the greatest |z| off T, or its spectral norm.
    """

    z: Float[Tensor, "*shape"]
    largest: float
    words: tuple[str, str]

    @property
    def certified(self) -> bool:
        """Whether z is below one off the tangent space."""
        return self.largest < 1

    def __repr__(self) -> str:
        what, where = self.words
        return f"the {what} is {'' if self.certified else 'not '}certified (|z| {where} {self.largest:.3g})"


def certificate(penalty: Penalty, theta: Float[Tensor, "*shape"], H: Float[Tensor, "K K"]) -> Certificate:
    """Return the certificate of a penalty at any theta, such as the truth, where the loss has the Hessian H."""
    basis, sign = penalty.tangent(theta), penalty.sign(theta).flatten()
    HB = H @ basis
    z = (HB @ torch.linalg.solve(basis.mT @ HB, basis.mT @ sign)).reshape(theta.shape)
    return Certificate(z, penalty.largest_off(theta, z), penalty.words)


@final
@dataclass(frozen=True)
class CostEstimate:
    """A cost c(x, y) = sum_k theta_k c_k(x, y) that explains the observed pairs, with its certificate and errors.

    Low costs are frequent pairs; the affinity, or surplus, that economists estimate is A = -theta. Only theta/eps
    is known: the plan of (s theta, s eps) is the same for every s.
    """

    fit: Fit

    @property
    def theta(self) -> Float[Tensor, "*shape"]:
        """The parameters: d e for all products x_k y_l, else one for each feature."""
        return self.fit.point.theta

    @property
    def eps(self) -> float:
        """The temperature, in the units of the cost."""
        return self.fit.point.observed.eps

    @property
    def penalty(self) -> Penalty | None:
        """The penalty, if there is one."""
        return None if isinstance(self.fit.penalty, Free) else self.fit.penalty

    @property
    def geometry(self) -> Dense:
        """The learned costs between the given points."""
        space = self.solution.problem.geometry
        assert isinstance(space, Dense)
        return space

    @property
    def cost(self) -> Cost:
        """The learned cost as a function of any points, for `Points(x, y, cost)`.

        ValueError if features were given as matrices: `geometry` has their costs.
        """
        function = self.fit.point.observed.features.function(self.theta)
        if function is None:
            raise ValueError("features that are matrices are known between the given points only: take .geometry")
        return function

    @property
    def solution(self) -> Solution:
        """The solution of the transport problem with the learned cost, between the given points."""
        return self.fit.point.solution

    @property
    def loss(self) -> float:
        """<c, P^> less the dual value of the transport problem, without the penalty."""
        return self.fit.point.loss

    @property
    def gradient(self) -> Float[Tensor, "*shape"]:
        """The gradient of the loss: <c_k, P^ - P>."""
        return self.fit.point.gradient

    @property
    def hessian(self) -> Float[Tensor, "K K"]:
        """The Hessian of the loss, for theta in C order."""
        return self.fit.point.exact_model.H

    @property
    def error(self) -> float:
        """How far the gradient is from optimal, in units of the largest standard deviation of a feature."""
        return self.fit.error

    @property
    def status(self) -> Status:
        """How the minimisation ended."""
        return self.fit.status

    @property
    def converged(self) -> bool:
        """Whether `error` is at most the tolerance, with the transport problem solved to a part of it."""
        return self.status == Status.CONVERGED

    @property
    def steps(self) -> int:
        """The steps in theta."""
        return self.fit.steps

    @property
    def inner_steps(self) -> int:
        """The steps of `solve` in all transport problems together."""
        return self.fit.inner_steps

    @cached_property
    def certificate(self) -> Certificate | None:
        """The certificate of the penalty at this estimate; None without a penalty."""
        penalty = self.penalty
        return None if penalty is None else certificate(penalty, self.theta, self.hessian)

    @cached_property
    def standard_errors(self) -> Float[Tensor, "*shape"]:
        """Standard errors of theta if the model holds: of the covariance eps H^-1 / N, the inverse information.

        ValueError with a penalty, whose estimates are biased, and where the number of observations is not known.
        """
        return self._errors(self._covariance())

    @cached_property
    def robust_standard_errors(self) -> Float[Tensor, "*shape"]:
        """Standard errors if the model may be wrong: the sandwich H^-1 V H^-1, V of the pairs' influence."""
        return self._errors(self._covariance(robust=True))

    def _covariance(self, *, robust: bool = False) -> Float[Tensor, "K K"]:
        observed = self.fit.point.observed
        if self.penalty is not None:
            raise ValueError("standard errors are of estimates without a penalty")
        if observed.count is None:
            raise ValueError("a plan of mass one does not say how many pairs were observed: give counts")
        inverse = torch.linalg.inv(self.hessian)
        if not robust:
            return self.eps * inverse / observed.count
        moved = (observed.weights / observed.weights.sum())[:, None] * self.fit.point.influence()
        if len(moved) != observed.count:  # counts: each stands for several pairs
            moved = moved / (observed.weights * observed.count / observed.weights.sum()).sqrt()[:, None]
        return inverse @ (moved.mT @ moved) @ inverse

    def _errors(self, covariance: Float[Tensor, "K K"]) -> Float[Tensor, "*shape"]:
        return covariance.diagonal().sqrt().reshape(self.theta.shape)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.theta.shape))
        words = f"CostEstimate of {shape} parameters, eps {self.eps:g}: "
        words += "converged" if self.converged else f"not converged ({self.status.name})"
        words += f", error {self.error:.1e}, {self.steps} steps"
        return words if self.certificate is None else f"{words}; {self.certificate}"
