"""Continuous problems: samples of two measures, and the context that a model reads."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.arrays import ArrayLike, wrong
from metaot.geometry.checks import are_alike, given, require_finite, tensor, together

Same = TypeVar("Same", bound="Batched")

_TAKEN = "samples (a tensor, an array, a table or nested lists)"


@dataclass(frozen=True)
class Batched(ABC):
    """Data of a batch: the first dimensions of every tensor are the batch's."""

    @property
    @abstractmethod
    def batch_shape(self) -> torch.Size:
        """The shape of the batch; () for a single problem."""

    def __getitem__(self: Same, index: object) -> Same:
        """Return a part of the batch; `index` is anything that indexes the batch dimensions of a tensor."""
        return self._mapped(lambda part: part[index])  # type: ignore[index]

    def to(self: Same, like: Tensor) -> Same:
        """Return the same in the dtype and on the device of `like`."""
        return self._mapped(lambda part: part.to(like))

    def reshaped(self: Same, batch: Sequence[int]) -> Same:
        """Return the same with another batch shape."""
        rank = len(self.batch_shape)
        return self._mapped(lambda part: part.reshape((*batch, *part.shape[rank:])))

    def _mapped(self: Same, change: Callable[[Tensor], Tensor]) -> Same:
        """Return the same with every tensor changed, without another check of the values."""
        changed: Same = object.__new__(type(self))  # type: ignore[assignment]
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                value = change(value)
            elif isinstance(value, Batched):
                value = value._mapped(change)
            object.__setattr__(changed, name, value)
        return changed


@final
@dataclass(frozen=True, init=False)
class SampleProblem(Batched):
    """A batch of transport problems between two measures, for the cost |x - y|^2 / 2, given by samples.

    Samples are tensors, arrays, tables or nested lists; float32 beside float64 becomes float64. Some models read
    `context`, of shape (*batch, 2, ...) for source and target, instead of the samples. Raises ValueError for
    samples that are not finite, and for shapes that do not fit; TypeError for what holds no numbers.
    """

    x: Float[Tensor, "*batch n d"]
    y: Float[Tensor, "*batch m d"]
    context: Tensor | None = None

    def __init__(self, x: ArrayLike, y: ArrayLike, context: ArrayLike | None = None) -> None:
        if not are_alike(x, y):
            x, y = together(*(given(name, samples, _TAKEN) for name, samples in (("x", x), ("y", y))))
        if context is not None and not isinstance(context, Tensor):
            context = tensor("context", context, like=x)  # type: ignore[arg-type]
        vars(self).update(x=x, y=y, context=context)
        for name, samples in (("x", self.x), ("y", self.y)):
            require_finite(name, samples)
            if samples.ndim < 2 or 0 in samples.shape[-2:]:
                line = f": samples on a line are {name}[:, None]" if samples.ndim == 1 else ""
                raise ValueError(
                    f"{name} must have the shape (*batch, samples, d), got {tuple(samples.shape)}{line}"
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

    def __repr__(self) -> str:
        context = "" if self.context is None else f", context of {tuple(self.context.shape)}"
        return f"SampleProblem(x of {tuple(self.x.shape)}, y of {tuple(self.y.shape)}{context})"

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
        return self.x.shape[:-2]

    @property
    def dim(self) -> int:
        """The dimension of the space."""
        return self.x.shape[-1]

    def flat(self) -> "SampleProblem":
        """Return the same problems with one batch dimension."""
        return self.reshaped((-1,))


def require_samples(problem: object) -> SampleProblem:
    """Return a continuous problem; TypeError for everything else."""
    if not isinstance(problem, SampleProblem):
        raise wrong("problem", "a metaot.SampleProblem(x, y)", problem)
    return problem
