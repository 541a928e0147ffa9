"""How far to over-relax, from the rate observed; the same rule as `metaot.solvers.relaxation`, for one problem."""

import math
from typing import final


@final
class Relaxation:
    """The factor `omega`, which changes as errors are shown to it; one as long as it is not `relaxed`."""

    def __init__(self, relaxed: bool) -> None:
        self.omega, self.rate, self.relaxed = 1.0, 1.0, relaxed
        self._reference, self._since, self._changed = 1.0, -1, 0

    def shown(self, step: int, error: float) -> bool:
        """Take notice of the error before a step; tell whether the factor was looked at again."""
        if self._since < 0:
            if step > self._changed:
                self._reference, self._since = error, step
            return False
        if step < max(self._changed + 4 + self._changed // 6, self._since + 1):
            return False
        self.rate = (error / self._reference) ** (1 / (step - self._since)) if self._reference > 0 else 0.0
        self._since, self._changed = -1, step
        if self.relaxed:
            self.omega = self._next(error)
        return True

    def ahead(self, error: float, tol: float) -> float:
        """Estimate the steps that are left; none is in sight while the error is large."""
        if error >= _NEAR:
            return 0.0
        rate = max(self.rate, self.omega - 1, 1e-3)
        return math.log(error / tol) / -math.log(rate) if rate < 1 else 0.0

    def _next(self, error: float) -> float:
        omega, rate = self.omega, self.rate
        if not omega - 0.99 < rate < 1:
            return max(1.0, 2 - 1.3 * (2 - omega))
        if error >= _NEAR:
            return omega
        theta = min((rate + omega - 1) ** 2 / (rate * omega**2), 1 - 1e-4)
        return max(omega, min(2 / (1 + math.sqrt(1 - theta)), 2 - 0.7 * (2 - omega), 1.97))


_NEAR = 0.5
"""The L1 error below which a rate tells what comes."""
