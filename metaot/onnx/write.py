"""The network of a checkpoint as ONNX files, compared with torch, and with the digest of its weights."""

import copy
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from metaot import digest
from metaot.models import Exportable
from metaot.models.base import FEATURES
from metaot.onnx.compiled import FILES, FUNCTION, WEIGHTS, OnnxNetwork, fingerprint
from metaot.onnx.parity import largest
from metaot.onnx.trace import traced

_TRACED, _COMPARED = 3, 5
"""The sizes of the batches that a network is traced with, and compared on."""
_FEW = 64
"""The number of elements up to which a tensor stays in float32."""
_DIFFERENCE = 1e-4
"""How much the two may differ, as a share of the largest number."""


def network_files(model: Exportable) -> list[bytes]:
    """Return the ONNX files of a network, and of its correction if it has one; ValueError if they are wrong."""
    model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    weights, sizes = fingerprint(model), _Sizes()
    examples = zip(("forward", "correct"), _inputs(model, _TRACED), _inputs(model, _COMPARED), strict=False)
    contents = []
    for file, (name, inputs, others) in zip(FILES, examples, strict=False):
        shapes = tuple(sizes.of(x, y) for x, y in zip(inputs, others, strict=True))
        function = _Function(model, name)
        names = [f"input{k}" for k in range(len(inputs))], [f"output{k}" for k in range(len(function(*inputs)))]
        proto = traced(function, inputs, shapes, inputs=names[0], outputs=names[1])
        _store_in_half(proto.graph)
        proto.metadata_props.add(key=WEIGHTS, value=weights)
        proto.metadata_props.add(key=FUNCTION, value=file)
        onnx.checker.check_model(proto)
        contents.append(digest.sealed(proto.SerializeToString()))
    _require_equal(model, OnnxNetwork(contents))
    return contents


class _Sizes:
    """Names for the sizes that differ between two examples: those of the batch, and others."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, int], Any] = {}

    def of(self, x: Tensor, y: Tensor) -> dict[int, Any]:
        """Return the sizes of an input that may be others, by axis."""
        pairs = [(k, pair) for k, pair in enumerate(zip(x.shape, y.shape, strict=True)) if pair[0] != pair[1]]
        for _, pair in pairs:
            if pair not in self.known:
                self.known[pair] = torch.export.Dim(f"size{len(self.known)}", min=2, max=2**31)
        return {k: self.known[pair] for k, pair in pairs}


class _Function(nn.Module):
    """One of the functions of a network as a module."""

    def __init__(self, model: Exportable, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found = getattr(self.model, self.name)(*inputs)
        return found if isinstance(found, tuple) else (found,)


def _inputs(model: Exportable, batch: int) -> list[tuple[Tensor, ...]]:
    """Return the inputs of both functions for a batch; those of the correction are what the network gives."""
    generator = torch.Generator().manual_seed(batch)
    inputs = model.example(batch)
    first, *others = inputs
    noise = 1 + 0.5 * torch.rand(first.shape, generator=generator, dtype=torch.float32)
    inputs = (first * noise, *others)
    if not model.corrects:
        return [inputs]
    f, *features = model(*inputs)[:FEATURES]
    missing = 1e-3 * torch.randn(f.shape, generator=generator, dtype=torch.float32)
    return [inputs, (missing, *features)]


def _store_in_half(graph: onnx.GraphProto) -> None:
    """Store tensors in float16 where that loses nothing, as those of compact checkpoints; a session undoes it."""
    casts = []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < _FEW:
            continue
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if np.array_equal(half.astype(np.float32), values):
            name = tensor.name
            tensor.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}_half"))
            casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])


@torch.no_grad()
def _require_equal(model: Exportable, compiled: OnnxNetwork) -> None:
    """Raise ValueError unless onnxruntime gives the numbers of torch, also for one problem and for many."""
    for batch in (1, _COMPARED, 64):
        inputs = _inputs(model, batch)
        network = compiled.of(model, inputs[0][0])
        assert network is not None
        pairs = list(zip(network(*inputs[0]), model(*inputs[0]), strict=True))
        if model.corrects:
            pairs.append((network.correct(*inputs[1]), model.correct(*inputs[1])))
        for found, expected in pairs:
            off = largest((found - expected).abs().flatten(), expected.abs().max())
            if not off <= _DIFFERENCE:
                raise ValueError(f"the network in ONNX differs from torch by {off:.1e} in a batch of {batch}")
