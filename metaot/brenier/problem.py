"""Continuous problems: samples of two measures, and the context that a model reads."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.geometry.checks import require_finite


@final
@dataclass(frozen=True)
class SampleProblem:
    """A batch of transport problems between two measures, for the cost |x - y|^2 / 2, given by samples.

    Some models read `context`, of shape (*batch, 2, ...) for source and target, instead of the samples. Raises
    ValueError for samples that are not finite, and for shapes that do not fit.
    """

    x: Float[Tensor, "*batch n d"]
    y: Float[Tensor, "*batch m d"]
    context: Tensor | None = None

    def __post_init__(self) -> None:
        for name, samples in (("x", self.x), ("y", self.y)):
            require_finite(name, samples)
            if samples.ndim < 2 or 0 in samples.shape[-2:]:
                raise ValueError(f"{name} must have the shape (*batch, samples, d), got {tuple(samples.shape)}")
        if self.x.dtype != self.y.dtype or self.x.device != self.y.device:
            raise ValueError(
                f"x is {self.x.dtype} on {self.x.device}, y is {self.y.dtype} on {self.y.device}: "
                "convert one of them"
            )
        if self.x.shape[:-2] != self.y.shape[:-2] or self.x.shape[-1] != self.y.shape[-1]:
            raise ValueError(
                f"x of shape {tuple(self.x.shape)} and y of {tuple(self.y.shape)} may differ only in the "
                "number of samples"
            )
        batch = self.batch_shape
        if self.context is not None and self.context.shape[: len(batch) + 1] != (*batch, 2):
            raise ValueError(
                f"context must have the shape {(*batch, 2)} and more, got {tuple(self.context.shape)}"
            )

    @classmethod
    def trusted(cls, x: Tensor, y: Tensor, context: Tensor | None) -> "SampleProblem":
        """Make a problem of checked parts, without another check that would wait for the device."""
        problem = object.__new__(cls)
        for name, value in (("x", x), ("y", y), ("context", context)):
            object.__setattr__(problem, name, value)
        return problem

    @property
    def T(self) -> "SampleProblem":
        """The same problem with source and target exchanged."""
        context = None if self.context is None else self.context.flip(len(self.batch_shape))
        return SampleProblem.trusted(self.y, self.x, context)

    @property
    def batch_shape(self) -> torch.Size:
        """The shape of the batch; () for a single problem."""
        return self.x.shape[:-2]

    @property
    def dim(self) -> int:
        """The dimension of the space."""
        return self.x.shape[-1]

    def __getitem__(self, index: object) -> "SampleProblem":
        """Return a part of the batch; `index` is anything that indexes the batch dimensions of a tensor."""
        return self._mapped(lambda part: part[index])  # type: ignore[index]

    def to(self, like: Tensor) -> "SampleProblem":
        """Return the problems in the dtype and on the device of `like`."""
        return self._mapped(lambda part: part.to(like))

    def flat(self) -> "SampleProblem":
        """Return the same problems with one batch dimension."""
        rank = len(self.batch_shape)
        return self._mapped(lambda part: part.reshape(-1, *part.shape[rank:]))

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> "SampleProblem":
        context = None if self.context is None else change(self.context)
        return SampleProblem.trusted(change(self.x), change(self.y), context)
