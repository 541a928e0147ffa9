"""What callers may give where numbers are wanted, and the words for what they gave instead.

Tensors, arrays of numpy and of other libraries, tables, lists and numbers are converted once, where they come in.
Nothing here imports torch: a tensor is known by its method `detach`.
"""

import math
import operator
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class SupportsArray(Protocol):
    """Tensors and arrays: anything that `np.asarray` takes by itself."""

    def __array__(self, dtype: Any = None, /) -> Any:
        """Return the numbers as an array of numpy."""
        ...


ArrayLike = SupportsArray | Sequence[Any] | float | int
"""Numbers as a tensor, an array, a table, a (nested) list or one number."""

NUMBERS = "numbers (a tensor, an array or a list)"


def described(value: object) -> str:
    """Return a few words for a value that a caller gave."""
    if value is None:
        return "None"
    if isinstance(value, str):
        return f"the string {value!r}"
    if isinstance(value, type):
        return f"the class {value.__name__} itself, not an object of it"
    if isinstance(value, bool | int | float | complex | np.number):
        return f"the number {value}"
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        return f"a {type(value).__name__} of shape {tuple(shape)} and {dtype}"
    words = repr(value)
    plain = len(words) <= 100 and "\n" not in words and not words.startswith("<")
    return words if plain else f"a {type(value).__name__}"


def wrong(name: str, taken: str, value: object) -> TypeError:
    """Return the error for a value of a kind that is not taken."""
    return TypeError(f"{name} must be {taken}, got {described(value)}")


def as_array(name: str, values: object, taken: str = NUMBERS) -> np.ndarray:
    """Return numbers as an array, float32 or float64; booleans and integers become float64.

    Raises TypeError for what holds no numbers, and ValueError for other dtypes, ragged lists and masked entries.
    """
    if isinstance(values, type):
        raise wrong(name, taken, values)
    detach: Any = getattr(values, "detach", None)
    if isinstance(values, np.ma.MaskedArray) and values.mask.any():
        raise ValueError(f"{name} must have no masked entries: take .filled(0)")
    try:
        found = np.asarray(values if detach is None else detach().cpu())
    except (TypeError, ValueError) as error:
        why = uneven(name, values) or error
        raise ValueError(f"{name} must be {taken}, got {described(values)}: {why}") from error
    dtype = found.dtype.newbyteorder("=")
    if dtype.kind in "biu":
        return found.astype(np.float64)
    if dtype in (np.float32, np.float64):
        return found.astype(dtype, copy=False)
    if dtype.kind in "fc" or "float" in dtype.name:
        raise ValueError(f"{name} must be float32 or float64, got {dtype}: use .astype(float)")
    raise wrong(name, taken, values)


def uneven(name: str, values: object) -> str | None:
    """Return the words for a list whose entries differ in shape; None for everything else."""
    if not isinstance(values, list | tuple):
        return None
    try:
        shapes = [tuple(each.shape) if hasattr(each, "shape") else np.shape(each) for each in values]
    except ValueError:
        return None
    other = next((k for k, shape in enumerate(shapes) if shape != shapes[0]), None)
    return None if other is None else f"{name}[0] has the shape {shapes[0]}, {name}[{other}] has {shapes[other]}"


def is_free(values: object) -> bool:
    """Return whether numbers have no precision of their own: Python's numbers, alone or in lists, and integers."""
    while isinstance(values, list | tuple) and values:
        values = values[0]
    dtype: Any = getattr(values, "dtype", None)
    if dtype is None:
        return isinstance(values, int | float | list | tuple)
    return getattr(dtype, "kind", "f") in "biu" or not getattr(dtype, "is_floating_point", True)


def as_number(name: str, value: object) -> float:
    """Return one number; TypeError for everything else."""
    if type(value) is float:
        return value
    try:
        shape = () if isinstance(value, int | float) else as_array(name, value).shape
    except (TypeError, ValueError):
        shape = None
    if shape != () or is_truth(value):
        raise wrong(name, "a number", value)
    return float(value)  # type: ignore[arg-type]


def as_positive(name: str, value: object) -> float:
    """Return a positive, finite number; ValueError for other numbers, TypeError for everything else."""
    number = as_number(name, value)
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {number:g}")
    return number


def is_truth(value: object) -> bool:
    """Return whether a value is True or False, or an array or a tensor of these."""
    return isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")


def as_count(name: str, value: object) -> int:
    """Return a whole number; TypeError for everything else."""
    if type(value) is int:
        return value
    try:
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if not is_truth(value):
            return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        pass
    raise wrong(name, "a whole number", value)


def require_limits(tol: object, max_steps: object) -> tuple[float, int]:
    """Return when to stop; TypeError for other things than numbers, ValueError for numbers that mean nothing."""
    tol, max_steps = as_number("tol", tol), as_count("max_steps", max_steps)
    if not tol > 0:
        raise ValueError(f"tol must be positive, got {tol}")
    if max_steps < 0:
        raise ValueError(f"max_steps must not be negative, got {max_steps}")
    return tol, max_steps


def spread_words(bounds: Sequence[float]) -> str:
    """Return the problems of a model that reads costs, in words."""
    return f"any cost matrices whose entries differ by {bounds[0]:.3g} to {bounds[1]:.3g} eps in the mean"


def require_spreads(found: Sequence[float], bounds: Sequence[float]) -> None:
    """Raise ValueError for costs that differ less, or more, than those that a model was trained for, in eps."""
    low, high = bounds
    for k, spread in enumerate(found):
        if low <= spread <= high:
            continue
        times, more = (low / max(spread, 1e-300), "less") if spread < low else (spread / high, "more")
        where = f" in problem [{k}]" if len(found) > 1 else ""
        raise ValueError(
            f"the model was trained for costs that differ by {low:.3g} to {high:.3g} eps in the mean, got "
            f"{spread:.3g} eps{where}, {times:.3g} times {more}: choose another eps, or train a model for yours"
        )
