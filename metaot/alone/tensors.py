"""A file of tensors that `torch.save` wrote, read as arrays: raw numbers in a zip, named by a pickle."""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, final
from zipfile import BadZipFile, ZipFile

import numpy as np

Array = np.ndarray

_DTYPES = {
    "HalfStorage": "<f2",
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "IntStorage": "<i4",
    "LongStorage": "<i8",
    "BoolStorage": "?",
}


def read_tensors(path: Path) -> dict[str, Array]:
    """Return the tensors of a file by name, those of float16 as float32; nothing in the file is executed.

    Raises ValueError when there is anything but tensors in it.
    """
    try:
        with ZipFile(path) as archive:
            found = _read(archive)
    except (BadZipFile, pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no file of tensors: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(value, Array) for value in found.values()):
        raise ValueError(f"{path} is no file of tensors: there is something else in it")
    return {name: value.astype(np.float32) if value.dtype == "f2" else value for name, value in found.items()}


def _read(archive: ZipFile) -> Any:
    (table,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    folder = table.removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
        raise pickle.UnpicklingError("its numbers are in another byte order")
    with archive.open(table) as file:
        return _Table(file, lambda key: archive.read(f"{folder}data/{key}")).load()


@final
class _Table(pickle.Unpickler):
    """Reads the names, shapes and places of tensors; anything else is refused, so that no code runs."""

    def __init__(self, file: Any, content: Callable[[str], bytes]) -> None:
        super().__init__(file)
        self._content = content

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            **{("torch", kind): kind for kind in _DTYPES},
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"{module}.{name} in it")
        return known[module, name]

    def persistent_load(self, pid: Any) -> Array:
        _, kind, key, _, size = pid
        return np.frombuffer(self._content(key), _DTYPES[kind], size)


def _tensor(storage: Array, start: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> Array:
    last = start + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if 0 in shape:
        return np.empty(shape, storage.dtype)
    if min(start, *strides, 0) < 0 or last >= len(storage):
        raise pickle.UnpicklingError("a tensor beyond its numbers")
    steps = [storage.itemsize * stride for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[start:], shape, steps, writeable=False)
