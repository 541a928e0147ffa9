"""Just enough of protocol buffers to look into an ONNX file before anything is run; needs no other library.

The wire format of https://protobuf.dev/programming-guides/encoding; field numbers of onnx.proto3.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np

_MODEL_GRAPH, _MODEL_OPSETS, _MODEL_METADATA, _MODEL_FUNCTIONS = 7, 8, 14, 25
_GRAPH_NODE, _GRAPH_TENSOR = 1, 5
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW, _TENSOR_LOCATION = 1, 2, 8, 9, 14
_DOUBLE = 11
_STANDARD = ("", "ai.onnx")


@final
@dataclass(frozen=True)
class OnnxContents:
    """What an ONNX file says of itself."""

    metadata: dict[str, str]
    foreign: list[str]
    """Operators that are not of the ONNX standard."""
    external: list[str]
    """Tensors whose data lie in another file."""
    doubles: dict[str, np.ndarray]
    """The float64 tensors of the graph by name, not copied."""


def read(content: bytes) -> OnnxContents:
    """Look into a file; ValueError when it is not an ONNX model."""
    contents = OnnxContents({}, [], [], {})
    try:
        graphs = 0
        for field, value in _fields(memoryview(content)):
            if field == _MODEL_METADATA:
                pair = dict(_fields(_message(value)))
                contents.metadata[_text(pair.get(1, b""))] = _text(pair.get(2, b""))
            elif field == _MODEL_GRAPH:
                graphs += 1
                _graph(_message(value), contents)
            elif field == _MODEL_FUNCTIONS:
                contents.foreign.append("a function of its own")
    except (IndexError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"not an ONNX file, or one that was cut short ({error})") from None
    if graphs != 1:
        raise ValueError("not an ONNX file: there is no graph in it")
    return contents


def _graph(message: memoryview, contents: OnnxContents) -> None:
    for field, value in _fields(message):
        if field == _GRAPH_NODE:
            _node(_message(value), contents)
        elif field == _GRAPH_TENSOR:
            _tensor(_message(value), contents)


def _node(message: memoryview, contents: OnnxContents) -> None:
    operator, domain = "", ""
    for field, value in _fields(message):
        if field == _NODE_OPERATOR:
            operator = _text(value)
        elif field == _NODE_DOMAIN:
            domain = _text(value)
        elif field == _NODE_ATTRIBUTE:
            for inner, part in _fields(_message(value)):
                if inner in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
                    _tensor(_message(part), contents)
                elif inner in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                    _graph(_message(part), contents)
    if domain not in _STANDARD:
        contents.foreign.append(f"{domain}.{operator}")


def _tensor(message: memoryview, contents: OnnxContents) -> None:
    dims, kind, name, raw = [], 0, "", None
    for field, value in _fields(message):
        if field == _TENSOR_DIMS:
            dims += [value] if isinstance(value, int) else list(_varints(value))
        elif field == _TENSOR_TYPE:
            kind = value
        elif field == _TENSOR_NAME:
            name = _text(value)
        elif field == _TENSOR_RAW:
            raw = _message(value)
        elif field == _TENSOR_LOCATION and value == 1:
            contents.external.append(name)
    if kind == _DOUBLE and raw is not None and len(raw) == 8 * int(np.prod(dims)):
        contents.doubles[name] = np.frombuffer(raw, dtype="<f8").reshape(dims)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the number and the value of each field: an integer, or bytes."""
    place, end = 0, len(message)
    while place < end:
        key, place = _varint(message, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(message, place)
        elif kind in (1, 2, 5):
            size, place = _varint(message, place) if kind == 2 else (8 if kind == 1 else 4, place)
            value, place = message[place : place + size], place + size
        else:
            raise IndexError(f"a field of type {kind}")
        if place > end or key < 8:
            raise IndexError("a field beyond the end")
        yield key >> 3, value


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
        if shift > 63:
            raise IndexError("a number without an end")


def _varints(message: memoryview) -> Iterator[int]:
    place = 0
    while place < len(message):
        value, place = _varint(message, place)
        yield value


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise TypeError("a number where a message was expected")
    return value


def _text(value: int | memoryview | bytes) -> str:
    if isinstance(value, int):
        raise TypeError("a number where a text was expected")
    return bytes(value).decode()
