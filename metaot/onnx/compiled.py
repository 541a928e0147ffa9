"""The network of a checkpoint as onnxruntime evaluates it, in place of torch."""

from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final

import torch
from torch import Tensor, nn

from metaot import digest
from metaot.models import Exportable, Network
from metaot.onnx.files import runner, sessions

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FILES = "network.onnx", "correction.onnx"
"""The files beside the weights: the network, and the correction of its refinement steps."""
WEIGHTS, FUNCTION = "weights", "function"
"""Where the files say which weights they were made from, and which of `FILES` they are."""
_MANY = 2**14
"""Numbers in a batch from which on more than one thread is of use."""


@final
class OnnxNetwork:
    """The two functions of a network in sessions of onnxruntime, for weights with one fingerprint.

    Raises ValueError for files that were not made from the same weights. It pickles with the files' contents.
    """

    def __init__(self, contents: Sequence[bytes], names: Sequence[str] = ()) -> None:
        self._contents, self._names = tuple(contents), tuple(names or FILES[: len(contents)])
        self._sessions: dict[int, Evaluated] = {}
        self._weights = self._at(1).weights
        self._known: _Known | None = None

    @classmethod
    def beside(cls, folder: Path, model: Exportable) -> "OnnxNetwork | None":
        """Open the files of a model in its checkpoint's folder; None if there are none.

        Raises FileNotFoundError where one is missing, and ValueError where one was made from other weights.
        """
        paths = [folder / name for name in FILES]
        if not any(path.exists() for path in paths):
            return None
        paths = paths[: 1 + model.corrects]
        for path in paths:
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path} is missing: copy it anew, or remove the other .onnx files as well"
                )
        network = cls([path.read_bytes() for path in paths], list(map(str, paths)))
        if network._weights != fingerprint(model):
            raise ValueError(f"{paths[0]} was made from other weights than those beside it: {digest.AGAIN}")
        return network

    def of(self, model: Exportable, *inputs: Tensor) -> "Evaluated | None":
        """Return the network for these inputs; None unless the model has these weights and all is on a CPU.

        None also where somebody takes derivatives.
        """
        derived = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
        if derived or not inputs[0].is_cpu or len(inputs[0]) == 0 or not self._belongs_to(model):
            return None
        return self._at(torch.get_num_threads() if inputs[0].numel() >= _MANY else 1)

    def _at(self, threads: int) -> "Evaluated":
        if threads not in self._sessions:
            self._sessions[threads] = Evaluated(self._contents, self._names, threads)
        return self._sessions[threads]

    def _belongs_to(self, model: Exportable) -> bool:
        """Return whether the model has these weights; compared again when one of them was written to or moved."""
        known = self._known
        if known is None or known.model is not model:
            tables = [table for part in model.modules() for table in (part._parameters, part._buffers) if table]
            known = _Known(model, tables, None, False)
        tensors = [tensor for table in known.tables for tensor in table.values() if tensor is not None]
        if torch.is_grad_enabled() and any(map(_takes_gradients, tensors)):
            return False
        try:
            state = list(map(Tensor.data_ptr, tensors)), list(map(_version, tensors))
        except RuntimeError:  # made in inference mode, where torch counts no writes
            return False
        if known.state != state:
            known = _Known(model, known.tables, state, fingerprint(model) == self._weights)
        self._known = known
        return known.same

    def __reduce__(self) -> tuple[type["OnnxNetwork"], tuple[tuple[bytes, ...], tuple[str, ...]]]:
        return OnnxNetwork, (self._contents, self._names)


@final
class Evaluated(Network):
    """A network in sessions: tensors in, tensors out; arrays in, arrays out."""

    def __init__(self, contents: Sequence[bytes], names: Sequence[str], threads: int) -> None:
        opened = sessions(names, contents, threads=threads)
        found = [each.get_modelmeta().custom_metadata_map for each in opened]
        self.weights = found[0].get(WEIGHTS, "")
        for name, file, entries in zip(names, FILES, found, strict=False):
            if not self.weights or (entries.get(WEIGHTS), entries.get(FUNCTION)) != (self.weights, file):
                raise ValueError(f"{name} is not the {file} that belongs to {names[0]}: {digest.AGAIN}")
        self._functions = list(map(_Function, opened))

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        return tuple(self._functions[0](inputs))

    def correct(self, missing: Any, *features: Any) -> Any:
        return self._functions[1]((missing, *features))[0]


class _Function:
    def __init__(self, opened: "InferenceSession") -> None:
        self._run = runner(opened)
        self._outputs = [value.name for value in opened.get_outputs()]
        self._inputs = [value.name for value in opened.get_inputs()]

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        if isinstance(inputs[0], Tensor):
            return [torch.from_numpy(value) for value in self([tensor.detach().numpy() for tensor in inputs])]
        return self._run(self._outputs, dict(zip(self._inputs, inputs, strict=True)), None)


class _Known(NamedTuple):
    """A model whose weights were compared, in a state that stays equal while nobody writes to them."""

    model: nn.Module
    tables: list[dict[str, Any]]
    """The dictionaries in which its modules hold their tensors."""
    state: object
    same: bool


_version, _takes_gradients = attrgetter("_version"), attrgetter("requires_grad")


def fingerprint(model: nn.Module) -> str:
    """Return the digest of a model's weights and their names."""
    return digest.of_arrays({name: _array(value.detach().cpu()) for name, value in model.state_dict().items()})


def _array(value: Tensor) -> Any:
    if value.dtype == torch.bfloat16:  # numpy has no such numbers
        value = value.contiguous().view(torch.int16)
    return value.numpy()
