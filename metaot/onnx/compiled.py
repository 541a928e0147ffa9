"""The network of a checkpoint as onnxruntime evaluates it, in place of torch."""

import hashlib
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final

import torch
from torch import Tensor, nn

from metaot.models import Exportable, Network
from metaot.onnx.files import runner, session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FILES = "network.onnx", "correction.onnx"
"""The files beside the weights: the network, and the correction of its refinement steps."""
WEIGHTS = "weights_sha256"
"""Where the files say which weights they were made from."""
_MANY = 2**14
"""Numbers in a batch from which on more than one thread is of use."""


@final
class OnnxNetwork:
    """The two functions of a network in sessions of onnxruntime, for weights with one fingerprint.

    Raises ValueError for files that were not made from the same weights. It pickles with the files' contents.
    """

    def __init__(self, contents: Sequence[bytes], name: str = "files in memory") -> None:
        self._contents, self._name = tuple(contents), name
        self._sessions: dict[int, Evaluated] = {}
        found = self._at(1).weights
        if len(found) != 1 or "" in found:
            raise ValueError(f"the ONNX files of {name} were not made from the same weights")
        (self._weights,) = found
        self._known: _Known | None = None

    @classmethod
    def beside(cls, folder: Path) -> "OnnxNetwork | None":
        """Open the files in a checkpoint's folder; None if there are none."""
        paths = [folder / name for name in FILES if (folder / name).exists()]
        return cls([path.read_bytes() for path in paths], str(folder)) if paths else None

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
            self._sessions[threads] = Evaluated(self._contents, self._name, threads)
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

    def __reduce__(self) -> tuple[type["OnnxNetwork"], tuple[tuple[bytes, ...], str]]:
        return OnnxNetwork, (self._contents, self._name)


@final
class Evaluated(Network):
    """A network in sessions: tensors in, tensors out; arrays in, arrays out."""

    def __init__(self, contents: Sequence[bytes], name: str, threads: int) -> None:
        sessions = [session(name, content, threads=threads) for content in contents]
        self.weights = {opened.get_modelmeta().custom_metadata_map.get(WEIGHTS, "") for opened in sessions}
        self._functions = list(map(_Function, sessions))

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
    """Return the SHA-256 of a model's weights and their names."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
