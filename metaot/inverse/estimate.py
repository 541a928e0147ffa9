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

from metaot.arrays import as_count, require_limits
from metaot.core.status import Status
from metaot.geometry import Dense
from metaot.geometry.costs import Cost
from metaot.inverse.features import Bilinear
from metaot.inverse.fenchel_young import Model, Observed, Point
from metaot.inverse.penalties import Free, Penalty
from metaot.inverse.proximal import Fit, minimise
from metaot.potentials import DualPotentials
from metaot.solvers import Solution, solve

_ACCURATE = 1e-10
"""The L1 error of the marginals of the solution."""

_MOST = 50
"""Most steps for a sample of the pairs."""


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
class Saliency:
    """The singular values of Sx^(1/2) A Sy^(1/2), and the indices of x and y that they belong to.

    Sx and Sy are the covariances of both sides, and A is -theta. The affinity x^T A y is the sum of the
    values times products of the indices x @ x_weights and y @ y_weights, which are uncorrelated and of variance
    one on either side: the saliency analysis of Dupuy and Galichon (JPE 2014).
    """

    values: Float[Tensor, "rank"]
    x_weights: Float[Tensor, "d rank"]
    y_weights: Float[Tensor, "e rank"]

    @property
    def shares(self) -> Float[Tensor, "rank"]:
        """The singular values, of a sum of one."""
        return self.values / self.values.sum()


@final
@dataclass(frozen=True)
class RankTest:
    """The statistic of a rank, how many degrees of freedom its limit has, chi squared, and the p-value."""

    rank: int
    statistic: float
    degrees: int
    p_value: float


@final
@dataclass(frozen=True)
class CostEstimate:
    """A cost c(x, y) = sum_k theta_k c_k(x, y) that explains the observed pairs, with its certificate and errors.

    Low costs are frequent pairs; the affinity, or surplus, that economists estimate is A = -theta. Only theta/eps
    is known: the plan of (s theta, s eps) is the same for every s.
    """

    theta: Float[Tensor, "*shape"]
    """The parameters: d e for all products x_k y_l, else one for each feature."""
    penalty: Penalty | None
    error: float
    """How far the gradient is from optimal, in units of the largest standard deviation of a feature."""
    steps: int
    """The steps in theta."""
    inner_steps: int
    """Sinkhorn's steps in all transport problems together."""
    status: Status
    observed: Observed
    potentials: DualPotentials
    """Those of the transport problem with the learned cost."""

    @property
    def eps(self) -> float:
        """The temperature, in the units of the cost."""
        return self.observed.eps

    @cached_property
    def _point(self) -> Point:
        return Point.of(self.observed, self.theta, self.potentials.f)

    @property
    def geometry(self) -> Dense:
        """The learned costs between the given points."""
        space = self.observed.problem(self.theta).geometry
        assert isinstance(space, Dense)
        return space

    @property
    def cost(self) -> Cost:
        """The learned cost as a function of any points, for `Points(x, y, cost)`.

        ValueError if features were given as matrices: `geometry` has their costs.
        """
        function = self.observed.features.function(self.theta)
        if function is None:
            raise ValueError("features that are matrices are known between the given points only: take .geometry")
        return function

    @cached_property
    def solution(self) -> Solution:
        """The solution of the transport problem with the learned cost, between the given points."""
        return solve(self.observed.problem(self.theta), init=self.potentials, tol=_ACCURATE)

    @property
    def loss(self) -> float:
        """<c, P^> less the dual value of the transport problem, without the penalty."""
        return self._point.loss

    @property
    def gradient(self) -> Float[Tensor, "*shape"]:
        """The gradient of the loss: <c_k, P^ - P>."""
        return self._point.gradient

    @property
    def hessian(self) -> Float[Tensor, "K K"]:
        """The Hessian of the loss, for theta in C order."""
        return self._point.exact_model.H

    @property
    def converged(self) -> bool:
        """Whether `error` is at most the tolerance, with the transport problem solved to a part of it."""
        return self.status == Status.CONVERGED

    @cached_property
    def certificate(self) -> Certificate | None:
        """The certificate of the penalty at this estimate; None without a penalty."""
        if self.penalty is None or isinstance(self.penalty, Free):
            return None
        return certificate(self.penalty, self.theta, self.hessian)

    @torch.no_grad()
    def refitted(self, *, tol: float = 1e-8, max_steps: int = 100) -> "CostEstimate":
        """Return the estimate without a penalty among the theta that are like this one: with errors of its own.

        Of `L1` they are the theta with the same support, of `Nuclear` the matrices in the tangent space at this
        one. The bias of the penalty is gone. Standard errors take the support, or the space, as if it had been
        known: they do not say how sure its choice is, and are too small where the same pairs have made it.
        ValueError without a penalty, and where all of theta is zero.
        """
        if self.penalty is None:
            raise ValueError("there is no penalty: this estimate has standard errors of its own")
        basis = self.penalty.tangent(self.theta)
        if basis.shape[1] == 0:
            raise ValueError(
                f"all of theta is zero, and nothing is left to fit: take a lam below {self.penalty.lam:g}"
            )
        free, start = Free(basis=basis), Fit(self._point, None, 0.0, 0, 0, self.status)
        fit = minimise(self.observed, free, start, *require_limits(tol, max_steps))
        how = (fit.error, fit.steps, fit.inner_steps, fit.status)
        return CostEstimate(fit.point.theta, free, *how, self.observed, DualPotentials(fit.point.f, fit.point.g))

    @cached_property
    def standard_errors(self) -> Float[Tensor, "*shape"]:
        """Standard errors of theta if the model holds: of the covariance eps H^-1 / N, the inverse information.

        ValueError with a penalty, whose estimates are biased (see `refitted`), and where the number of
        observations is not known.
        """
        return self._errors(self._covariance())

    @cached_property
    def robust_standard_errors(self) -> Float[Tensor, "*shape"]:
        """Standard errors if the model may be wrong: the sandwich H^-1 V H^-1, V of the pairs' influence."""
        return self._errors(self._covariance(robust=True))

    @torch.no_grad()
    def bootstrap(
        self, count: int = 200, *, generator: torch.Generator | None = None, tol: float = 1e-4
    ) -> Float[Tensor, "count *shape"]:
        """Return theta of `count` samples of the pairs, drawn with replacement: each fit starts at this estimate.

        ValueError where the number of observations is not known, and where marginals have a price.
        """
        observed, penalty = self.observed, self.penalty or Free()
        if observed.count is None or not observed.marginals.are_exact:
            raise ValueError("a bootstrap is of balanced problems, and of a known number of pairs")
        model, found = self._point.rough_model(), []
        size = round(observed.count)
        for _ in range(as_count("count", count)):
            drawn = torch.multinomial(observed.weights, size, replacement=True, generator=generator)
            sample, rows = observed.resampled(drawn)
            near = Point.of(sample, self.theta, self.potentials.f[rows])
            start = Fit(near, Model(model.H, model.f[:, rows]), 0.0, 0, 0, Status.CONVERGED)
            found.append(minimise(sample, penalty, start, tol, _MOST).point.theta)
        return torch.stack(found)

    @property
    def saliency(self) -> "Saliency":
        """The indices of x and of y that matter most for each other: see `Saliency`."""
        return saliency(self)

    def rank_test(self, rank: int) -> "RankTest":
        """Test whether the affinity has this rank, or less, against a higher one.

        By the statistic rk of Kleibergen and Paap (J. Econometrics, 2006) of Sx^(1/2) A Sy^(1/2), with the
        covariance of `standard_errors`, in which Sx and Sy are known. ValueError with a penalty, where the number
        of observations is not known, and unless `rank` is below the number of singular values.
        """
        if self.penalty is not None:
            raise ValueError("ranks are tested without a penalty, which has chosen one already")
        return rank_test(self, rank, self._covariance())

    def _covariance(self, *, robust: bool = False) -> Float[Tensor, "K K"]:
        observed, inverse = self.observed, self.inverse_hessian
        if observed.count is None:
            raise ValueError("a plan of mass one does not say how many pairs were observed: give counts")
        if not robust:
            return self.eps * inverse / observed.count
        moved = (observed.weights / observed.weights.sum())[:, None] * self.influence()
        if len(moved) != observed.count:  # counts: each stands for several pairs
            moved = moved / (observed.weights * observed.count / observed.weights.sum()).sqrt()[:, None]
        return inverse @ (moved.mT @ moved) @ inverse

    @property
    def inverse_hessian(self) -> Float[Tensor, "K K"]:
        """The inverse of the Hessian, of a refitted estimate in its space; ValueError with a penalty."""
        if not isinstance(self.penalty, Free | None):
            raise ValueError("standard errors are of estimates without a penalty: take those of .refitted()")
        basis = (self.penalty or Free()).tangent(self.theta)
        return basis @ torch.linalg.inv(basis.mT @ self.hessian @ basis) @ basis.mT

    def influence(self) -> Float[Tensor, "N K"]:
        """Return how each observed pair moves the gradient: what the projected features are there."""
        return self._point.influence()

    def _errors(self, covariance: Float[Tensor, "K K"]) -> Float[Tensor, "*shape"]:
        return covariance.diagonal().sqrt().reshape(self.theta.shape)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.theta.shape))
        words = f"CostEstimate of {shape} parameters, eps {self.eps:g}: "
        words += "converged" if self.converged else f"not converged ({self.status.name})"
        words += f", error {self.error:.1e}, {self.steps} steps"
        return words if self.certificate is None else f"{words}; {self.certificate}"


def _roots(estimate: CostEstimate) -> tuple[Float[Tensor, "d d"], Float[Tensor, "e e"]]:
    """Return the square roots of the covariances of x and of y; ValueError unless theta is of all products."""
    features = estimate.observed.features
    if not isinstance(features, Bilinear):
        raise ValueError("saliency and ranks are of a matrix theta: learn the cost without `features`")
    a, b = estimate.observed.a, estimate.observed.b
    covariances = (torch.cov(z.mT, correction=0, aweights=w) for z, w in ((features.x, a), (features.y, b)))
    parts = [torch.linalg.eigh(S.reshape(z, z)) for S, z in zip(covariances, features.shape, strict=True)]
    x, y = ((vectors * values.clamp_min(0).sqrt()) @ vectors.mT for values, vectors in parts)
    return x, y


def saliency(estimate: CostEstimate) -> Saliency:
    """Return the saliency analysis of an estimate."""
    x, y = _roots(estimate)
    U, values, Vh = torch.linalg.svd(-x @ estimate.theta @ y, full_matrices=False)
    return Saliency(values, torch.linalg.solve(x, U), torch.linalg.solve(y, Vh.mT))


def rank_test(estimate: CostEstimate, rank: int, covariance: Float[Tensor, "K K"]) -> RankTest:
    """Return the test of a rank, for parameters with this covariance.

    What is left of the matrix beside its largest singular values is compared with its own covariance.
    """
    x, y = _roots(estimate)
    U, values, Vh = torch.linalg.svd(-x @ estimate.theta @ y)
    if not 0 <= as_count("rank", rank) < len(values):
        raise ValueError(f"rank must be at least 0 and below {len(values)}, got {rank}")
    left, right = x @ U[:, rank:], y @ Vh[rank:].mT
    rest = -(left.mT @ estimate.theta @ right).flatten()
    both = torch.kron(left.contiguous(), right.contiguous())
    statistic = rest @ torch.linalg.solve(both.mT @ covariance @ both, rest)
    degrees = len(rest)
    p_value = torch.special.gammaincc(torch.tensor(degrees / 2, dtype=rest.dtype), statistic.cpu() / 2)
    return RankTest(rank, float(statistic), degrees, float(p_value))
