"""Features of points, of which a learned potential or an interaction is the sum, and their derivatives.

A feature is a function of points, k d, with one number (k) or several (k p) for each. A `Basis` knows its
gradients; those of other functions are found by differentiating twice, one pass for each coordinate.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.arrays import ArrayLike, described, wrong
from metaot.geometry.checks import require_cloud, tensor
from metaot.settings import require_positive, require_whole

Feature = Callable[[Tensor], Tensor]
"""A function of points, k d, that returns one number for each, k, or several, k p."""

_CONSTANT = 1e-12
"""A feature whose gradients are below this, relative to its values, is constant."""

_NEAR = 3.0
"""Bumps on a grid are kept where a point is so near, in their widths."""

_ROWS, _POINTS = 256, 2048
"""Centres that are looked at together, and about how many points, evenly of all, they may be near to."""


class Basis(ABC):
    """Features that know their gradients."""

    @abstractmethod
    def __call__(self, x: Float[Tensor, "k d"]) -> Float[Tensor, "k p"]:
        """Return the values at points."""

    @abstractmethod
    def slopes(self, x: Float[Tensor, "k d"]) -> Float[Tensor, "k d p"]:
        """Return the gradients at points."""


@final
@dataclass(frozen=True)
class Products(Basis):
    """All products x_k x_l of coordinates: theta is a matrix d d, and the potential x^T theta x."""

    dim: int

    def __call__(self, x: Float[Tensor, "k d"]) -> Float[Tensor, "k p"]:
        """Return the products, row by row."""
        return (x[:, :, None] * x[:, None, :]).flatten(1)

    def slopes(self, x: Float[Tensor, "k d"]) -> Float[Tensor, "k d p"]:
        """Return the gradients at points."""
        eye = torch.eye(self.dim, dtype=x.dtype, device=x.device)
        first = eye[None, :, :, None] * x[:, None, None, :]
        return (first + first.mT).flatten(2)


@final
@dataclass(frozen=True, init=False)
class Monomials(Basis):
    """All products of powers of coordinates whose degrees sum to at most `degree`, without the constant."""

    powers: Int[Tensor, "p d"]

    def __init__(self, dim: int, degree: int) -> None:
        require_whole(1, dim=dim, degree=degree)
        powers = [each for each in product(range(degree + 1), repeat=dim) if 0 < sum(each) <= degree]
        object.__setattr__(self, "powers", torch.tensor(sorted(powers, key=sum)))

    def __call__(self, x: Float[Tensor, "k d"]) -> Float[Tensor, "k p"]:
        """Return the values at points."""
        return torch.stack(self._factors(x)).prod(0)

    def slopes(self, x: Float[Tensor, "k d"]) -> Float[Tensor, "k d p"]:
        """Return the gradients at points."""
        factors, along = self._factors(x), []
        for axis in range(x.shape[1]):
            power = self.powers[:, axis].to(x.device)
            inner = self._table(x[:, axis])[:, (power - 1).clamp_min(0)] * power
            along.append(torch.stack([*factors[:axis], inner, *factors[axis + 1 :]]).prod(0))
        return torch.stack(along, 1)

    def _factors(self, x: Float[Tensor, "k d"]) -> list[Float[Tensor, "k p"]]:
        powers = self.powers.to(x.device)
        return [self._table(x[:, axis])[:, powers[:, axis]] for axis in range(x.shape[1])]

    def _table(self, t: Float[Tensor, "k"]) -> Float[Tensor, "k degrees"]:
        """Return the powers of numbers, from 0."""
        table = [torch.ones_like(t)]
        for _ in range(int(self.powers.max())):
            table.append(table[-1] * t)
        return torch.stack(table, 1)


@final
@dataclass(frozen=True, init=False)
class Radial(Basis):
    """Gaussian bumps exp(-|x - centre|^2 / (2 width^2)) around centres, p d.

    `Radial.on(x, per_axis)` puts them on a regular grid over points. Wide bumps, of twice the distance between
    neighbours, make smooth sums.
    """

    centres: Float[Tensor, "p d"]
    width: float

    def __init__(self, centres: ArrayLike, width: float) -> None:
        found = tensor("centres", centres)
        require_cloud("centres", found)
        require_positive(width=width)
        vars(self).update(centres=found, width=float(width))

    @classmethod
    def on(cls, x: ArrayLike, per_axis: int) -> "Radial":
        """Return bumps on a regular grid, `per_axis` in each coordinate, over the range of points x, n d.

        Those that are far from all points are left out.
        """
        require_whole(2, per_axis=per_axis)
        points = tensor("x", x)
        require_cloud("x", points)
        low, high = points.amin(0), points.amax(0)
        axes = [
            torch.linspace(float(a), float(b), per_axis, dtype=points.dtype)
            for a, b in zip(low, high, strict=True)
        ]
        gaps = [float(axis[1] - axis[0]) for axis in axes]
        grid, width = torch.cartesian_prod(*axes).reshape(-1, len(axes)).to(points), 2 * sum(gaps) / len(gaps)
        some = points[:: max(1, len(points) // _POINTS)]
        nearest = torch.cat([torch.cdist(part, some).amin(1) for part in grid.split(_ROWS)])
        return cls(grid[nearest <= _NEAR * width], width)

    def __call__(self, x: Float[Tensor, "k d"]) -> Float[Tensor, "k p"]:
        """Return the values at points."""
        z, c = x / self.width, self.centres.to(x) / self.width
        rows = torch.cat([z, -0.5 * z.square().sum(1, keepdim=True), torch.ones_like(z[:, :1])], 1)
        columns = torch.cat([c, torch.ones_like(c[:, :1]), -0.5 * c.square().sum(1, keepdim=True)], 1)
        return (rows @ columns.mT).exp_()

    def slopes(self, x: Float[Tensor, "k d"]) -> Float[Tensor, "k d p"]:
        """Return the gradients at points."""
        values = self(x) / self.width**2
        return (self.centres.to(x).mT - x[:, :, None]).mul_(values[:, None])


@final
@dataclass(frozen=True)
class Terms:
    """Features one after another."""

    features: tuple[Feature, ...]
    name: str

    @classmethod
    def of(cls, name: str, features: object) -> "Terms":
        """Return features that were given as one function or as a list of functions."""
        given: list[Feature] = []
        is_list = isinstance(features, Sequence) and not isinstance(features, str)
        for k, each in enumerate(features if is_list else (features,)):
            if not callable(each):
                raise wrong(
                    f"{name}[{k}]" if is_list else name, "a function of points, k d, or a list of them", each
                )
            given.append(each)
        if not given:
            raise ValueError(f"{name} must be at least one function of points, got an empty list: leave it out")
        return cls(tuple(given), name)

    def __call__(self, x: Float[Tensor, "k d"]) -> Float[Tensor, "k p"]:
        """Return the values at points."""
        return torch.cat([self._one(k, x) for k in range(len(self.features))], 1)

    def _one(self, k: int, x: Tensor) -> Tensor:
        values = self.features[k](x)
        if not isinstance(values, Tensor) or values.shape[:1] != x.shape[:1] or values.ndim not in (1, 2):
            raise ValueError(
                f"{self._named(k)} must return a tensor with a number, or a row, for each of {len(x)} points, got "
                f"{described(values)}"
            )
        return values[:, None] if values.ndim == 1 else values

    def _named(self, k: int) -> str:
        return self.name if len(self.features) == 1 else f"{self.name}[{k}]"

    def slopes(self, x: Float[Tensor, "k d"]) -> Float[Tensor, "k d p"]:
        """Return the gradients at points."""
        return torch.cat([self._slopes(k, x) for k in range(len(self.features))], 2)

    def _slopes(self, k: int, x: Tensor) -> Tensor:
        feature = self.features[k]
        if isinstance(feature, Basis):
            return feature.slopes(x)
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            values = self._one(k, at)
            if not values.requires_grad:
                return torch.zeros_like(x)[:, :, None].expand(-1, -1, values.shape[1])
            weights = torch.zeros_like(values, requires_grad=True)
            (mixed,) = torch.autograd.grad(values, at, weights, create_graph=True)  # linear in the weights
            along = [
                torch.autograd.grad(mixed[:, axis].sum(), weights, retain_graph=True)[0]
                for axis in range(x.shape[1])
            ]
        return torch.stack(along, 1)

    def require_varied(self, x: Float[Tensor, "k d"]) -> None:
        """Raise ValueError, with its name, for a feature that is not finite or is constant on points."""
        values, slopes = self(x).abs().amax(0), self.slopes(x).abs().amax((0, 1))
        bad = ~(values + slopes).isfinite() | (slopes <= _CONSTANT * values)
        if bool(bad.any()):
            k = int(bad.nonzero()[0])
            what = "constant" if bool((values + slopes)[k].isfinite()) else "infinite or NaN"
            raise ValueError(
                f"{self.columns(x)[k]} is {what} on the snapshots: its coefficient cannot be known, leave it out"
            )

    def columns(self, x: Float[Tensor, "k d"]) -> list[str]:
        """Return a name for each number of all features."""
        names = []
        for k in range(len(self.features)):
            count = self._one(k, x[:1]).shape[1]
            names += [self._named(k)] if count == 1 else [f"{self._named(k)}(x)[:, {j}]" for j in range(count)]
        return names
