"""The checks of problems in numpy: the same limits and words as `metaot.problem`, in microseconds."""

from functools import lru_cache
from typing import Any

import numpy as np

from metaot.arrays import as_array, wrong

Array = np.ndarray

MASS_TOLERANCE = {np.dtype(np.float64): 1e-6, np.dtype(np.float32): 1e-4}
"""How far from one the mass of a weight vector may be."""

ANY = 1e-300, 1e300
"""All temperatures: for a model that compares them with the costs of each problem."""

_minimum, _ones = np.minimum.reduce, lru_cache(np.ones)  # a product with ones is the fastest sum


def array(name: str, values: object) -> Array:
    """Return weights as an array, float32 or float64; errors as for `metaot.arrays.as_array`."""
    if isinstance(values, np.ndarray) and values.dtype in MASS_TOLERANCE:
        return values
    return as_array(name, values, "weights (an array or a list)")


def weights(name: str, values: object, size: int) -> Array:
    """Return weights as an array *batch size, float32 or float64; ValueError says where and what is wrong."""
    w = array(name, values)
    tolerance = MASS_TOLERANCE[w.dtype]
    if w.ndim == 0 or w.shape[-1] != size:
        raise ValueError(f"{name} must have the shape (*batch, {size}), got {w.shape}: the model knows this size")
    if w.size:
        mass = w.dot(_ones(size, w.dtype))
        lowest, highest = (mass.item(),) * 2 if mass.size == 1 else (float(mass.min()), float(mass.max()))
        if not (1 - tolerance <= lowest and highest <= 1 + tolerance and _minimum(w, None) >= 0):
            raise ValueError(_what_is_wrong(name, w, mass.astype(np.float64), tolerance))
    return w


def _what_is_wrong(name: str, w: Array, mass: Any, tolerance: float) -> str:
    infinite = ~np.isfinite(w)
    if infinite.any():
        return f"{name} must be finite, got {name}{first_place(infinite, w)}"
    if (w < 0).any():
        return f"{name} must not be negative, got {name}{first_place(w < 0, w)}"
    off = (mass < 1 - tolerance) | (mass > 1 + tolerance)
    return (
        f"{name} must sum to one, got sum {name}{first_place(off, mass)}: divide by {name}.sum(-1, keepdims=True)"
    )


def costs(C: object, shape: tuple[int, int], batch: tuple[int, ...]) -> Array:
    """Return cost matrices, float64, one for the batch or one for each instance; words as of a `Problem`."""
    matrix = as_array("C", C, "a cost matrix (a tensor, an array or nested lists)")
    if matrix.ndim < 2 or 0 in matrix.shape[-2:]:
        raise ValueError(f"C must have the shape (n, m) or (*batch, n, m), got {matrix.shape}")
    if matrix.shape[-2:] != shape:
        words = f"weights of sizes {shape} do not fit the geometry of sizes {matrix.shape[-2:]}"
        exchange = ": exchange a and b, or the last two axes of C" if matrix.shape[-2:] == shape[::-1] else ""
        raise ValueError(f"{words}{exchange}")
    if matrix.shape[:-2] not in ((), batch):
        raise ValueError(
            f"a batch {batch} of weights does not fit a batch {matrix.shape[:-2]} of geometries: C has one matrix "
            "for the batch, or one for each instance"
        )
    if matrix.size and not matrix.min() > -np.inf:
        bad = np.isnan(matrix) | np.isneginf(matrix)
        raise ValueError(f"C must be finite, or +inf for a forbidden pair, got C{first_place(bad, matrix)}")
    return np.ascontiguousarray(matrix.reshape(-1, *shape), dtype=np.float64)


def samples(name: str, values: object, dim: int, *, least: int) -> Array:
    """Return samples as float32, *batch n dim; ValueError says where and what is wrong."""
    z = as_array(name, values, "samples (an array, a table or nested lists)")
    if z.ndim < 2 or z.shape[-1] != dim or z.shape[-2] < least:
        raise ValueError(f"{name} must have the shape (*batch, samples, {dim}), got {z.shape}")
    infinite = ~np.isfinite(z)
    if infinite.any():
        raise ValueError(f"{name} must be finite, got {name}{first_place(infinite, z)}")
    return z.astype(np.float32, copy=False)


def temperatures(eps: object, bounds: tuple[float, float], batch: tuple[int, ...]) -> Array:
    """Return eps as one number or one for each instance; ValueError outside of the range of the model."""
    low, high = bounds[0] * (1 - 1e-6), bounds[1] * (1 + 1e-6)
    if isinstance(eps, float) and low <= eps <= high:
        return np.array([eps])
    if eps is None:
        if bounds == ANY:
            raise ValueError("say eps=..., a number in the units of C, or one for each problem")
        if bounds[0] != bounds[1]:
            raise ValueError(f"say eps=..., a number in [{bounds[0]:g}, {bounds[1]:g}]")
        return np.array([bounds[0]])
    if isinstance(eps, str | bool):
        raise wrong("eps", "a number, or one for each problem", eps)
    values = as_array("eps", eps, "a number, or one for each problem").astype(np.float64)
    if values.shape not in ((), batch):
        raise ValueError(f"eps must be a number or of the batch's shape {batch}, got {values.shape}")
    bad = ~((values >= low) & (values <= high))
    if bad.any():
        invalid = ~(np.isfinite(values) & (values > 0))
        if invalid.any():
            raise ValueError(f"eps must be positive and finite, got eps{first_place(invalid, values)}")
        raise ValueError(
            f"the model was trained for eps in [{bounds[0]:g}, {bounds[1]:g}], got eps{first_place(bad, values)}: "
            "train one for yours"
        )
    return values.reshape(-1)


def first_place(bad: Any, values: Any) -> str:
    """Describe the first true entry of `bad` as "[index] = value", to follow a name."""
    index = tuple(map(int, np.argwhere(bad)[0]))
    where = f"[{', '.join(map(str, index))}]" if index else ""
    return f"{where} = {float(values[index]):.6g}"
