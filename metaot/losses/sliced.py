"""Sliced Wasserstein distances: the mean, or the largest, of the distances of projections on lines."""

from collections.abc import Iterator
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import normalize

from metaot.arrays import ArrayLike
from metaot.losses.directions import directions_of
from metaot.losses.measures import Measures, measures, on_the_simplex, require_power
from metaot.losses.quantiles import Masses, Rule, Slopes, Wanted, powered_mean, row_distances, whole_masses

_BLOCK = 2**18
"""Entries of one measure's projections that are sorted at a time: what a processor keeps at hand."""

_WORTH_A_PRODUCT, _PRODUCTS = 8, 4
"""Coordinates for which one block is worth a matrix product, and the blocks that one product makes at most."""

_STARTS, _ASCENT, _GAIN, _SHORT = 8, 200, 1e-9, 1e-7
"""Directions from which the largest distance is sought, steps of each, gain and length of the last ones."""


@final
class SlicedEstimate(NamedTuple):
    """A sliced distance, how far it may be from the one over all directions, and what it is made of."""

    value: Float[Tensor, "*batch"]
    """The distance; it has derivatives."""

    error: Float[Tensor, "*batch"]
    """The standard error of the value; for even directions more than the error that they have."""

    distances: Float[Tensor, "*batch count"]
    """The distance of the projections on each direction."""

    directions: Float[Tensor, "count d"]
    """The unit vectors."""


@final
class Slice(NamedTuple):
    """The largest distance of projections, and its direction."""

    value: Float[Tensor, "*batch"]
    """The distance; it has derivatives."""

    direction: Float[Tensor, "*batch d"]
    """The unit vector."""


def sliced_wasserstein(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    p: float | int = 2,
    directions: int | ArrayLike = 128,
    generator: Generator | None = None,
) -> Float[Tensor, "*batch"]:
    """Return the sliced Wasserstein distance: the p-th root of the mean of W_p^p over projections on lines.

    Clouds are x, *batch n d, and y, *batch m d; weights as for `wasserstein_1d`, which measures each projection.
    `directions` is their number, or the directions themselves: unit vectors, count d. A number gives directions
    that cover the sphere evenly, always the same ones; with a `generator` they are turned at random, so that
    W_p^p has the right mean. `sliced_estimate` also says how exact the value is.

    Derivatives are the first ones, in points, weights and given directions. They are made beside the value, in
    blocks: memory grows with the clouds, not with the directions. At distance zero they are zero.

        loss = metaot.losses.sliced_wasserstein(model(noise), data)
        loss.backward()
    """
    return sliced_estimate(x, y, a, b, p=p, directions=directions, generator=generator).value


def sliced_estimate(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    p: float | int = 2,
    directions: int | ArrayLike = 128,
    generator: Generator | None = None,
) -> SlicedEstimate:
    """Return the sliced Wasserstein distance with its error bar, and the distance for each direction.

    Arguments are those of `sliced_wasserstein`. The error is the standard error of the mean of W_p^p, carried over
    to the root; in two and three dimensions it comes from subsets of the directions that are even, too. It is NaN
    for one direction, and zero on a line, where one direction is all.
    """
    p = require_power(p)
    parts = measures(x, y, a, b, dims=2)
    chosen = directions_of(directions, parts.x, generator)
    value, distances = _Mean.apply(p, *parts, chosen.vectors)  # type: ignore[misc]
    still, largest = value.detach(), distances.amax(-1)
    relative = (distances / largest.where(largest > 0, 1.0)[..., None]).pow(p)
    mean = relative.mean(-1)
    error = still * chosen.error_of_mean(relative) / (p * mean.where(mean > 0, 1.0))
    return SlicedEstimate(value, error, distances, chosen.vectors)


def max_sliced_wasserstein(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    p: float | int = 2,
    directions: int | ArrayLike = 128,
    generator: Generator | None = None,
) -> Float[Tensor, "*batch"]:
    """Return the max-sliced Wasserstein distance: the largest W_p of a projection on a line (arXiv 1904.05877).

    Arguments are those of `sliced_wasserstein`. W_p has many local maxima on the sphere: an ascent starts from
    the best few of the directions. The value is a lower bound, and at least that of each direction. Derivatives
    are those of the plan at the best one (the envelope theorem), which `largest_slice` returns, too.
    """
    return largest_slice(x, y, a, b, p=p, directions=directions, generator=generator).value


def largest_slice(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    p: float | int = 2,
    directions: int | ArrayLike = 128,
    generator: Generator | None = None,
) -> Slice:
    """Return the max-sliced Wasserstein distance with its direction: see `max_sliced_wasserstein`."""
    p = require_power(p)
    parts = measures(x, y, a, b, dims=2)
    vectors = directions_of(directions, parts.x, generator).vectors.detach()
    batch = parts.x.shape[:-2]
    instances = [_instance(parts, k) for k in range(batch.numel())]
    with torch.no_grad():
        best = [_highest(_Clouds.of(each), vectors, p) for each in instances]
    values = [_Mean.apply(p, *each, one[None])[0] for each, one in zip(instances, best, strict=True)]  # type: ignore[index]
    if not values:
        return Slice(parts.x.sum((-2, -1)), parts.x.sum(-2))
    return Slice(torch.stack(values).reshape(batch), torch.stack(best).reshape(*batch, -1))


def _instance(parts: Measures, k: int) -> Measures:
    """Return the k-th pair of a batch, without a batch."""
    clouds = (cloud.reshape(-1, *cloud.shape[-2:])[k] for cloud in parts[:2])
    weights = (None if each is None else each.reshape(-1, each.shape[-1])[k] for each in parts[2:])
    return Measures(*clouds, *weights)


@final
class _Clouds(NamedTuple):
    """Two clouds and the masses of their atoms."""

    x: Float[Tensor, "n d"]
    y: Float[Tensor, "m d"]
    masses: Masses

    @staticmethod
    def of(parts: Measures) -> "_Clouds":
        x, y, a, b = parts
        masses = None if a is None or b is None else (whole_masses(a)[None], whole_masses(b)[None])
        return _Clouds(x, y, masses)

    def slices(self, vectors: Tensor, p: float, wanted: Wanted) -> Iterator[tuple[Tensor, Tensor, Slopes]]:
        """Yield blocks of vectors, the distances of projections on them, and derivatives in the projections.

        A distance that rounding of the projections may have made is zero.
        """
        rounding = 8 * torch.finfo(self.x.dtype).eps * max(self.x.norm(dim=-1).amax(), self.y.norm(dim=-1).amax())
        count = max(1, _BLOCK // max(len(self.x), len(self.y)))
        products = min(_PRODUCTS, 1 + vectors.shape[-1] // _WORTH_A_PRODUCT)
        for part in vectors.split(count * products):
            blocks = (each.split(count) for each in (part, part @ self.x.mT, part @ self.y.mT))
            for block, x, y in zip(*blocks, strict=True):
                found, slopes = row_distances(x, y, self.masses, Rule(p), wanted)
                yield block, found.where(found > rounding, 0.0), slopes

    def in_vectors(self, slopes: Slopes) -> Tensor:
        """Return derivatives of distances in the vectors, from those in the projections."""
        assert slopes.x is not None
        assert slopes.y is not None
        return slopes.x @ self.x + slopes.y @ self.y


def _highest(clouds: _Clouds, vectors: Tensor, p: float) -> Tensor:
    """Return the direction of the largest distance that an ascent from the best of the vectors finds."""
    distances = torch.cat([found for _, found, _ in clouds.slices(vectors, p, Wanted())])
    theta = vectors[distances.topk(min(_STARTS, len(vectors))).indices]
    found, slope = _with_slopes(clouds, theta, p)
    step = torch.ones_like(found)
    for _ in range(_ASCENT):
        along = normalize(slope - (slope * theta).sum(-1, keepdim=True) * theta, dim=-1)
        tried = normalize(theta + step[:, None] * along, dim=-1)
        higher, new_slope = _with_slopes(clouds, tried, p)
        better = higher > found
        gains = higher > found * (1 + _GAIN)
        theta, slope = tried.where(better[:, None], theta), new_slope.where(better[:, None], slope)
        found, step = higher.where(better, found), step * torch.where(better, 1.5, 0.4).to(step)
        if bool((~gains & (step < _SHORT)).all()):
            break
    return theta[found.argmax()]


def _with_slopes(clouds: _Clouds, theta: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Return distances of projections, and their derivatives in the directions."""
    blocks = list(clouds.slices(theta, p, Wanted(x=True, y=True)))
    return torch.cat([found for _, found, _ in blocks]), torch.cat([clouds.in_vectors(each[2]) for each in blocks])


class _Mean(torch.autograd.Function):
    """The p-th root of the mean of W_p^p over directions, and W_p of each; derivatives are made beside them."""

    @staticmethod
    def forward(ctx: Any, p: float, *parts: Any) -> tuple[Tensor, Tensor]:
        wanted, both, vectors = ctx.needs_input_grad[1:], Measures(*parts[:4]), parts[4]
        batch = both.x.shape[:-2]
        value, distances = both.x.new_empty(batch), both.x.new_empty(*batch, len(vectors))
        shapes: list[Any] = [None if part is None else part.shape for part in parts[:4]] + [
            (*batch, *vectors.shape)
        ]
        slopes: list[Any] = [
            value.new_empty(shape) if want else None for shape, want in zip(shapes, wanted, strict=True)
        ]
        for k in range(batch.numel()):
            total = _Total(_Clouds.of(_instance(both, k)), p, wanted)
            own = total.over(vectors)
            value.view(-1)[k] = own[0]
            distances.view(-1, len(vectors))[k] = own[1]
            for whole, part in zip(slopes, own[2], strict=True):
                if whole is not None and part is not None:
                    whole.view(-1, *part.shape)[k] = part
        for k in (2, 3):
            if slopes[k] is not None:
                slopes[k] = on_the_simplex(slopes[k], parts[k])
        ctx.save_for_backward(*slopes)
        ctx.mark_non_differentiable(distances)
        return value, distances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        *slopes, in_vectors = (
            None if slope is None else v.reshape(*v.shape, *(1,) * (slope.ndim - v.ndim)) * slope
            for slope in ctx.saved_tensors
        )
        if in_vectors is not None:
            in_vectors = in_vectors.flatten(0, -3).sum(0) if v.ndim else in_vectors
        return None, *slopes, in_vectors


@final
class _Total:
    """The sliced distance of two clouds with its derivatives, summed over blocks of directions.

    The derivative of a direction counts (W_p/scale)^(p - 1) times; the scale is the largest distance so far.
    """

    def __init__(self, clouds: _Clouds, p: float, wanted: tuple[bool, ...]) -> None:
        self._clouds, self._p, self._wanted = clouds, p, wanted
        self._scale = clouds.x.new_zeros(())
        self._sums: list[Tensor | None] = [None] * 4
        self._in_vectors: list[Tensor] = []

    def over(self, vectors: Tensor) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """Return the distance, the one of each direction, and derivatives in points, weights and directions."""
        x, y, a, b, in_vectors = self._wanted
        all_found = []
        for block, found, slopes in self._clouds.slices(
            vectors, self._p, Wanted(x or in_vectors, y or in_vectors, a, b)
        ):
            all_found.append(found)
            if any(self._wanted):
                self._add(block, found, slopes)
        distances = torch.cat(all_found)
        value = powered_mean(distances, 1 / len(distances), self._p)
        over = value.where(value > 0, torch.inf)
        last = (self._scale / over).pow(self._p - 1) / len(distances)
        derivatives = [None if total is None else total * last for total in self._sums]
        shares = (distances / over).pow(self._p - 1) / len(distances) * (distances > 0)
        derivatives.append(shares[:, None] * torch.cat(self._in_vectors) if in_vectors else None)
        return value, distances, derivatives

    def _add(self, block: Tensor, found: Tensor, slopes: Slopes) -> None:
        before, self._scale = self._scale, torch.maximum(self._scale, found.amax())
        safe = self._scale.where(self._scale > 0, 1.0)
        shares, decay = (found / safe).pow(self._p - 1) * (found > 0), (before / safe).pow(self._p - 1)
        for k, slope in enumerate(slopes):
            if not self._wanted[k] or slope is None:
                continue
            new = slope.mT @ (shares[:, None] * block) if k < 2 else shares @ slope
            total = self._sums[k]
            self._sums[k] = new if total is None else total.mul_(decay).add_(new)
        if self._wanted[4]:
            self._in_vectors.append(self._clouds.in_vectors(slopes))
