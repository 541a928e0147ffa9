"""Training by several processes, on the devices of one machine or of several: what they share and agree on.

`torchrun` starts the processes, and tells each one its number. Every process draws all problems of a step and
keeps its share. Gradients and losses are averaged over the processes, which gives those of the whole batch.
"""

import atexit
import io
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, final

import torch
from torch import Tensor, distributed, nn

from metaot.training.recipe import Recipe, device_of

_PATIENCE = timedelta(hours=2)
"""How long processes wait for another one, as for the first one's measurements; for one that died, not so long."""


@final
@dataclass(frozen=True)
class Processes:
    """Some processes that train one network together, as the one with this number sees them."""

    number: int = 0
    count: int = 1
    device: torch.device | None = None
    """Where this process trains."""

    @property
    def is_first(self) -> bool:
        """Whether this process measures, shows and writes for all."""
        return self.number == 0

    def require_shares(self, batch: int) -> None:
        """Raise ValueError unless a batch can be divided."""
        if batch % self.count:
            more = (batch // self.count + 1) * self.count
            raise ValueError(
                f"{batch} problems of a step cannot be divided equally among {self.count} processes: set "
                f"data.batch to a multiple of {self.count}, such as {more}"
            )

    def share(self, problem: Any) -> Any:
        """Return this process's part of the problems of a step: equally many successive ones for each process."""
        if self.count == 1:
            return problem
        size = problem.batch_shape[0] // self.count
        return problem[self.number * size : (self.number + 1) * size]

    @torch.no_grad()
    def average(self, model: nn.Module, loss: Tensor) -> Tensor:
        """Average the gradients over the processes in place, and return the mean of the losses.

        Ranges (low, high) that a model takes from the problems it sees become those of all processes.
        """
        if self.count == 1:
            return loss
        weights = list(model.parameters())
        parts = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
        sums = torch.cat([part.flatten() for part in (*parts, loss.to(parts[0]))])
        means = self._reduced(sums, distributed.ReduceOp.SUM).div_(self.count)
        *found, mean = means.split([w.numel() for w in weights] + [1])
        for w, gradient in zip(weights, found, strict=True):
            w.grad = gradient.view_as(w)
        for name in getattr(type(model), "of_data", ()):
            seen = getattr(model, name)
            sign = torch.tensor([-1.0, 1.0]).to(seen)
            seen.copy_(sign * self._reduced(sign * seen, distributed.ReduceOp.MAX))
        return mean[0]

    def any(self, happened: bool) -> bool:
        """Return whether something happened in one of the processes; all learn of it at the same step."""
        if self.count == 1:
            return happened
        flag = torch.tensor(float(happened), device=self.device)
        return bool(self._reduced(flag, distributed.ReduceOp.MAX))

    def of_first(self, content: dict[str, Any] | None) -> Any:
        """Return what the first process gives, its tensors on the CPU; what others give is not looked at."""
        if self.count == 1:
            return content
        stream = io.BytesIO()
        torch.save(content, stream)
        sent = [stream.getvalue()]
        with _others_needed(self):
            distributed.broadcast_object_list(sent, device=self.device)
        return torch.load(io.BytesIO(sent[0]), map_location="cpu", weights_only=True)

    def _reduced(self, values: Tensor, how: Any) -> Tensor:
        with _others_needed(self):
            distributed.all_reduce(values, how)
        return values


def joined(recipe: Recipe) -> Processes:
    """Return the processes that train by a recipe together: this one alone, unless torchrun started it.

    Each process of a machine with several CUDA devices takes one of its own. A process group of
    `torch.distributed` that exists already is used as it is; one that is made stays until the process ends. Raises
    ValueError for devices that are not there.
    """
    if not distributed.is_available():
        return Processes()
    if not distributed.is_initialized():
        if not distributed.is_torchelastic_launched():
            return Processes()
        _require_own_device(recipe)
        distributed.init_process_group(timeout=_PATIENCE)
        atexit.register(distributed.destroy_process_group)
    return Processes(distributed.get_rank(), distributed.get_world_size(), device_of(recipe))


def _require_own_device(recipe: Recipe) -> None:
    """Have "cuda" mean another device in each process of this machine; ValueError if they are too few."""
    device, here = device_of(recipe), int(os.environ["LOCAL_WORLD_SIZE"])
    if device.type != "cuda" or here == 1:
        return
    there = torch.cuda.device_count() if device.index is None else 1
    if here > there:
        raise ValueError(
            f"{here} processes of this machine cannot share device {recipe.device!r}, of which there is {there}: "
            "start as many as there are CUDA devices, or give --device cpu"
        )
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


@contextmanager
def _others_needed(processes: Processes) -> Generator[None]:
    """Say what is to be done when a process waits for one that has ended."""
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            f"process {processes.number} of {processes.count} lost another one, which has ended and says why: "
            "start all of them again, and go on from the last save with --resume"
        ) from error
