"""The distortion of plans between two spaces, as in Gromov-Wasserstein problems, and its slope.

For symmetric matrices D of the source and E of the target, and a plan P with marginals a and b,

    distortion(P) = sum_ijkl (D_ik - E_jl)^2 P_ij P_kl = <D^2 a, a> + <E^2 b, b> - 2 <D P E, P>,

with the slope -4 D P E up to terms that the marginals fix (Peyre, Cuturi and Solomon, ICML 2016). For squared
distances of clouds x and y, centred, with u = |x|^2 and v = |y|^2, it is

    constant - 4 <u v^T, P> - 8 |x^T P y|^2.

The moments x^T P y are then all that is left of P, and the slope is the cost |p_i - q_j|^2 of other points, up to
terms of either side: no n x n matrix is made (Scetbon, Peyre and Cuturi, arXiv 2106.01128). This distortion is
concave in P: to minimise along its slope lowers it, and without entropy some permutation is optimal.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.geometry import Dense, Points
from metaot.geometry.base import BLOCK, replaced
from metaot.problem import Problem
from metaot.solvers import Solution

_ANY_POINTS = Points(torch.zeros(1, 1, dtype=torch.float64))


@final
@dataclass(frozen=True)
class Moments:
    """What the slope keeps of plans, one for each start, and their distortion."""

    M: Float[Tensor, "starts ..."]
    value: Float[Tensor, "starts"]
    rest: Float[Tensor, "starts 3"] | None = None
    """Of what need not be concave: <D P E, P>, what is linear in P, and KL(P | a b^T) or a bound of it."""


class Distortion(ABC):
    """Two spaces with weights a and b. Plans come as solutions of the linear problems that it makes."""

    def __init__(
        self,
        a: Float[Tensor, "n"],
        b: Float[Tensor, "m"],
        constant: Float[Tensor, ""],
        variance: Float[Tensor, ""],
    ) -> None:
        self.a, self.b, self.constant, self.variance = a, b, constant, variance
        """The variance is the product of those of D and E between independent atoms."""

    @abstractmethod
    def with_costs(self, L: Float[Tensor, "n m"], alpha: float) -> "Distortion":
        """Return alpha times the distortion and 1 - alpha times <L, P>."""

    @abstractmethod
    def linear_problem(
        self, M: Float[Tensor, "starts ..."], eps: float
    ) -> tuple[Problem, Float[Tensor, "starts n"]]:
        """Return the problems whose cost is the slope at M, and what their potentials f have in addition."""

    @abstractmethod
    def after(self, before: Moments, solution: Solution) -> Moments:
        """Return the moments after a step to the plans that solve the problems at the moments before."""

    @abstractmethod
    def of_plans(self, P: Float[Tensor, "starts n m"]) -> Moments:
        """Return the moments of plans."""

    @abstractmethod
    def of_permutation(self, order: Int[Tensor, "n"]) -> Moments:
        """Return the moments of a plan that is a permutation, between as many atoms of equal weights."""

    @abstractmethod
    def slope(self, M: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the slope at moments as a matrix."""

    def _problem(self, geometry: Points | Dense, eps: float) -> Problem:
        starts = geometry.batch_shape[0]
        return Problem.trusted(self.a.expand(starts, -1), self.b.expand(starts, -1), geometry, eps)


@final
class CloudDistortion(Distortion):
    """The distortion constant + <L, P> - 2 <U V^T, P> - 2 |X^T P Y|^2; the moments are X^T P Y."""

    def __init__(
        self,
        weights: tuple[Float[Tensor, "n"], Float[Tensor, "m"]],
        clouds: tuple[Float[Tensor, "n d"], Float[Tensor, "m e"]],
        linear: tuple[Float[Tensor, "n r"], Float[Tensor, "m r"]],
        numbers: tuple[Float[Tensor, ""], Float[Tensor, ""]],
        L: Float[Tensor, "n m"] | None = None,
    ) -> None:
        super().__init__(*weights, *numbers)
        (self.X, self.Y), (self.U, self.V), self.L = clouds, linear, L

    @classmethod
    def of_squares(
        cls, a: Tensor, b: Tensor, x: Float[Tensor, "n d"], y: Float[Tensor, "m e"]
    ) -> "CloudDistortion":
        """Return that of squared distances."""
        x, y = x - a @ x, y - b @ y
        u, v = x.square().sum(-1), y.square().sum(-1)
        means = a @ u, b @ v
        squares = [
            2 * (w @ square.square()) + 2 * mean.square() + 4 * (z.mT @ (w[:, None] * z)).square().sum()
            for w, z, square, mean in ((a, x, u, means[0]), (b, y, v, means[1]))
        ]
        constant = squares[0] + squares[1] - 4 * means[0] * means[1]
        variance = (squares[0] - 4 * means[0].square()) * (squares[1] - 4 * means[1].square())
        ratio = means[0] / means[1]
        balance = torch.where((ratio > 0) & ratio.isfinite(), ratio, 1.0).sqrt()
        U, V = (2 / balance).sqrt() * u[:, None], (2 * balance).sqrt() * v[:, None]
        return cls((a, b), (2**0.5 * x, 2**0.5 * y), (U, V), (constant, variance))

    @classmethod
    def of_products(
        cls, a: Tensor, b: Tensor, x: Float[Tensor, "n d"], y: Float[Tensor, "m e"]
    ) -> "CloudDistortion":
        """Return that of inner products in place of distances."""
        squares = [(z.mT @ (w[:, None] * z)).square().sum() for w, z in ((a, x), (b, y))]
        means = (a @ x).square().sum(), (b @ y).square().sum()
        variance = (squares[0] - means[0].square()) * (squares[1] - means[1].square())
        return cls((a, b), (x, y), (x[:, :0], y[:, :0]), (squares[0] + squares[1], variance))

    def with_costs(self, L: Float[Tensor, "n m"], alpha: float) -> "CloudDistortion":
        clouds = alpha**0.25 * self.X, alpha**0.25 * self.Y
        linear = alpha**0.5 * self.U, alpha**0.5 * self.V
        numbers = alpha * self.constant, self.variance
        return CloudDistortion((self.a, self.b), clouds, linear, numbers, (1 - alpha) * L)

    def with_features(self, s: Float[Tensor, "n k"], t: Float[Tensor, "m k"], alpha: float) -> "CloudDistortion":
        """Return alpha times the distortion and 1 - alpha times the squared distances between features."""
        squares = self.a @ s.square().sum(-1) + self.b @ t.square().sum(-1)
        root, rest = alpha**0.5, (1 - alpha) ** 0.5
        U, V = (torch.cat([root * w, rest * z], -1) for w, z in ((self.U, s), (self.V, t)))
        constant = alpha * self.constant + (1 - alpha) * squares
        clouds = root**0.5 * self.X, root**0.5 * self.Y
        return CloudDistortion((self.a, self.b), clouds, (U, V), (constant, self.variance))

    def linear_problem(
        self, M: Float[Tensor, "starts ..."], eps: float
    ) -> tuple[Problem, Float[Tensor, "starts n"]]:
        if self.L is not None:
            return self._problem(Dense.trusted(self.slope(M)), eps), self.a.new_zeros(len(M), len(self.a))
        left, values, right = torch.linalg.svd(M, full_matrices=False)
        scale = (2 * values).sqrt()[:, None, :]
        p = torch.cat([self.U.expand(len(M), -1, -1), (self.X @ left) * scale], -1)
        q = torch.cat([self.V.expand(len(M), -1, -1), (self.Y @ right.mT) * scale], -1)
        return self._problem(replaced(_ANY_POINTS, x=p, y=q), eps), p.square().sum(-1)

    def after(self, before: Moments, solution: Solution) -> Moments:
        """Go to the plans: the distortion is concave."""
        if self.L is not None:
            return self.of_plans(solution.plan())
        sent = _sent(solution.problem, self._potentials(solution), self._beside)
        return self._of(self.a[:, None] * sent)

    def bound(self, M: Float[Tensor, "starts ..."], solution: Solution) -> Float[Tensor, "starts"]:
        """Return what distortion + eps KL(P | a b^T) of the plans that solve the problems at M is at most.

        The linear problem at M lies above the distortion, which is concave. The plans have the right marginals.
        """
        f, g = self._potentials(solution)
        return self.constant + 2 * M.square().sum((-2, -1)) + f @ self.a + g @ self.b

    def _potentials(self, solution: Solution) -> tuple[Tensor, Tensor]:
        """Return potentials of the slope."""
        f, g = solution.potentials.f, solution.potentials.g
        if self.L is not None:
            return f, g
        p, q = _points(solution.problem)
        return f - p.square().sum(-1), g - q.square().sum(-1)

    def of_plans(self, P: Float[Tensor, "starts n m"]) -> Moments:
        found = self._of(P @ self._beside)
        return found if self.L is None else replace(found, value=found.value + (self.L * P).sum((-2, -1)))

    def _of(self, sent: Float[Tensor, "starts n k"]) -> Moments:
        """Return the moments of plans from what they send to the source: P V and P Y side by side."""
        rank = self.U.shape[-1]
        moments = self._rows @ sent
        M = moments[..., rank:, rank:]
        linear = moments.diagonal(dim1=-2, dim2=-1)[..., :rank].sum(-1)
        return Moments(M, self.constant - 2 * (linear + M.square().sum((-2, -1))))

    def of_permutation(self, order: Int[Tensor, "n"]) -> Moments:
        found = self._of((self.a[:, None] * self._beside[order])[None])
        if self.L is None:
            return found
        return replace(found, value=found.value + self.a @ self.L.gather(1, order[:, None])[:, 0])

    def slope(self, M: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self._linear + (self.X @ (-4 * M)) @ self.Y.mT

    @cached_property
    def _linear(self) -> Float[Tensor, "n m"]:
        linear = self.U @ (-2 * self.V).mT
        return linear if self.L is None else linear + self.L

    @cached_property
    def _rows(self) -> Float[Tensor, "k n"]:
        return torch.cat([self.U, self.X], -1).mT.contiguous()

    @cached_property
    def _beside(self) -> Float[Tensor, "m k"]:
        return torch.cat([self.V, self.Y], -1)


@final
class MatrixDistortion(Distortion):
    """The distortion constant + <L, P> - 2 scale <D P E, P>; the moments are D P E."""

    def __init__(
        self,
        weights: tuple[Float[Tensor, "n"], Float[Tensor, "m"]],
        matrices: tuple[Float[Tensor, "n n"], Float[Tensor, "m m"]],
        numbers: tuple[Float[Tensor, ""], Float[Tensor, ""]],
        L: Float[Tensor, "n m"] | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__(*weights, *numbers)
        (self.D, self.E), self.L, self.scale = matrices, L, scale

    @classmethod
    def of(cls, a: Tensor, b: Tensor, D: Float[Tensor, "n n"], E: Float[Tensor, "m m"]) -> "MatrixDistortion":
        """Return that of two matrices."""
        sides = (D, a), (E, b)
        means = [((M @ w[:, None])[:, 0] * w).sum() for M, w in sides]
        squares = [((M.square() @ w[:, None])[:, 0] * w).sum() for M, w in sides]
        variance = (squares[0] - means[0].square()) * (squares[1] - means[1].square())
        return cls((a, b), (D, E), (squares[0] + squares[1], variance))

    def with_costs(self, L: Float[Tensor, "n m"], alpha: float) -> "MatrixDistortion":
        matrices = self.D, self.E
        numbers = alpha * self.constant, self.variance
        return MatrixDistortion((self.a, self.b), matrices, numbers, (1 - alpha) * L, alpha)

    def linear_problem(
        self, M: Float[Tensor, "starts ..."], eps: float
    ) -> tuple[Problem, Float[Tensor, "starts n"]]:
        return self._problem(Dense.trusted(self.slope(M)), eps), torch.zeros_like(M[..., 0])

    def after(self, before: Moments, solution: Solution) -> Moments:
        """Go to the plans, or as far towards them as the distortion falls together with a bound of the entropy."""
        P = solution.plan()
        found = self.of_plans(P)
        crossed = (before.M * P).sum((-2, -1))
        assert found.rest is not None
        found.rest[:, 2] = (solution.value - (found.rest[:, 1] - 4 * self.scale * crossed)) / solution.problem.eps
        if before.rest is None:
            return found
        inner, change = before.rest[:, 0], found.rest - before.rest
        slope = change[:, 1] + solution.problem.eps * change[:, 2] - 4 * self.scale * (crossed - inner)
        bend = -2 * self.scale * (found.rest[:, 0] - 2 * crossed + inner)
        share = torch.where(bend > 0, -slope / (2 * bend), 1.0).nan_to_num(nan=1.0).clamp(0.0, 1.0)
        M = torch.lerp(before.M, found.M, share[:, None, None])
        rest = torch.lerp(before.rest, found.rest, share[:, None])
        rest[:, 0] = inner + share * 2 * (crossed - inner) + share.square() * bend / (-2 * self.scale)
        return Moments(M, self.constant + rest[:, 1] - 2 * self.scale * rest[:, 0], rest=rest)

    def of_plans(self, P: Float[Tensor, "starts n m"]) -> Moments:
        M = self.D @ P @ self.E
        inner = (M * P).sum((-2, -1))
        linear = torch.zeros_like(inner) if self.L is None else (self.L * P).sum((-2, -1))
        rest = torch.stack([inner, linear, torch.zeros_like(inner)], -1)
        return Moments(M, self.constant + linear - 2 * self.scale * inner, rest=rest)

    def of_permutation(self, order: Int[Tensor, "n"]) -> Moments:
        each = torch.arange(len(order), device=order.device)
        M = self.D @ (self.a[:, None] * self.E[order])
        inner = self.a @ M[each, order]
        linear = torch.zeros_like(inner) if self.L is None else self.a @ self.L[each, order]
        return Moments(M[None], (self.constant + linear - 2 * self.scale * inner)[None])

    def slope(self, M: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return -4 * self.scale * M if self.L is None else self.L - 4 * self.scale * M


def _points(problem: Problem) -> tuple[Tensor, Tensor]:
    points = problem.geometry.points
    assert points is not None
    return points


def _sent(
    problem: Problem, potentials: tuple[Tensor, Tensor], values: Float[Tensor, "m k"]
) -> Float[Tensor, "starts n k"]:
    """Return the means of values under the rows of plans, by products in blocks of rows.

    The cost is -2 <p, q>: squared distances are less, by terms of either side that the potentials do not have.
    """
    (p, q), eps, (f, g) = _points(problem), problem.eps, potentials
    left = torch.cat([2 / eps * p, f[..., None] / eps, torch.ones_like(f)[..., None]], -1)
    other = (g / eps + problem.b.log())[..., None]
    right = torch.cat([q, torch.ones_like(other), other], -1).mT
    beside = torch.cat([values, values.new_ones(len(values), 1)], -1)
    step = max(1, BLOCK // max(1, g.numel()))
    sums = torch.cat([(rows @ right).exp_() @ beside for rows in left.split(step, -2)], -2)
    total = sums[..., -1:]
    return sums[..., :-1] / total.clamp_min(torch.finfo(total.dtype).tiny)
