"""Digests: what a file holds in 64 characters, kept with it and compared before anything of it is used.

The sha256 of bytes, of JSON values, or of named arrays. An ONNX file carries its own at its end, as an entry of
its metadata: a file is read once, and what does not agree is given to no parser.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

KEY = "sha256"
_ENTRY = b"\x72\x4a\x0a\x06" + KEY.encode() + b"\x12\x40"
"""The bytes before the 64 characters: in an ONNX model, field 14 (its metadata) with this key."""
_LENGTH = len(_ENTRY) + 64
AGAIN = "copy the file anew, or write it again"
"""What to do about a damaged file."""


def of_bytes(content: bytes | memoryview) -> str:
    """Return the digest of bytes."""
    return hashlib.sha256(content).hexdigest()


def of_json(values: Any) -> str:
    """Return the digest of JSON values, whatever the order of keys and the white space of their text."""
    values = json.loads(json.dumps(values))  # keys become strings before they are sorted
    return of_bytes(json.dumps(values, sort_keys=True, separators=(",", ":")).encode())


def of_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the digest of arrays with their names, whatever their order."""
    whole = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        values = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        whole.update(f"{name} {array.shape} {values.dtype.str} ".encode())
        whole.update(values.reshape(-1).view(np.uint8).data)
    return whole.hexdigest()


def sealed(content: bytes) -> bytes:
    """Return bytes with their digest at the end; a serialized ONNX model stays one."""
    return content + _ENTRY + of_bytes(content).encode()


def is_sealed(content: bytes) -> bool:
    """Return whether there is a digest at the end, right or wrong."""
    return content[-_LENGTH:-64] == _ENTRY


def require_whole(name: object, content: bytes) -> memoryview:
    """Return the bytes before the digest at their end; ValueError, with the name of the file, if it is wrong."""
    body = memoryview(content)[:-_LENGTH]
    if not is_sealed(content) or of_bytes(body).encode() != content[-64:]:
        raise ValueError(f"{name} is damaged: its digest is not the one of its content: {AGAIN}")
    return body
