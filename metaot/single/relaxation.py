"""How far to over-relax, by expectation and then from the rate observed, as `metaot.solvers.relaxation`."""

import math
from collections.abc import Callable
from typing import final


@final
class Relaxation:
    """The factor `omega`, which changes as errors are shown to it; one as long as it is not `relaxed`.

    It sets out near the solution, `after` some steps, from the `expected` one, which is asked for once at most.
    """

    def __init__(self, relaxed: bool, expected: Callable[[], float] | None = None, after: int = 0) -> None:
        self.omega, self.rate, self.relaxed = 1.0, 1.0, relaxed
        self._reference, self._since, self._changed = 1.0, -1, 0
        self._expected = expected if relaxed else None
        self._after, self._fresh = after, False

    def shown(self, step: int, error: float) -> bool:
        """Take notice of the error before a step; tell whether the factor was fitted to a rate."""
        if self._expected is not None and error < _NEAR and step >= self._after:
            self.omega, self._expected, self._fresh = max(self.omega, self._expected()), None, True
        if error > LOST:
            self.omega = 1.0
        if self._since < 0:
            if step > self._changed:
                self._reference, self._since = error, step
            return False
        if step < max(self._changed + 4 + self._changed // 6, self._since + 1):
            return False
        self.rate = (error / self._reference) ** (1 / (step - self._since)) if self._reference > 0 else 0.0
        self._since, self._changed = -1, step
        if self._fresh:
            self._fresh = False
            return False
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
        return max(omega, min(best_factor(theta), 2 - 0.7 * (2 - omega), 1.97))


_NEAR = 0.5
"""The L1 error below which a rate tells what comes."""

LOST = 1e3
"""The L1 error above which over-relaxation diverges: it may grow before it falls. Of plain steps it is below 2."""


def best_factor(theta: float) -> float:
    """Return the factor with which over-relaxation is fastest, for plain steps that shrink the error by theta."""
    return 2 / (1 + math.sqrt(1 - theta))


def expected_factor(spread: float) -> float:
    r"""Return the best factor for Gaussian measures whose centred cost has this size, in units of eps.

    In one dimension |x - y|^2 is -2 x y when centred, of the size 2 s t / eps for standard deviations s and t; the
    plan has the correlation rho = sqrt(1 + z^2) - z with z = eps/(4 s t) (Janati et al., arXiv 2006.02572), and
    plain steps have the rate rho^2.
    """
    z = 1 / (2 * spread) if spread > 1e-9 else math.inf
    rho = 1 / (z + math.sqrt(1 + z * z))
    return best_factor(rho * rho)
