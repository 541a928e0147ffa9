"""Rows in increasing order: on CPUs by numpy, which sorts with vector instructions; by torch elsewhere."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

_WORTH_A_THREAD = 2**16
"""Entries from which on a second thread is worth waking."""


def sort_rows(values: Shaped[Tensor, "rows n"]) -> Shaped[Tensor, "rows n"]:
    """Return rows in increasing order; on a CPU they are sorted in their own memory."""
    if not values.is_cpu:
        return values.sort(-1).values
    _on_threads(lambda part: part.sort(-1), values.numpy())
    return values


def order_rows(values: Shaped[Tensor, "rows n"]) -> tuple[Shaped[Tensor, "rows n"], Int[Tensor, "rows n"]]:
    """Return rows in increasing order, and the place in `values` of each entry."""
    if not values.is_cpu:
        ordered = values.sort(-1)
        return ordered.values, ordered.indices
    order = torch.empty(values.shape, dtype=torch.int64)
    _on_threads(lambda part, out: out.__setitem__(..., part.argsort(-1)), values.numpy(), order.numpy())
    return values.gather(-1, order), order


def _on_threads(work: Callable[..., Any], *arrays: np.ndarray) -> None:
    """Call `work` on parts of the rows of arrays; numpy sorts without Python's lock."""
    threads = min(torch.get_num_threads(), len(arrays[0]), arrays[0].size // _WORTH_A_THREAD)
    if threads < 2:
        work(*arrays)
        return
    parts = zip(*(np.array_split(array, threads) for array in arrays), strict=True)
    first, *others = parts
    waiting = [_pool(torch.get_num_threads()).submit(work, *part) for part in others]
    work(*first)
    for each in waiting:
        each.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="metaot-sort")
