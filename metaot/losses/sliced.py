"""Sliced Wasserstein distances: the mean, or the largest, of the distances of projections on lines."""

from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import normalize

from metaot.arrays import ArrayLike
from metaot.losses.directions import directions_of
from metaot.losses.measures import measures, require_power
from metaot.losses.projections import Clouds, SlicedMean, instance
from metaot.losses.quantiles import Wanted

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
    value, distances = SlicedMean.apply(p, *parts, chosen.vectors)  # type: ignore[misc]
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
    instances = [instance(parts, k) for k in range(batch.numel())]
    with torch.no_grad():
        best = [_highest(Clouds.of(each), vectors, p) for each in instances]
    values = [SlicedMean.apply(p, *each, one[None])[0] for each, one in zip(instances, best, strict=True)]  # type: ignore[index]
    if not values:
        return Slice(parts.x.sum((-2, -1)), parts.x.sum(-2))
    return Slice(torch.stack(values).reshape(batch), torch.stack(best).reshape(*batch, -1))


def _highest(clouds: Clouds, vectors: Tensor, p: float) -> Tensor:
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


def _with_slopes(clouds: Clouds, theta: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Return distances of projections, and their derivatives in the directions."""
    blocks = list(clouds.slices(theta, p, Wanted(x=True, y=True)))
    return torch.cat([found for _, found, _ in blocks]), torch.cat([clouds.in_vectors(each[2]) for each in blocks])
