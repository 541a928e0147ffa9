"""How a solve ended, for arrays and for tensors; without torch."""

import math
from enum import IntEnum
from typing import Any


class Status(IntEnum):
    """How a solve ended; of a batch, the worst of its instances."""

    CONVERGED = 0
    MAX_STEPS = 1
    NONFINITE = 2
    """No plan is finite: weights are not, or forbidden pairs leave none."""
    STALLED = 3
    """The error stays above the tolerance, which the dtype cannot reach."""

    @classmethod
    def worst(cls, converged: Any, error: Any, exhausted: Any) -> "Status":
        """Return the status of a batch; `exhausted` are instances that have made all steps."""
        if bool(converged.all()):
            return cls.CONVERGED
        if not bool((abs(error) < math.inf).all()):
            return cls.NONFINITE
        return cls.MAX_STEPS if bool((exhausted & ~converged).any()) else cls.STALLED

    @classmethod
    def of_one(cls, converged: bool, error: float) -> "Status":
        """Return the status of a single solve that ends at its accuracy or after all steps."""
        if converged:
            return cls.CONVERGED
        return cls.MAX_STEPS if error < math.inf else cls.NONFINITE


def how_it_went(where: str, solution: Any) -> str:
    """Return words such as "16 problems, 64 x 48 grid: 16 converged, error <= 8e-07, 3 to 7 steps".

    `solution` has arrays or tensors `converged`, `error` and `steps`, and a `status`.
    """
    arrays = solution.converged, solution.error, solution.steps
    converged, error, steps = (values.reshape(-1).tolist() for values in arrays)
    count, done = len(converged), sum(converged)
    words = [f"{done} converged"]
    if done < count:
        words.append(f"{count - done} not ({solution.status.name})")
    if count:
        largest = math.nan if any(map(math.isnan, error)) else max(error)
        low, high = min(steps), max(steps)
        words += [f"error <= {_rounded_up(largest)}", f"{low} steps" if low == high else f"{low} to {high} steps"]
    return f"{count} problem{'' if count == 1 else 's'}, {where}: {', '.join(words)}"


def _rounded_up(number: float) -> str:
    """Return one digit of a number, and none that is smaller."""
    if not 0 < number < math.inf:
        return f"{number:g}"
    unit = 10.0 ** math.floor(math.log10(number))
    return f"{math.ceil(number / unit - 1e-9) * unit:.1g}"
