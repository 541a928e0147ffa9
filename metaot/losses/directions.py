"""Directions that cover the sphere evenly.

In two dimensions they are equally spaced angles, in three a spiral lattice (arXiv 2309.11713), in more Sobol
points that the normal quantile brings to the sphere. These are moved a little, to the second moments of the
sphere: then they are a tight frame, and the mean of a quadratic form over them is exact.
"""

import math
from functools import lru_cache
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize
from torch.quasirandom import SobolEngine

from metaot.arrays import ArrayLike, as_count, wrong
from metaot.geometry.checks import first_place, require_finite, tensor

_GROUPS = {2: 8, 3: 10}
"""Into how many sets of every k-th direction the even ones are divided, each of which covers the sphere, too."""

_ROUNDS = 30
"""Times that directions are moved, at most."""


@final
class Directions(NamedTuple):
    """Unit vectors; direction k is in group k mod `groups`, and each group covers the sphere by itself."""

    vectors: Float[Tensor, "count d"]
    groups: int = 1

    def error_of_mean(self, values: Float[Tensor, "*batch count"]) -> Float[Tensor, "*batch"]:
        """Return the standard error of the mean of values: between groups, if there are several.

        NaN for a single direction in more than one dimension.
        """
        if values.numel() == 0:
            return values.sum(-1)
        if values.shape[-1] < 2:
            return torch.full_like(values[..., 0], torch.nan if self.vectors.shape[-1] > 1 else 0.0)
        if self.groups > 1:
            values = torch.stack([values[..., k :: self.groups].mean(-1) for k in range(self.groups)], -1)
        return values.std(-1) / math.sqrt(values.shape[-1])


def directions_of(what: int | ArrayLike, like: Tensor, generator: torch.Generator | None) -> Directions:
    """Return a number of even directions for points of d dimensions, or those that were given, as `like` is."""
    d = like.shape[-1]
    if not isinstance(generator, torch.Generator | None):
        raise wrong("generator", "a torch.Generator, or None", generator)
    if getattr(what, "shape", ()) == () and not isinstance(what, list | tuple):
        count = as_count("directions", what)
        if count < 1:
            raise ValueError(
                f"directions must be a positive number, or unit vectors of shape (count, d), got {count}"
            )
        vectors, groups = even_directions(count, d)
        if generator is not None:
            vectors = _turned(vectors, generator)
        return Directions(vectors.to(like), groups)
    vectors = tensor("directions", what, like=like)
    if generator is not None:
        raise ValueError("a generator turns even directions: give a number of directions, or no generator")
    if vectors.ndim != 2 or vectors.shape[-1] != d or not len(vectors):
        raise ValueError(f"directions must have the shape (count, {d}), got {tuple(vectors.shape)}")
    require_finite("directions", vectors)
    norm = vectors.detach().norm(dim=-1)
    off = (norm - 1).abs() > 1e-4
    if bool(off.any()):
        raise ValueError(
            f"directions must be unit vectors, got |directions|{first_place(off, norm)}: normalise them"
        )
    return Directions(vectors.to(like), 1)


@lru_cache(maxsize=16)
def even_directions(count: int, d: int) -> Directions:
    """Return directions that are always the same, in float64; x and -x count as one."""
    if d == 1:
        return Directions(torch.ones(1, 1, dtype=torch.float64))
    steps, groups = torch.arange(count, dtype=torch.float64), _GROUPS.get(d, 1)
    groups = groups if count >= 4 * groups else 1
    if d == 2:
        angle = math.pi * (steps + 0.5) / count
        return Directions(torch.stack([angle.cos(), angle.sin()], -1), groups)
    if d == 3:
        height, angle = (steps + 0.5) / count, math.pi * (3 - math.sqrt(5)) * steps
        radius = (1 - height.square()).sqrt()
        return Directions(torch.stack([radius * angle.cos(), radius * angle.sin(), height], -1), groups)
    cube = SobolEngine(d, scramble=True, seed=0).draw(count, dtype=torch.float64)
    return Directions(_tight_frame(torch.special.ndtri(cube.clamp(1e-9, 1 - 1e-9))))


def _tight_frame(rows: Float[Tensor, "count d"]) -> Float[Tensor, "count d"]:
    """Return unit vectors near the directions of rows, with equal second moments; few ones are orthonormal."""
    vectors = normalize(rows, dim=-1)
    for _ in range(_ROUNDS):
        left, _, right = torch.linalg.svd(vectors, full_matrices=False)
        vectors = left @ right
        norm = vectors.norm(dim=-1, keepdim=True)
        vectors = vectors / norm
        if float(norm.amax() / norm.amin()) < 1 + 1e-6:
            break
    return vectors


def _turned(vectors: Float[Tensor, "count d"], generator: torch.Generator) -> Float[Tensor, "count d"]:
    """Return directions after a random rotation, or reflection."""
    d = vectors.shape[-1]
    drawn = torch.randn(d, d, generator=generator, dtype=torch.float64, device=generator.device)
    Q, R = torch.linalg.qr(drawn)
    return vectors.to(drawn) @ (Q * R.diagonal().sign())
