"""Distances of the projections of two clouds on many lines, and their mean, with derivatives made beside them."""

from collections.abc import Iterator
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from metaot.losses.measures import Measures, on_the_simplex
from metaot.losses.quantiles import Masses, Rule, Slopes, Wanted, powered_mean, row_distances, whole_masses

_BLOCK = 2**18
"""Entries of one measure's projections that are sorted at a time: what a processor keeps at hand."""

_WORTH_A_PRODUCT, _PRODUCTS = 8, 4
"""Coordinates for which one block is worth a matrix product, and the blocks that one product makes at most."""


def instance(parts: Measures, k: int) -> Measures:
    """Return the k-th pair of a batch, without a batch."""
    clouds = (cloud.reshape(-1, *cloud.shape[-2:])[k] for cloud in parts[:2])
    weights = (None if each is None else each.reshape(-1, each.shape[-1])[k] for each in parts[2:])
    return Measures(*clouds, *weights)


@final
class Clouds(NamedTuple):
    """Two clouds and the masses of their atoms."""

    x: Float[Tensor, "n d"]
    y: Float[Tensor, "m d"]
    masses: Masses

    @staticmethod
    def of(parts: Measures) -> "Clouds":
        x, y, a, b = parts
        masses = None if a is None or b is None else (whole_masses(a)[None], whole_masses(b)[None])
        return Clouds(x, y, masses)

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


class SlicedMean(torch.autograd.Function):
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
            total = _Total(Clouds.of(instance(both, k)), p, wanted)
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

    def __init__(self, clouds: Clouds, p: float, wanted: tuple[bool, ...]) -> None:
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
