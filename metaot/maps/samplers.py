"""Distributions to draw from: random points, or quasi-random ones, which cover the space evenly.

Scrambled Sobol points of the unit cube, sent through a function. Whatever the count, the points are those of one
sequence: a run that is resumed draws the same ones.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot import digest
from metaot.arrays import ArrayLike, described
from metaot.geometry.checks import require_finite, tensor
from metaot.settings import require_whole

_MOST_DIMENSIONS, _MOST_POINTS = 21_201, 2**30
"""Of Sobol points in torch."""


class Sampler(ABC):
    """A distribution that is the image of the unit cube, so that quasi-random points may be drawn of it."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """The dimension of the unit cube."""

    @abstractmethod
    def of_cube(self, u: Float[Tensor, "k dim"]) -> Float[Tensor, "k d"]:
        """Return the points for points of the unit cube, which are never on its border."""

    def __call__(self, count: int, generator: torch.Generator) -> Float[Tensor, "count d"]:
        """Draw random points."""
        u = torch.rand(count, self.dim, generator=generator, dtype=torch.float64, device=generator.device)
        return self.of_cube(_inside(u))


@final
class Normal(Sampler):
    """The normal distribution in `dim` dimensions, with a mean and a standard deviation: numbers, or vectors."""

    def __init__(self, dim: int, mean: ArrayLike = 0.0, std: ArrayLike = 1.0) -> None:
        require_whole(1, dim=dim)
        self._dim = dim
        self.mean, self.std = _vector("mean", mean, dim), _vector("std", std, dim)
        if not bool((self.std > 0).all()):
            raise ValueError(f"std must be positive, got {self.std.tolist()}")

    @property
    def dim(self) -> int:
        return self._dim

    def of_cube(self, u: Float[Tensor, "k dim"]) -> Float[Tensor, "k d"]:
        return torch.erfinv(2 * u - 1) * (math.sqrt(2) * self.std.to(u)) + self.mean.to(u)

    def __repr__(self) -> str:
        return f"Normal({self.dim})"


@final
class Uniform(Sampler):
    """The uniform distribution on a box in `dim` dimensions, between two corners: numbers, or vectors."""

    def __init__(self, dim: int, low: ArrayLike = 0.0, high: ArrayLike = 1.0) -> None:
        require_whole(1, dim=dim)
        self._dim = dim
        self.low, self.high = _vector("low", low, dim), _vector("high", high, dim)
        if not bool((self.low < self.high).all()):
            raise ValueError(f"low must be below high, got {self.low.tolist()} and {self.high.tolist()}")

    @property
    def dim(self) -> int:
        return self._dim

    def of_cube(self, u: Float[Tensor, "k dim"]) -> Float[Tensor, "k d"]:
        return self.low.to(u) + (self.high - self.low).to(u) * u

    def __repr__(self) -> str:
        return f"Uniform({self.dim})"


@final
class Image(Sampler):
    """What a function makes of the unit cube in `dim` dimensions: points, k dim, to points, k d."""

    def __init__(self, function: Callable[[Float[Tensor, "k dim"]], Float[Tensor, "k d"]], dim: int) -> None:
        require_whole(1, dim=dim)
        self.function, self._dim = function, dim

    @property
    def dim(self) -> int:
        return self._dim

    def of_cube(self, u: Float[Tensor, "k dim"]) -> Float[Tensor, "k d"]:
        return self.function(u)

    def __repr__(self) -> str:
        return f"Image({getattr(self.function, '__name__', type(self.function).__name__)}, {self.dim})"


Draw = Callable[[int, torch.Generator], Float[Tensor, "count d"]]
"""A function that draws random points; a `Sampler` is one that also knows quasi-random ones."""


@final
class Stream:
    """The points that a run draws, in order, and fresh ones that are independent of them."""

    def __init__(self, sampler: Draw, seed: int, like: Float[Tensor, "m d"]) -> None:
        if not callable(sampler) or isinstance(sampler, type):
            raise TypeError(
                "sampler must be a function (count, generator) -> points, count d, or a metaot.maps.Sampler such "
                f"as Normal(dim), got {described(sampler)}"
            )
        self.sampler, self.seed, self.like = sampler, seed, like
        self._engine: torch.quasirandom.SobolEngine | None = None
        self.checked(sampler(2, torch.Generator().manual_seed(seed)), 2)

    @property
    def is_even(self) -> bool:
        """Whether points are quasi-random."""
        return isinstance(self.sampler, Sampler) and self.sampler.dim <= _MOST_DIMENSIONS

    def points(self, start: int, count: int) -> Float[Tensor, "count d"]:
        """Return the points from number `start` on; random ones depend on `start` as a whole."""
        if not self.is_even or start + count > _MOST_POINTS:
            generator = _generator(self.seed, "points", start)
            return self.checked(self.sampler(count, generator), count)
        assert isinstance(self.sampler, Sampler)
        if self._engine is None or self._engine.num_generated > start:
            self._engine = torch.quasirandom.SobolEngine(self.sampler.dim, scramble=True, seed=self.seed)
        self._engine.fast_forward(start - self._engine.num_generated)
        u = self._engine.draw(count, dtype=self.like.dtype)
        return self.checked(self.sampler.of_cube(_inside(u)), count)

    def fresh(self, count: int, number: int) -> Float[Tensor, "count d"]:
        """Return independent random points, others for each number."""
        generator = _generator(self.seed, "fresh", number)
        return self.checked(self.sampler(count, generator), count)

    def checked(self, x: object, count: int) -> Float[Tensor, "count d"]:
        """Return points as the data are; ValueError for others than were asked for."""
        points = tensor("sampler(count, generator)", x, like=self.like, taken="points (a tensor or an array)")
        points = points.detach().to(self.like).flatten(1) if points.ndim > 1 else points
        if points.shape != (count, self.like.shape[1]):
            raise ValueError(
                f"the sampler was asked for {count} points in dimension {self.like.shape[1]}, as the data have, "
                f"and gave {tuple(points.shape)}"
            )
        require_finite("sampler(count, generator)", points)
        return points


def _generator(seed: int, what: str, number: int) -> torch.Generator:
    """Return a generator for each seed, purpose and number; torch's on a CPU reads 32 bits of a seed."""
    return torch.Generator().manual_seed(int(digest.of_json([seed, what, number])[:8], 16))


def _inside(u: Float[Tensor, "k dim"]) -> Float[Tensor, "k dim"]:
    """Move points off the border of the unit cube, where quantiles are infinite."""
    least = torch.finfo(u.dtype).eps / 4
    return u.clamp(least, 1 - 2 * least)


def _vector(name: str, value: ArrayLike, dim: int) -> Float[Tensor, "dim"]:
    found = tensor(name, value).double()
    require_finite(name, found)
    if found.shape not in ((), (dim,)):
        raise ValueError(f"{name} must be a number or have {dim} entries, got {tuple(found.shape)}")
    return found.expand(dim)
