"""Rows in increasing order: on a CPU by compiled code or by numpy, elsewhere by torch.

Compiled code sorts on the threads of torch: others would wait for a processor while those spin.
"""

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from metaot import core


def sort_rows(values: Shaped[Tensor, "rows n"]) -> Shaped[Tensor, "rows n"]:
    """Return rows in increasing order; on a CPU they are sorted in their own memory."""
    if not values.is_cpu:
        return values.sort(-1).values
    threads = torch.get_num_threads()
    if _suits_core(values) and not (values.dtype == torch.float32 and threads == 1):
        core.sort_rows(values.numpy(), None, threads=threads)
    else:  # numpy has vector instructions for these, and no threads
        values.numpy().sort(-1)
    return values


def order_rows(values: Shaped[Tensor, "rows n"]) -> tuple[Shaped[Tensor, "rows n"], Int[Tensor, "rows n"]]:
    """Return rows in increasing order, and the place in `values` of each entry; on a CPU, in their own memory."""
    if not _suits_core(values):
        ordered = values.sort(-1)
        return ordered.values, ordered.indices
    order = torch.empty(values.shape, dtype=torch.int64)
    core.sort_rows(values.numpy(), order.numpy(), threads=torch.get_num_threads())
    return values, order


def _suits_core(values: Tensor) -> bool:
    return core.COMPILED and values.is_cpu and values.is_floating_point() and values.is_contiguous()
