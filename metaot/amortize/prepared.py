"""What a network computes of eps alone, kept for the next problem at the same temperature."""

from dataclasses import dataclass
from operator import attrgetter
from typing import Any, final

import torch
from torch import Tensor

from metaot.models import Evaluator, PotentialModel

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

    def at(self, model: PotentialModel, eps: float, device: torch.device) -> Evaluator:
        """Return the model at a temperature; it may be used until the model changes."""
        kept = self._kept.get(eps)
        if kept is not None and kept.model is model and kept.state == _state(model, kept.tables):
            return kept.evaluator
        tables = _tables(model)
        state = _state(model, tables)
        if state is None:
            return model.at(torch.tensor([eps], dtype=torch.float32, device=device))
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
            evaluator = model.at(torch.tensor([eps], dtype=torch.float32, device=device))
        others = [(key, value) for key, value in self._kept.items() if key != eps]
        self._kept = dict([*others[1 - _KEPT :], (eps, _Kept(model, tables, state, evaluator))])
        return evaluator

    def __reduce__(self) -> tuple[type["Prepared"], tuple[()]]:
        return Prepared, ()  # a copy has other weights, a process other addresses


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
    evaluator: Evaluator


def _tables(model: PotentialModel) -> _Tables:
    return [table for part in model.modules() for table in (part._parameters, part._buffers) if table]


def _state(model: PotentialModel, tables: _Tables) -> _State | None:
    """Return the state of a model; None for one that must be asked each time."""
    tensors = [tensor for table in tables for tensor in table.values() if tensor is not None]
    if any(map(_takes_gradients, tensors)):
        return None
    try:
        return model.passes, list(map(Tensor.data_ptr, tensors)), list(map(_version, tensors))
    except RuntimeError:  # made in inference mode: torch does not count the writes to it
        return None
