r"""Inverse transport between Gaussians in closed form: the cost x^T theta y, its plan, and the loss of theta.

Entropic plans between centred Gaussians for such a cost are Gaussians (Andrade, Peyre and Poon, arXiv 2310.05461;
Bojilov and Galichon, 2016). All singular values here are those of
$-\Sigma_a^{1/2} \theta \Sigma_b^{1/2} / \epsilon = U s V^T$.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.arrays import ArrayLike, as_positive
from metaot.gaussian import symmetric_roots
from metaot.geometry.checks import given, require_finite, tensor, together

_ASYMMETRY = 1e-8
"""How far from symmetric a covariance may be, relative to its largest entry."""


class _Coordinates(NamedTuple):
    """Where the plan's covariance is diagonal: S = A r B^T with invertible A and B, and q = 1 - r^2."""

    A: Float[Tensor, "d d"]
    B: Float[Tensor, "k k"]
    s: Float[Tensor, "least"]
    r: Float[Tensor, "least"]
    q: Float[Tensor, "least"]


class UnbalancedPlan(NamedTuple):
    """A Gaussian plan whose marginals are not the two Gaussians: its mass, and covariances of its density."""

    mass: Float[Tensor, ""]
    A: Float[Tensor, "d d"]
    B: Float[Tensor, "k k"]
    S: Float[Tensor, "d k"]
    value: Float[Tensor, ""]
    """What the problem minimises: <c, P> and the divergences. Its gradient in theta is `mass` S."""


@final
@dataclass(frozen=True, init=False)
class Gaussians:
    """Two centred Gaussians, coupled at the temperature eps by the cost x^T theta y.

    `Sa`, d d, and `Sb`, k k, are their covariances, positive definite; theta is d k. Plans minimise
    <c, P> + eps KL(P | a x b). All is float64. Means change nothing: what some u(x) + v(y) explains is unknown.

    Raises ValueError for matrices that are not square, symmetric and positive definite, and for eps <= 0.
    """

    Sa: Float[Tensor, "d d"]
    Sb: Float[Tensor, "k k"]
    eps: float

    def __init__(self, Sa: ArrayLike, Sb: ArrayLike, eps: float) -> None:
        Sa, Sb = (S.double() for S in together(given("Sa", Sa), given("Sb", Sb)))
        _require_covariance("Sa", Sa)
        _require_covariance("Sb", Sb)
        vars(self).update(Sa=Sa, Sb=Sb, eps=as_positive("eps", eps))

    def cross_covariance(self, theta: ArrayLike) -> Float[Tensor, "d k"]:
        r"""Return S = E[x y^T] of the plan: $\Sigma_a^{1/2} U r V^T \Sigma_b^{1/2}$, r/(1 - r^2) = s."""
        at = self._coordinates(theta)
        return (at.A[:, : len(at.r)] * at.r) @ at.B[:, : len(at.r)].mT

    def theta(self, S: ArrayLike) -> Float[Tensor, "d k"]:
        r"""Return the cost whose plan has the cross covariance S.

        It is $-\epsilon M^{-1} S \Sigma_b^{-1}$, where $M = \Sigma_a - S \Sigma_b^{-1} S^T$ is the covariance of x
        given y. Raises ValueError where y explains a direction of x entirely, which no plan does.
        """
        S = self.matrix("S", S)
        (_, left), (_, right) = self._roots
        U, r, Vh = torch.linalg.svd(left @ S @ right, full_matrices=False)
        if float(r[0]) >= 1:
            raise ValueError(
                f"S must leave some variance to x and y, got a correlation of {float(r[0]):.6g} between a "
                "direction of x and one of y: fewer samples than coordinates, or one coordinate twice?"
            )
        return -self.eps * left @ (U * (r / ((1 - r) * (1 + r)))) @ Vh @ right

    def value(self, theta: ArrayLike) -> Float[Tensor, ""]:
        """Return <c, P> + eps KL(P | a x b) of the plan; its gradient in theta is the cross covariance."""
        at = self._coordinates(theta)
        return -self.eps * (at.s * at.r + 0.5 * at.q.log()).sum()

    def product(self, theta: ArrayLike, X: Float[Tensor, "*batch d k"]) -> Float[Tensor, "*batch d k"]:
        """Return minus the derivative of the cross covariance in the directions X: the loss's Hessian times X."""
        return self._product(self._coordinates(theta), X)

    def hessian(self, theta: ArrayLike) -> Float[Tensor, "dk dk"]:
        r"""Return the Hessian of the loss <c, P^> - value, with rows of theta one after the other.

        With columns stacked it is
        $\epsilon [\epsilon^2 N^{-1} \otimes M^{-1} + (\theta^T \otimes \theta) K]^{-1}$, where M and N are the
        covariances of x given y and of y given x, and K transposes.
        """
        at = self._coordinates(theta)
        d, k = len(self.Sa), len(self.Sb)
        basis = torch.eye(d * k, dtype=self.Sa.dtype, device=self.Sa.device)
        H = self._product(at, basis.view(-1, d, k)).flatten(1)
        return (H + H.mT) / 2

    def unbalanced(
        self,
        theta: ArrayLike,
        rho: float,
        quadratic: tuple[ArrayLike, ArrayLike] | None = None,
        masses: tuple[float, float] = (1.0, 1.0),
    ) -> UnbalancedPlan:
        r"""Return the plan whose marginals have the price `KL(rho)`, of the cost x^T theta y + x^T Q x + y^T R y.

        `quadratic` are the symmetric Q and R, zero by default, and `masses` those of the two Gaussians. The
        covariances given the other variable, M and N, are those of a balanced plan between
        $(\Sigma_a^{-1} + 2Q/(\epsilon + \rho))^{-1}$ and its like, for $\theta \sqrt{\rho/(\epsilon + \rho)}$; the
        marginals follow (in the case of |x - y|^2: Janati, Muzellec, Peyre and Cuturi, arXiv 2006.02572). Raises
        ValueError where mass far out is worth so much that no plan is best.
        """
        rho, eps, theta = as_positive("rho", rho), self.eps, self.matrix("theta", theta)
        Q, R = (tensor(n, z, like=theta) for n, z in zip("QR", quadratic or (0.0, 0.0), strict=True))
        inner = [S.inverse() + 2 * z / (eps + rho) for S, z in ((self.Sa, Q), (self.Sb, R))]
        _require_plan(*inner)
        inside = Gaussians(_symmetric(inner[0].inverse()), _symmetric(inner[1].inverse()), eps)
        at = inside._coordinates(theta * (rho / (eps + rho)) ** 0.5)
        q = inside._padded(at.q, 1.0)
        M, N = (at.A * q[0]) @ at.A.mT, (at.B * q[1]) @ at.B.mT
        precisions = M.inverse() - theta @ N @ theta.mT / eps**2, N.inverse() - theta.mT @ M @ theta / eps**2
        _require_plan(*precisions)
        A, B = (_symmetric(precision.inverse()) for precision in precisions)
        held = rho / eps
        log = sum(math.log(m) - S.logdet() / 2 for m, S in zip(masses, (self.Sa, self.Sb), strict=True))
        log = (1 + held) * log + (held * (A.logdet() + B.logdet()) + M.logdet() + B.logdet()) / 2
        mass = (log / (1 + 2 * held)).exp()
        value = eps * (masses[0] * masses[1] - mass) + rho * (masses[0] + masses[1] - 2 * mass)
        return UnbalancedPlan(mass, A, B, -M @ theta @ B / eps, value)

    def sample(
        self, theta: ArrayLike, count: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "count d"], Float[Tensor, "count k"]]:
        """Draw pairs (x, y) from the plan."""
        at = self._coordinates(theta)
        draws = [torch.randn(count, len(S), generator=generator, dtype=S.dtype).to(S) for S in (self.Sa, self.Sb)]
        u, v, n = *draws, len(at.r)
        v = torch.cat([at.r * u[:, :n] + at.q.sqrt() * v[:, :n], v[:, n:]], 1)
        return u @ at.A.mT, v @ at.B.mT

    def _product(self, at: _Coordinates, X: Tensor) -> Tensor:
        """Return the Hessian's product, by pairs of entries (i, j) and (j, i) in the coordinates of the plan."""
        W = at.A.mT @ X @ at.B
        n = len(at.r)
        q, r = (self._padded(z, value) for z, value in ((at.q, 1.0), (at.r, 0.0)))
        swapped = torch.zeros_like(W)
        swapped[..., :n, :n] = W[..., :n, :n].mT
        p, t = q[0][:, None] * q[1], q[0][:, None] + q[1]
        Z = p / (t - p) * (W - r[0][:, None] * r[1] * swapped) / self.eps
        return at.A @ Z @ at.B.mT

    def _padded(self, z: Tensor, value: float) -> list[Tensor]:
        """Return z with as many entries as x and as y have coordinates."""
        return [torch.cat([z, z.new_full((len(S) - len(z),), value)]) for S in (self.Sa, self.Sb)]

    @cached_property
    def _roots(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The square roots of both covariances, and the inverses of these."""
        return symmetric_roots(self.Sa, torch.linalg.eigh), symmetric_roots(self.Sb, torch.linalg.eigh)

    def _coordinates(self, theta: ArrayLike) -> _Coordinates:
        theta = self.matrix("theta", theta)
        (left, _), (right, _) = self._roots
        U, s, Vh = torch.linalg.svd(-left @ theta @ right / self.eps)
        root = (1 + 4 * s.square()).sqrt()
        return _Coordinates(left @ U, right @ Vh.mT, s, 2 * s / (1 + root), 2 / (1 + root))

    def matrix(self, name: str, matrix: ArrayLike) -> Float[Tensor, "d k"]:
        """Return a matrix d k in float64; ValueError for another shape, and for what is not finite."""
        found = tensor(name, matrix, like=self.Sa).double()
        wanted = (len(self.Sa), len(self.Sb))
        if found.shape != wanted:
            raise ValueError(f"{name} must have the shape {wanted}, got {tuple(found.shape)}")
        require_finite(name, found)
        return found


def _symmetric(S: Tensor) -> Tensor:
    return (S + S.mT) / 2


def _require_plan(*precisions: Tensor) -> None:
    least = min(float(torch.linalg.eigvalsh(_symmetric(precision))[0]) for precision in precisions)
    if least <= 0:
        raise ValueError(
            f"no plan is best: the cost falls faster, far out, than KL(rho) charges (an eigenvalue of the plan's "
            f"precision is {least:.3g}): take a larger rho, or a smaller theta"
        )


def _require_covariance(name: str, S: Tensor) -> None:
    if S.ndim != 2 or len(S) == 0 or S.shape[0] != S.shape[1]:
        raise ValueError(f"{name} must be a square matrix, got the shape {tuple(S.shape)}")
    require_finite(name, S)
    if float((S - S.mT).abs().max()) > _ASYMMETRY * float(S.abs().max()):
        raise ValueError(
            f"{name} must be symmetric, got entries that differ by {float((S - S.mT).abs().max()):.3g}"
        )
    least = float(torch.linalg.eigvalsh(S)[0])
    if least <= 0:
        raise ValueError(f"{name} must be positive definite, got the eigenvalue {least:.3g}")
