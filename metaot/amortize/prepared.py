"""What a network computes of eps alone, kept for the next problem at the same temperature."""

from dataclasses import dataclass
from operator import attrgetter
from typing import Any, final

import torch
from torch import Tensor, nn

from metaot.models import Alone, Evaluator, PotentialModel

_KEPT = 8
"""How many temperatures are remembered."""


@final
class Prepared:
    """`model.at(eps)` for the last few temperatures, made again when the model has changed.

    A model that takes gradients is asked each time, so that they reach all its weights. Several threads may
    ask at once: what is kept is replaced as a whole.
    """

    def __init__(self) -> None:
        self._kept: dict[float, _Kept] = {}

    def at(self, model: PotentialModel, eps: float, device: torch.device) -> "tuple[Evaluator, Alone | None]":
        """Return the model at a temperature, and its twin for one problem on a CPU, if there is one.

        Both may be used until the model changes.
        """
        kept = self._kept.get(eps)
        if kept is not None and kept.model is model and kept.state == _state(model, kept.tables):
            return kept.evaluators
        tables = _tables(model)
        state = _state(model, tables)
        if state is None:
            return model.at(torch.tensor([eps], dtype=torch.float32, device=device)), None
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
            evaluator = model.at(torch.tensor([eps], dtype=torch.float32, device=device))
            evaluators = evaluator, evaluator.alone() if _fits_numpy(model, device) else None
        others = [(key, value) for key, value in self._kept.items() if key != eps]
        self._kept = dict([*others[1 - _KEPT :], (eps, _Kept(model, tables, state, evaluators))])
        return evaluators

    def __reduce__(self) -> tuple[type["Prepared"], tuple[()]]:
        return Prepared, ()  # a copy has other weights, a process other addresses


@final
class Twin:
    """The twin in numpy of a model whose weights take no gradients, made again when these are elsewhere."""

    def __init__(self) -> None:
        self._kept: tuple[object, _Tables, list[int], Any] | None = None

    def of(self, model: Any) -> Any:
        """Return `model.alone()`, of now or of before."""
        kept = self._kept
        if kept is not None and kept[0] is model and kept[2] == _addresses(kept[1]):
            return kept[3]
        tables = _tables(model)
        self._kept = model, tables, _addresses(tables), model.alone()
        return self._kept[3]

    def __reduce__(self) -> tuple[type["Twin"], tuple[()]]:
        return Twin, ()


_Tables = list[dict[str, Any]]
"""The dictionaries in which the modules of a model hold their tensors."""
_State = tuple[int, list[int], list[int]]
"""What is equal as long as nobody changes a model: its passes, where the weights are and how often written."""

_version = attrgetter("_version")
_takes_gradients = attrgetter("requires_grad")


@final
@dataclass(frozen=True)
class _Kept:
    model: PotentialModel
    tables: _Tables
    state: _State
    evaluators: tuple[Evaluator, Alone | None]


def _tables(model: nn.Module) -> _Tables:
    return [table for part in model.modules() for table in (part._parameters, part._buffers) if table]


def _addresses(tables: _Tables) -> list[int]:
    return [tensor.data_ptr() for table in tables for tensor in table.values() if tensor is not None]


def _fits_numpy(model: PotentialModel, device: torch.device) -> bool:
    return device.type == "cpu" and all(
        weight.dtype == torch.float32 and weight.device.type == "cpu" for weight in model.parameters()
    )


def _state(model: PotentialModel, tables: _Tables) -> _State | None:
    """Return the state of a model; None for one that must be asked each time."""
    tensors = [tensor for table in tables for tensor in table.values() if tensor is not None]
    if torch.is_grad_enabled() and any(map(_takes_gradients, tensors)):
        return None
    try:
        return model.passes, list(map(Tensor.data_ptr, tensors)), list(map(_version, tensors))
    except RuntimeError:  # made in inference mode: torch does not count the writes to it
        return None
