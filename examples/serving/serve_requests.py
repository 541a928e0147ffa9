"""What clients of the server send: JSON or npy bodies, checked field by field before anything is allocated."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, final

import numpy as np

from metaot import OnnxModel
from metaot.onnx import checks

Array = np.ndarray


class RefusedError(Exception):
    """A request that is answered by a 4xx or 503: which field is wrong, and how."""

    def __init__(self, status: int, field: str, message: str) -> None:
        super().__init__(message)
        self.status, self.field = status, field


@final
@dataclass(frozen=True)
class Limits:
    """What one request, and all that wait, may take; `together` problems are predicted at once."""

    body: int = 8 * 2**20
    problems: int = 1024
    waiting: int = 4096
    together: int = 32
    header_seconds: float = 5.0
    seconds: float = 10.0
    """For the body, after the headers."""
    connections: int = 512


@final
@dataclass(frozen=True)
class Question:
    """Checked rows of weights in float64, and one eps for each; `vector` when a single row was asked for."""

    a: Array
    b: Array
    eps: Array
    vector: bool


def question(model: OnnxModel, limits: Limits, a: Any, b: Any, eps: Any) -> Question:
    """Check what was sent, field by field."""
    a, b = (_weights(name, z, size) for name, z, size in zip("ab", (a, b), model.sizes, strict=True))
    if a.shape[:-1] != b.shape[:-1]:
        raise RefusedError(400, "b", f"a of shape {a.shape} and b of {b.shape} differ in their batch")
    count = math.prod(a.shape[:-1])
    if a.ndim > 2 or not 0 < count <= limits.problems:
        raise RefusedError(
            400, "a", f"a request is one row, or 1 to {limits.problems} of them, got {a.shape[:-1]}"
        )
    with _refusing("eps"):
        temperatures = checks.temperatures(None if eps is None else _numbers("eps", eps), model.eps, a.shape[:-1])
    n, m = model.sizes
    return Question(a.reshape(-1, n), b.reshape(-1, m), np.broadcast_to(temperatures, count), a.ndim == 1)


def from_json(body: bytes) -> tuple[Any, Any, Any]:
    """Return the fields a, b and eps of a JSON object; eps may be missing."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, "body", f"the body is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise RefusedError(
            400, "body", f"the body must be an object with a, b and eps, got {type(content).__name__}"
        )
    for name in "ab":
        if name not in content:
            raise RefusedError(400, name, f"{name} is missing: the body must be an object with a, b and eps")
    unknown = sorted(content.keys() - {"a", "b", "eps"})
    if unknown:
        raise RefusedError(
            400, unknown[0][:40], "this field is not known: the body must be an object with a, b, eps"
        )
    return content["a"], content["b"], content.get("eps")


def from_npy(model: OnnxModel, body: bytes, eps: str | None) -> tuple[Any, Any, Any]:
    """Return the parts a and b of a npy array of rows [a, b]; nothing is allocated on the word of its header."""
    (n, m), stream = model.sizes, BytesIO(body)
    shape, by_columns, dtype = _npy_header(stream)
    with _refusing("body"):
        if dtype not in (np.dtype("<f4"), np.dtype("<f8")) or by_columns:
            raise ValueError(
                f"the body must hold rows of float32 or float64, got {dtype}: use np.ascontiguousarray"
            )
        if len(shape) not in (1, 2) or shape[-1] != n + m:
            raise ValueError(f"the body must have the shape (rows, {n} + {m}) or ({n + m},), got {shape}")
        rest = body[stream.tell() :]
        if len(rest) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"the body must go on for {math.prod(shape)} numbers, got {len(rest)} bytes")
        rows = np.frombuffer(rest, dtype).reshape(shape)
    try:
        temperature = None if eps is None else json.loads(eps)
    except (ValueError, RecursionError):
        raise RefusedError(400, "eps", f"eps must be a number or a list of numbers, got {eps[:40]!r}") from None
    return rows[..., :n], rows[..., n:], temperature


def _npy_header(stream: BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        if np.lib.format.read_magic(stream) == (1, 0):
            return np.lib.format.read_array_header_1_0(stream)
    except Exception:  # what parses it raises errors of many kinds
        pass
    raise RefusedError(400, "body", "the body must be a npy array of version 1.0: use np.save")


def _weights(name: str, values: Any, size: int) -> Array:
    with _refusing(name):
        return checks.weights(name, _numbers(name, values), size).astype(np.float64, copy=False)


def _numbers(name: str, values: Any) -> Array:
    """Return an array of floats; ValueError for strings, truth values, and lists that are not regular."""
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):
        array = np.asarray(None)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} must be a number, a list of numbers, or rows of the same length")
    return array if array.dtype.kind == "f" else array.astype(np.float64)


@contextmanager
def _refusing(field: str) -> Iterator[None]:
    """Turn errors about a field into answers."""
    try:
        yield
    except (ValueError, RecursionError, MemoryError) as error:
        raise RefusedError(400, field, str(error) or type(error).__name__) from None
