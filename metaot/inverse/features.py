"""Features: the known functions c_k of pairs (x, y) of which a learned cost is the sum, sum_k theta_k c_k.

What learning needs of them are sums over pairs with a plan P as weights. Of all products x_k y_l these are
products of the points' own matrices with P: no n x m matrix of a feature is made.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.geometry.checks import tensor
from metaot.geometry.costs import Cost, matrix_of_costs


class Features(ABC):
    """Features on n x m pairs; theta has a shape, and features are in the order of its entries, K in all."""

    shape: tuple[int, ...]
    """The shape of theta."""
    points: tuple[int, int]
    """n and m."""

    @abstractmethod
    def cost(self, theta: Float[Tensor, "*shape"]) -> Float[Tensor, "n m"]:
        """Return the matrix of costs."""

    @abstractmethod
    def exponents(
        self, theta: Float[Tensor, "*shape"], h: Float[Tensor, "n"], k: Float[Tensor, "m"]
    ) -> Float[Tensor, "n m"]:
        """Return the matrix of costs and h_i + k_j, in few passes."""

    @abstractmethod
    def function(self, theta: Float[Tensor, "*shape"]) -> Cost | None:
        """Return the cost as a function of any points; None if features are known between given points only."""

    @abstractmethod
    def means(self, K: Float[Tensor, "n m"], u: Float[Tensor, "n"], v: Float[Tensor, "m"]) -> Float[Tensor, "K"]:
        """Return <c_k, P> of the plan P = diag(u) K diag(v)."""

    @abstractmethod
    def sums(self, P: Float[Tensor, "n m"]) -> tuple[Float[Tensor, "K n"], Float[Tensor, "K m"]]:
        """Return the sums of the rows, and of the columns, of c_k P."""

    @abstractmethod
    def products(self, P: Float[Tensor, "n m"]) -> Float[Tensor, "K K"]:
        """Return <c_k c_l, P>."""

    @abstractmethod
    def spread(self, a: Float[Tensor, "n"], b: Float[Tensor, "m"], *, projected: bool) -> Float[Tensor, "K K"]:
        """Return <c_k c_l, a b^T>; if projected, of what is left beside functions of x and of y."""

    @abstractmethod
    def sizes(self, a: Float[Tensor, "n"], b: Float[Tensor, "m"]) -> Float[Tensor, "K"]:
        """Return the root mean squares under a b^T of features as they were given."""

    @abstractmethod
    def part(self, rows: Int[Tensor, "r"], columns: Int[Tensor, "c"]) -> "Features":
        """Return the features between some of the points."""

    @abstractmethod
    def at(self, i: Int[Tensor, "N"], j: Int[Tensor, "N"]) -> Float[Tensor, "N K"]:
        """Return the features of some pairs."""

    @abstractmethod
    def name(self, k: int) -> str:
        """Return which feature is the k-th, as the caller gave it."""

    @property
    def count(self) -> int:
        """The number of parameters, K."""
        return math.prod(self.shape)


@final
class Bilinear(Features):
    """All products x_k y_l of coordinates: the cost is x^T theta y, theta of d e."""

    def __init__(self, x: Float[Tensor, "n d"], y: Float[Tensor, "m e"], centres: tuple[Tensor, Tensor]) -> None:
        """Take points less their `centres`, which changes the cost by a function of x and one of y only."""
        self._given, self._centres = (x, y), centres
        self.x, self.y = x - centres[0], y - centres[1]
        self.shape = (x.shape[1], y.shape[1])
        self.points = (len(x), len(y))

    def cost(self, theta: Tensor) -> Tensor:
        return (self.x @ theta) @ self.y.mT

    def exponents(self, theta: Tensor, h: Tensor, k: Tensor) -> Tensor:
        left = torch.cat([self.x @ theta, h[:, None], torch.ones_like(h)[:, None]], 1)
        return left @ torch.cat([self.y, torch.ones_like(k)[:, None], k[:, None]], 1).mT

    def function(self, theta: Tensor) -> Cost:
        return partial(_bilinear, theta)

    def means(self, K: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return ((u[:, None] * self.x).mT @ (K @ (v[:, None] * self.y))).flatten()

    def sums(self, P: Tensor) -> tuple[Tensor, Tensor]:
        x, y = self.x.mT, self.y.mT
        rows, columns = x[:, None] * (P @ self.y).mT, (x @ P)[:, None] * y
        return rows.flatten(0, 1), columns.flatten(0, 1)

    def products(self, P: Tensor) -> Tensor:
        (d, e), sides = self.shape, (self.x, self.y)
        halves = [torch.triu_indices(z.shape[1], z.shape[1], device=z.device) for z in sides]
        xx, yy = (z[:, i] * z[:, j] for z, (i, j) in zip(sides, halves, strict=True))
        M = xx.mT @ (P @ yy)
        places = []
        for size, (i, j) in zip((d, e), halves, strict=True):
            place = torch.empty(size, size, dtype=torch.int64, device=P.device)
            place[i, j] = place[j, i] = torch.arange(len(i), device=P.device)
            places.append(place)
        rows, columns = places
        return M[rows[:, None, :, None], columns[None, :, None, :]].reshape(d * e, d * e)

    def spread(self, a: Tensor, b: Tensor, *, projected: bool) -> Tensor:
        x, y = ((w[:, None] * z).mT @ z for w, z in ((a, self.x), (b, self.y)))
        return torch.kron(x.contiguous(), y.contiguous())

    def sizes(self, a: Tensor, b: Tensor) -> Tensor:
        x, y = ((w @ z.square()).sqrt() for w, z in zip((a, b), self._given, strict=True))
        return torch.outer(x, y).flatten()

    def part(self, rows: Tensor, columns: Tensor) -> "Bilinear":
        return Bilinear(self._given[0][rows], self._given[1][columns], self._centres)

    def at(self, i: Tensor, j: Tensor) -> Tensor:
        return (self.x[i][:, :, None] * self.y[j][:, None, :]).flatten(1)

    def name(self, k: int) -> str:
        return f"x[:, {k // self.shape[1]}] y[:, {k % self.shape[1]}]"


@final
class Listed(Features):
    """Any features, as matrices K n m; with functions if they are known for all points."""

    def __init__(self, matrices: Float[Tensor, "K n m"], functions: tuple[Cost, ...] | None) -> None:
        self.matrices, self._functions = matrices, functions
        self.shape = (len(matrices),)
        self.points = (matrices.shape[1], matrices.shape[2])

    def cost(self, theta: Tensor) -> Tensor:
        return torch.tensordot(theta, self.matrices, 1)

    def exponents(self, theta: Tensor, h: Tensor, k: Tensor) -> Tensor:
        return self.cost(theta).add_(h[:, None]).add_(k)

    def function(self, theta: Tensor) -> Cost | None:
        return None if self._functions is None else partial(_weighted, theta, self._functions)

    def means(self, K: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self.matrices.flatten(1) @ (u[:, None] * K * v).flatten()

    def sums(self, P: Tensor) -> tuple[Tensor, Tensor]:
        weighted = self.matrices * P
        return weighted.sum(2), weighted.sum(1)

    def products(self, P: Tensor) -> Tensor:
        flat = self.matrices.flatten(1)
        return (flat * P.flatten()) @ flat.mT

    def spread(self, a: Tensor, b: Tensor, *, projected: bool) -> Tensor:
        products = self.products(a[:, None] * b)
        if not projected:
            return products
        (rows, columns), mean = self.sums(a[:, None] * b), self.means(torch.ones_like(self.matrices[0]), a, b)
        rows, columns = (total / torch.where(w > 0, w, 1.0).sqrt() for total, w in ((rows, a), (columns, b)))
        return products - rows @ rows.mT - columns @ columns.mT + torch.outer(mean, mean)

    def sizes(self, a: Tensor, b: Tensor) -> Tensor:
        return self.products(a[:, None] * b).diagonal().clamp_min(0).sqrt()

    def part(self, rows: Tensor, columns: Tensor) -> "Listed":
        return Listed(self.matrices[:, rows[:, None], columns], self._functions)

    def at(self, i: Tensor, j: Tensor) -> Tensor:
        return self.matrices[:, i, j].mT

    def name(self, k: int) -> str:
        return f"features[{k}]"


def listed(
    features: Sequence[object] | Tensor,
    points: tuple[int, int],
    clouds: tuple[Tensor, Tensor] | None,
    like: Tensor,
) -> Listed:
    """Return features that were given as functions of (x, y) or as matrices n m, or as one stack of these."""
    if callable(features) or not isinstance(features, Sequence | Tensor) or len(features) == 0:
        raise TypeError(
            "features must be a list of functions (x, y) -> matrix or of matrices n m, or None for all products "
            f"x_k y_l, got {features!r}"
        )
    matrices, functions = [], []
    for k, feature in enumerate(features):
        name = f"features[{k}]"
        if callable(feature):
            if clouds is None:
                raise ValueError(f"{name} is a function of points, and there are no x and y")
            functions.append(feature)
            found = matrix_of_costs(f"{name}(x, y)", feature(*clouds), clouds[0], points[1])
        else:
            found = tensor(name, feature, like=like)
        if tuple(found.shape) != points:
            raise ValueError(f"{name} must have the shape {points} of the pairs, got {tuple(found.shape)}")
        if not bool(found.isfinite().all()):
            raise ValueError(f"{name} must be finite")
        matrices.append(found.to(like))
    return Listed(torch.stack(matrices), tuple(functions) if len(functions) == len(matrices) else None)


def _bilinear(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return (x @ theta.to(x)) @ y.mT


def _weighted(theta: Tensor, functions: tuple[Cost, ...], x: Tensor, y: Tensor) -> Tensor:
    total = None
    for weight, function in zip(theta.tolist(), functions, strict=True):
        part = weight * tensor("a feature", function(x, y), like=x)
        total = part if total is None else total + part
    assert total is not None
    return total
