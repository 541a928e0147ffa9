"""Torch modules as ONNX graphs, recorded while they run; without shapes in symbols, which take most of an export.

A module runs on two examples at once, whose sizes differ where they may be of any value. Its calls of torch become
nodes, by the rules in `metaot.onnx.operators`. A size that differs is read from the graph's tensors; what else
depends on sizes is refused.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

OPSET, IR_VERSION = 20, 10
DTYPES = {
    torch.float64: onnx.TensorProto.DOUBLE,
    torch.float32: onnx.TensorProto.FLOAT,
    torch.int64: onnx.TensorProto.INT64,
    torch.bool: onnx.TensorProto.BOOL,
}
_FACTS = frozenset({"dtype", "device", "ndim", "dim", "is_cpu", "is_floating_point", "requires_grad"})
"""What of a tensor does not depend on its size."""
_OF_SIZES = {"sym_min": "Min", "sym_max": "Max"}
"""Functions of two sizes."""
_COMBINED = {
    "Add": int.__add__, "Sub": int.__sub__, "Mul": int.__mul__, "Div": int.__floordiv__, "Min": min, "Max": max,
}  # fmt: skip
_IN_PLACE = frozenset({"__iadd__", "__isub__", "__imul__", "__itruediv__"})


class UnrecordedError(Exception):
    """A module does what no rule says how to write."""


class Pair(NamedTuple):
    """A tensor, its twin of the second example, and the name of their value in the graph."""

    tensor: Tensor
    twin: Tensor
    name: str

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """The sizes of both, axis by axis."""
        return list(zip(self.tensor.shape, self.twin.shape, strict=True))


@final
class Size(int):
    """A size that differs between the examples: an integer that knows its value in the graph."""

    twin: int
    named: Callable[[], str]
    """Returns the name of the value, int64 without dimensions, once there is a node for it."""
    combined: "Callable[[str, object, object], object]"

    def __add__(self, other: int) -> Any:
        return self.combined("Add", self, other)

    def __radd__(self, other: int) -> Any:
        return self.combined("Add", other, self)

    def __sub__(self, other: int) -> Any:
        return self.combined("Sub", self, other)

    def __rsub__(self, other: int) -> Any:
        return self.combined("Sub", other, self)

    def __mul__(self, other: int) -> Any:
        return self.combined("Mul", self, other)

    def __rmul__(self, other: int) -> Any:
        return self.combined("Mul", other, self)

    def __floordiv__(self, other: int) -> Any:
        return self.combined("Div", self, other)


Rule = Callable[..., Sequence[str] | str]
"""From the recorder and the arguments of a call to the names of its results."""


@final
class Recorder(TorchFunctionMode):
    """Writes the calls of torch in its context as nodes; `results` are those of the call that is being written."""

    def __init__(self, module: nn.Module, rules: dict[str, Rule]) -> None:
        super().__init__()
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.results: list[Pair] = []
        self._rules = rules
        self._values: dict[int, Pair] = {}
        self._known: dict[Any, list[str]] = {}
        self._stored: dict[Any, str] = {}
        self._owned = {id(value): name for name, value in [*module.named_parameters(), *module.named_buffers()]}

    def follow(self, tensor: Tensor, twin: Tensor, name: str) -> Pair:
        """Take a tensor and its twin as a value of the graph."""
        pair = self._values[id(tensor)] = Pair(tensor, twin, name)
        return pair

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, _name(func)
        if name in _FACTS or not self._follows((args, kwargs)):
            return func(*args, **kwargs)
        if name in {"shape", "size", "__len__", "numel"}:
            return self._sizes(name, *args, **kwargs)
        if name in _OF_SIZES:
            return self._combined(_OF_SIZES[name], *args)
        if name == "item":
            return self._number(*args)
        rule = self._rules.get(name.strip("_"))
        if rule is None:
            raise UnrecordedError(f"torch's function {name!r}")
        written = args
        if _in_place(name):
            pair = self.pair(args[0].clone() if id(args[0]) not in self._values else args[0])
            before = self.follow(pair.tensor.clone(), pair.twin.clone(), pair.name)
            self.follow(args[0], pair.twin, pair.name)
            written = (before.tensor, *args[1:])
        result = func(*self._plain(args), **self._plain(kwargs))
        other = func(*self._twins(args), **self._twins(kwargs))
        if any(result is value for value in args) and not _in_place(name):
            return result
        several = isinstance(result, (tuple, list))
        pairs = zip(result, other, strict=True) if several else [(result, other)]
        self.results = [Pair(tensor, twin, "") for tensor, twin in pairs]
        names = rule(self, *written, **kwargs)
        for pair, value in zip(self.results, [names] if isinstance(names, str) else names, strict=True):
            self.follow(pair.tensor, pair.twin, value)
        return result

    def node(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Return the output of a node, or the list of several; an equal node is not written again."""
        key = (operator, inputs, outputs, tuple(sorted((name, str(value)) for name, value in attributes.items())))
        if key not in self._known:
            names = [f"{operator.lower()}_{len(self.nodes)}" + f"_{k}" * (outputs > 1) for k in range(outputs)]
            self.nodes.append(helper.make_node(operator, list(inputs), names, **attributes))
            self._known[key] = names
        return self._known[key][0] if outputs == 1 else self._known[key]

    def constant(self, values: Any, name: str = "") -> str:
        """Return the name of a tensor that is stored in the graph; equal ones are stored once."""
        array = np.ascontiguousarray(values.numpy(force=True) if isinstance(values, Tensor) else values)
        array = array.reshape(np.shape(values))
        key = array.dtype, array.shape, array.tobytes()
        if key not in self._stored:
            name = name or f"constant_{len(self._stored)}"
            self._stored[key], self.initializers[name] = name, numpy_helper.from_array(array, name)
        return self._stored[key]

    def integers(self, values: Sequence[int]) -> str:
        """Return the name of a vector of sizes, of which some may differ between the examples."""
        if not any(isinstance(value, Size) for value in values):
            return self.constant(np.array(values, np.int64))
        zero = self.constant(np.array([0], np.int64))
        parts = [
            self.node("Unsqueeze", value.named(), zero) if isinstance(value, Size) else self.integers([value])
            for value in values
        ]
        return self.node("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]

    def operand(self, value: Any, dtype: torch.dtype | None = None) -> str:
        """Return the name of a tensor or of a number, as a value of this type."""
        if isinstance(value, Tensor):
            if id(value) not in self._values:
                stored = value if dtype is None else value.detach().to(dtype)
                return self.constant(stored.detach(), self._owned.get(id(value), "") if stored is value else "")
            name = self._values[id(value)].name
            if dtype is None or dtype == value.dtype:
                return name
            return self.node("Cast", name, to=DTYPES[dtype])
        if isinstance(value, Size):
            return self.node("Cast", value.named(), to=DTYPES[dtype or torch.int64])
        return self.constant(torch.tensor(value, dtype=dtype))

    def pair(self, tensor: Tensor) -> Pair:
        """Return a tensor with its twin; a constant is its own."""
        return self._values.get(id(tensor)) or Pair(tensor, tensor.clone(), self.operand(tensor))

    def _sizes(self, name: str, tensor: Tensor, dim: int | None = None) -> Any:
        pair = self.pair(tensor)
        sizes = tuple(self._size(pair, axis) for axis in range(tensor.ndim))
        if name in {"__len__", "numel"}:
            if any(isinstance(size, Size) for size in (sizes[:1] if name == "__len__" else sizes)):
                raise UnrecordedError(f"{name} of a tensor of any size")
            return len(tensor) if name == "__len__" else tensor.numel()
        return sizes if dim is None else sizes[dim]

    def _size(self, pair: Pair, axis: int) -> int:
        one, other = pair.sizes[axis]
        if one == other:
            return one

        def named() -> str:
            return self.node("Gather", self.node("Shape", pair.name), self.constant(np.array(axis)), axis=0)

        return self._new_size(one, other, named)

    def _number(self, tensor: Tensor) -> Size:
        """Return a tensor of one integer as a size."""
        if tensor.dtype != torch.int64:
            raise UnrecordedError("a number that is no integer")
        pair = self.pair(tensor)
        return self._new_size(int(pair.tensor), int(pair.twin), lambda: self.node("Squeeze", pair.name))

    def _new_size(self, value: int, twin: int, named: Callable[[], str]) -> Size:
        size = Size(value)
        size.twin, size.named, size.combined = twin, named, self._combined
        return size

    def _combined(self, operator: str, left: Any, right: Any) -> Any:
        if not (isinstance(left, int) and isinstance(right, int)):
            return NotImplemented
        function = _COMBINED[operator]
        value, twin = function(*self._plain((left, right))), function(*self._twins((left, right)))

        def named() -> str:
            return self.node(operator, self.operand(left, torch.int64), self.operand(right, torch.int64))

        return self._new_size(value, twin, named)

    def _follows(self, values: Any) -> bool:
        """Return whether anything in there is a value of the graph."""
        if isinstance(values, Tensor):
            return id(values) in self._values
        if isinstance(values, (tuple, list, dict)):
            return any(map(self._follows, values.values() if isinstance(values, dict) else values))
        return isinstance(values, Size) or (
            isinstance(values, slice) and self._follows((values.start, values.stop, values.step))
        )

    def _plain(self, values: Any) -> Any:
        return _mapped(values, lambda value: int(value) if isinstance(value, Size) else value)

    def _twins(self, values: Any) -> Any:
        def twin(value: Any) -> Any:
            if isinstance(value, Size):
                return value.twin
            return self.pair(value).twin if isinstance(value, Tensor) and id(value) in self._values else value

        return _mapped(values, twin)


def _mapped(values: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to all numbers and tensors in there."""
    if isinstance(values, dict):
        return {key: _mapped(value, function) for key, value in values.items()}
    if isinstance(values, (tuple, list)):
        return type(values)(_mapped(value, function) for value in values)
    if isinstance(values, slice):
        return slice(*(function(value) for value in (values.start, values.stop, values.step)))
    return function(values)


def _name(func: Any) -> str:
    """Return the name of a function, a method or a property of tensors."""
    name = getattr(func, "__name__", str(func))
    return func.__self__.__name__ if name == "__get__" else name


def _in_place(name: str) -> bool:
    return (not name.endswith("__") and name.endswith("_")) or name in {
        "__iadd__",
        "__isub__",
        "__imul__",
        "__itruediv__",
    }
