"""How the functions of torch that models use are written in ONNX: the rules of `metaot.onnx.record`.

Each rule has the arguments of its function, behind the recorder.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaot.onnx.record import DTYPES, Recorder, Rule, Size, UnrecordedError

_END = 2**62
"""Where a slice ends that has no end."""


def _dtype(r: Recorder) -> torch.dtype:
    return r.results[0].tensor.dtype


def _binary(operator: str, *, reverse: bool = False) -> Rule:
    def rule(r: Recorder, left: Any, right: Any) -> str:
        operands = [r.operand(value, _dtype(r)) for value in ((right, left) if reverse else (left, right))]
        return r.node(operator, *operands)

    return rule


def _comparison(operator: str) -> Rule:
    def rule(r: Recorder, left: Any, right: Any) -> str:
        common = torch.result_type(left, right)
        return r.node(operator, r.operand(left, common), r.operand(right, common))

    return rule


def _unary(operator: str) -> Rule:
    return lambda r, x: r.node(operator, r.operand(x, _dtype(r)))


def _same(r: Recorder, x: Tensor, *_: Any, **__: Any) -> str:
    """Write what changes at most the type."""
    return r.operand(x, _dtype(r))


def _pow(r: Recorder, base: Any, exponent: Any) -> str:
    if isinstance(exponent, (int, float)) and exponent in {0.5, 2}:
        x = r.operand(base, _dtype(r))
        return r.node("Sqrt", x) if exponent == 0.5 else r.node("Mul", x, x)
    return r.node("Pow", r.operand(base, _dtype(r)), r.operand(exponent, _dtype(r)))


def _square(r: Recorder, x: Tensor) -> str:
    return _pow(r, x, 2)


def _rsqrt(r: Recorder, x: Tensor) -> str:
    return r.node("Reciprocal", r.node("Sqrt", r.operand(x)))


def _gelu(r: Recorder, x: Tensor, approximate: str = "none") -> str:
    return r.node("Gelu", r.operand(x), approximate=approximate)


def _relu(r: Recorder, x: Tensor, inplace: bool = False) -> str:
    if inplace:
        raise UnrecordedError("relu in place")
    return r.node("Relu", r.operand(x))


def _leaky_relu(r: Recorder, x: Tensor, negative_slope: Any = 0.01, inplace: bool = False) -> str:
    if inplace:
        raise UnrecordedError("leaky_relu in place")
    return r.node("LeakyRelu", r.operand(x), alpha=float(negative_slope))


def _softplus(r: Recorder, x: Tensor, beta: Any = 1, threshold: Any = 20) -> str:
    if beta != 1:
        raise UnrecordedError("softplus of another beta")
    return r.node("Softplus", r.operand(x))


def _clip(r: Recorder, x: Tensor, min: Any = None, max: Any = None) -> str:
    name = r.operand(x, _dtype(r))
    for operator, bound in (("Max", min), ("Min", max)):
        name = name if bound is None else r.node(operator, name, r.operand(bound, _dtype(r)))
    return name


def _where(r: Recorder, condition: Tensor, x: Any, y: Any) -> str:
    return r.node("Where", r.operand(condition), r.operand(x, _dtype(r)), r.operand(y, _dtype(r)))


def _reduced(operator: str) -> Rule:
    def rule(r: Recorder, x: Tensor, dim: Any = None, keepdim: bool = False) -> str:
        dims = [] if dim is None else [dim] if isinstance(dim, int) else list(dim)
        axes = [r.integers(dims)] if dims else []
        return r.node(operator, r.operand(x, _dtype(r)), *axes, keepdims=int(keepdim))

    return lambda r, x, dim=None, keepdim=False, axis=None: rule(r, x, dim if axis is None else axis, keepdim)


def _softmax(r: Recorder, x: Tensor, dim: int, *, dtype: Any = None) -> str:
    return r.node("Softmax", r.operand(x, _dtype(r)), axis=dim)


def _frac(r: Recorder, x: Tensor) -> str:
    name = r.operand(x)
    whole = r.node("Mul", r.node("Sign", name), r.node("Floor", r.node("Abs", name)))
    return r.node("Sub", name, whole)


def _isfinite(r: Recorder, x: Tensor) -> str:
    return r.node("Less", r.node("Abs", r.operand(x)), r.constant(torch.tensor(torch.inf, dtype=x.dtype)))


def _topk(r: Recorder, x: Tensor, k: int, dim: int = -1) -> list[str]:
    return r.node("TopK", r.operand(x), r.integers([k]), outputs=2, axis=dim)


def _argmin(r: Recorder, x: Tensor, dim: int) -> str:
    return r.node("ArgMin", r.operand(x), axis=dim, keepdims=0)


def _gather(r: Recorder, x: Tensor, dim: int, index: Tensor) -> str:
    return r.node("GatherElements", r.operand(x), r.operand(index), axis=dim)


def _scatter_add(r: Recorder, x: Tensor, dim: int, index: Tensor, source: Tensor) -> str:
    parts = r.operand(x), r.operand(index), r.operand(source)
    return r.node("ScatterElements", *parts, axis=dim, reduction="add")


def _matmul(r: Recorder, x: Tensor, y: Tensor) -> str:
    return r.node("MatMul", r.operand(x), r.operand(y))


def _baddbmm(r: Recorder, added: Tensor, x: Tensor, y: Tensor, *, beta: Any = 1, alpha: Any = 1) -> str:
    product = r.node("Mul", _matmul(r, x, y), r.operand(alpha, _dtype(r)))
    return r.node("Add", r.node("Mul", r.operand(added), r.operand(beta, _dtype(r))), product)


def _linear(r: Recorder, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> str:
    more = [] if bias is None else [r.operand(bias)]
    if x.ndim == 2:
        return r.node("Gemm", r.operand(x), r.operand(weight), *more, transB=1)
    product = r.node("MatMul", r.operand(x), r.node("Transpose", r.operand(weight), perm=[1, 0]))
    return r.node("Add", product, *more) if more else product


def _layer_norm(  # noqa: PLR0917, as torch has them
    r: Recorder, x: Tensor, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> str:
    ones = torch.ones(*shape).to(x) if weight is None else weight
    more = [r.operand(ones), *([] if bias is None else [r.operand(bias)])]
    return r.node("LayerNormalization", r.operand(x), *more, axis=-len(shape), epsilon=float(eps))


def _joined(r: Recorder, tensors: Sequence[Tensor], dim: int = 0, axis: int | None = None) -> str:
    return r.node("Concat", *(r.operand(x, _dtype(r)) for x in tensors), axis=dim if axis is None else axis)


def _stack(r: Recorder, tensors: Sequence[Tensor], dim: int = 0, axis: int | None = None) -> str:
    where = (dim if axis is None else axis) % (tensors[0].ndim + 1)
    parts = [r.node("Unsqueeze", r.operand(x, _dtype(r)), r.integers([where])) for x in tensors]
    return r.node("Concat", *parts, axis=where)


def _split(r: Recorder, x: Tensor, _: Any, dim: int = 0) -> list[str]:
    where = dim % x.ndim
    lengths = [pair.sizes[where] for pair in r.results]
    if any(one != other for one, other in lengths):
        raise UnrecordedError("parts of an axis of any size")
    if len(lengths) == 1:
        return [r.operand(x)]
    sizes = r.integers([one for one, _ in lengths])
    return r.node("Split", r.operand(x), sizes, outputs=len(lengths), axis=where)


def _unbind(r: Recorder, x: Tensor, dim: int = 0) -> list[str]:
    return [r.node("Gather", r.operand(x), r.constant(np.array(k)), axis=dim) for k in range(len(r.results))]


def _list(values: tuple[Any, ...]) -> list[Any]:
    """Return numbers that were given one by one, or as a sequence."""
    return list(values[0] if len(values) == 1 and not isinstance(values[0], int) else values)


def _reshape(r: Recorder, x: Tensor, *shape: Any) -> str:
    return _reshaped(r, x, _list(shape))


def _reshaped(r: Recorder, x: Tensor, asked: Sequence[int] = ()) -> str:
    """Write a new shape: numbers where both examples agree, one -1, 0 for an axis that stays, sizes for others."""
    result, before = r.results[0], r.pair(x).sizes
    shape: list[int] = [one if one == other else -1 for one, other in result.sizes]
    for k, value in enumerate(shape):
        if value == -1 and shape.count(-1) > 1:
            if k < len(before) and before[k] == result.sizes[k]:
                shape[k] = 0
            elif k < len(asked) and isinstance(asked[k], Size):
                shape[k] = asked[k]
    if [size for size in shape if not isinstance(size, Size)].count(-1) > 1:
        raise UnrecordedError("a shape with several unknown sizes")
    return r.node("Reshape", r.operand(x), r.integers(shape))


def _flatten(r: Recorder, x: Tensor, start_dim: int = 0, end_dim: int = -1) -> str:
    return _reshaped(r, x)


def _unflatten(r: Recorder, x: Tensor, dim: int, sizes: Sequence[int]) -> str:
    dim = dim % x.ndim
    return _reshaped(r, x, [-1] * dim + list(sizes))


def _transpose(r: Recorder, x: Tensor, *dims: int) -> str:
    order = list(range(x.ndim))
    one, other = dims or (-2, -1)
    order[one], order[other] = order[other], order[one]
    return r.node("Transpose", r.operand(x), perm=order)


def _permute(r: Recorder, x: Tensor, *dims: Any) -> str:
    return r.node("Transpose", r.operand(x), perm=[dim % x.ndim for dim in _list(dims)])


def _unsqueeze(r: Recorder, x: Tensor, dim: int) -> str:
    return r.node("Unsqueeze", r.operand(x), r.integers([dim]))


def _expand(r: Recorder, x: Tensor, *shape: Any) -> str:
    return r.node("Expand", r.operand(x), r.integers([1 if size == -1 else size for size in _list(shape)]))


def _expand_as(r: Recorder, x: Tensor, other: Tensor) -> str:
    return r.node("Expand", r.operand(x), r.node("Shape", r.operand(other)))


def _repeat(r: Recorder, x: Tensor, *counts: Any) -> str:
    asked = _list(counts)
    new = list(range(len(asked) - x.ndim))
    name = r.node("Unsqueeze", r.operand(x), r.integers(new)) if new else r.operand(x)
    return r.node("Tile", name, r.integers(asked))


def _filled(value: float) -> Rule:
    def rule(r: Recorder, x: Tensor, **_: Any) -> str:
        return r.node("Expand", r.operand(value, _dtype(r)), r.node("Shape", r.operand(x)))

    return rule


def _new(value: float) -> Rule:
    def rule(r: Recorder, *shape: Any, **_: Any) -> str:
        return r.node("Expand", r.operand(value, _dtype(r)), r.integers(_list(shape)))

    return rule


def _arange(r: Recorder, end: int, **_: Any) -> str:
    zero, one = (r.constant(np.array(k)) for k in (0, 1))
    counted = r.node("Range", zero, r.operand(end, torch.int64), one)
    return counted if _dtype(r) == torch.int64 else r.node("Cast", counted, to=DTYPES[_dtype(r)])


def _index_add(r: Recorder, x: Tensor, dim: int, index: Tensor, source: Tensor) -> str:
    """Write additions along one axis, which comes first in between."""
    where = dim % x.ndim
    order = [where, *(k for k in range(x.ndim) if k != where)]
    places = r.node("Unsqueeze", r.operand(index), r.integers([1]))
    there = [r.node("Transpose", r.operand(value, _dtype(r)), perm=order) for value in (x, source)]
    added = r.node("ScatterND", there[0], places, there[1], reduction="add")
    return r.node("Transpose", added, perm=[int(k) for k in np.argsort(order)])


def _getitem(r: Recorder, x: Tensor, index: Any) -> str:
    """Write slices, then drop the axes with one index, then add new ones."""
    items = list(index) if isinstance(index, tuple) else [index]
    if not all(item is None or item is ... or isinstance(item, (int, slice)) for item in items):
        raise UnrecordedError("an index that is a tensor or a list")
    taken = sum(item is not None and item is not ... for item in items)
    if not any(item is ... for item in items):
        items.append(...)
    at = items.index(...)
    items[at : at + 1] = [slice(None)] * (x.ndim - taken)
    name, axis, cuts, dropped, added, place = r.operand(x), 0, [], [], [], 0
    for item in items:
        if item is None:
            added.append(place)
            place += 1
            continue
        if isinstance(item, slice):
            if item != slice(None):
                cuts.append((axis, item.start or 0, _END if item.stop is None else item.stop, item.step or 1))
            place += 1
        else:
            dropped.append((axis, item))
        axis += 1
    if len(dropped) == 1:
        name = r.node("Gather", name, r.operand(dropped[0][1], torch.int64), axis=dropped[0][0])
        cuts = [(k - (k > dropped[0][0]), *cut) for k, *cut in cuts]
    else:
        cuts += [(k, item, item + 1 if item != -1 else _END, 1) for k, item in dropped]
    if cuts:
        axes, starts, ends, steps = zip(*cuts, strict=True)
        name = r.node("Slice", name, *map(r.integers, (starts, ends, axes, steps)))
    if len(dropped) > 1:
        name = r.node("Squeeze", name, r.integers([k for k, _ in dropped]))
    return r.node("Unsqueeze", name, r.integers(added)) if added else name


_UNARY = {
    **{name: name.capitalize() for name in ("abs", "cos", "exp", "log", "neg", "sigmoid", "sin", "sqrt", "tanh")},
    "reciprocal": "Reciprocal",
    "erf": "Erf",
    "negative": "Neg",
}
_BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "truediv": "Div", "true_divide": "Div"}
_BINARY |= {f"i{name}": operator for name, operator in _BINARY.items()}
_COMPARED = {"gt": "Greater", "lt": "Less", "ge": "GreaterOrEqual", "le": "LessOrEqual", "eq": "Equal"}
_REDUCED = {"sum": "ReduceSum", "mean": "ReduceMean", "amax": "ReduceMax", "amin": "ReduceMin"}
RULES: dict[str, Rule] = {
    **{name: _unary(operator) for name, operator in _UNARY.items()},
    **{name: _binary(operator) for name, operator in _BINARY.items()},
    **{f"r{name}": _binary(operator, reverse=True) for name, operator in _BINARY.items()},
    **{name: _comparison(operator) for name, operator in _COMPARED.items()},
    **{name: _reduced(operator) for name, operator in _REDUCED.items()},
    "maximum": _binary("Max"),
    "minimum": _binary("Min"),
    **dict.fromkeys(("to", "float", "double", "detach", "clone", "contiguous", "type"), _same),
    "pow": _pow,
    "square": _square,
    "rsqrt": _rsqrt,
    "gelu": _gelu,
    "relu": _relu,
    "softmax": _softmax,
    "frac": _frac,
    "isfinite": _isfinite,
    "topk": _topk,
    "argmin": _argmin,
    "gather": _gather,
    "scatter_add": _scatter_add,
    "leaky_relu": _leaky_relu,
    "softplus": _softplus,
    **dict.fromkeys(("clamp", "clip"), _clip),
    "clamp_min": _clip,
    "clamp_max": lambda r, x, max: _clip(r, x, None, max),
    "where": _where,
    **dict.fromkeys(("matmul", "bmm", "mm"), _matmul),
    "baddbmm": _baddbmm,
    "linear": _linear,
    "layer_norm": _layer_norm,
    **dict.fromkeys(("cat", "concatenate", "concat"), _joined),
    "stack": _stack,
    **dict.fromkeys(("split", "chunk", "tensor_split"), _split),
    "unbind": _unbind,
    **dict.fromkeys(("reshape", "view"), _reshape),
    "flatten": _flatten,
    "unflatten": _unflatten,
    **dict.fromkeys(("mT", "T", "transpose", "swapaxes"), _transpose),
    "permute": _permute,
    "unsqueeze": _unsqueeze,
    "expand": _expand,
    "expand_as": _expand_as,
    "repeat": _repeat,
    "zeros_like": _filled(0.0),
    "ones_like": _filled(1.0),
    "zeros": _new(0.0),
    "ones": _new(1.0),
    "arange": _arange,
    "index_add": _index_add,
    "getitem": _getitem,
}
