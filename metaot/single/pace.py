"""How fast the error falls, and how many steps are ahead at that rate."""

import math
from typing import final

_NEAR = 0.5
"""The L1 error below which a rate tells what comes."""


@final
class Pace:
    """The rate at which the errors shrank that were shown lately."""

    def __init__(self) -> None:
        self._rate, self._reference, self._since = 1.0, math.inf, 0

    def shown(self, step: int, error: float) -> bool:
        """Take notice of the error before a step; tell whether there is a new rate, as there is after some."""
        if step < self._since + 4 + self._since // 6:
            return False
        self._rate = (error / self._reference) ** (1 / (step - self._since))
        self._reference, self._since = error, step
        return True

    def ahead(self, error: float, tol: float) -> float:
        """Estimate the steps that are left; none is in sight while the error is large."""
        if not error < _NEAR or not 0 < self._rate < 1:
            return 0.0
        return math.log(error / tol) / -math.log(self._rate)
