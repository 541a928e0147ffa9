"""Calibrate each method's stopping rule, then time all methods in turn, instance by instance.

Each timed solve follows one of the instance before by the same method, which is not timed: as in a stream of
problems, where a method finds its code and its data in the caches.
"""

import gc
import math
import resource
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter, sleep
from typing import Any, final

from benchmarks.discrete.methods.base import Method
from benchmarks.discrete.problems import CALIBRATION_SEED, SEED, Family, Instance

TARGETS = (1e-2, 1e-3, 1e-6, 1e-9)
CALIBRATION_SECONDS = 2
"""After that many seconds no further instance is taken for the choice of a setting."""

FEWEST = 5
"""Instances that a slow method is timed on, too: at least two of them, and up to three times the budget."""

PAUSE = 0.003
"""Seconds between two solves, in which the threads of the last one's library fall asleep."""

TRIES, SHORT = 6, 0.05
"""A solve in which another process was given the core is timed again, this many times at most, if it is this short
(in seconds); the fastest counts."""

OK, LIMIT, MISSED = "ok", "over the limit", "not reached"


class TooLongError(Exception):
    """A solve was cut off."""


@final
@dataclass
class Cell:
    """One method at one accuracy: how it is set, and what every instance took."""

    status: str
    setting: Any = None
    place: int = 0
    note: str | None = None
    ms: list[float] = field(default_factory=list)
    error: list[float | None] = field(default_factory=list)
    steps: list[int | None] = field(default_factory=list)

    def add(self, trial: "Trial") -> None:
        self.ms.append(float(f"{1e3 * trial.seconds:.4g}"))
        self.error.append(float(f"{trial.error:.2e}") if math.isfinite(trial.error) else None)
        self.steps.append(trial.steps)

    def wants_more(self, budget: float) -> bool:
        count, seconds = len(self.ms), sum(self.ms) / 1e3
        few = count < 2 or (count < FEWEST and seconds < 3 * budget)
        return self.status == OK and (few or seconds < budget)

    def as_json(self) -> dict[str, Any]:
        facts = {key: value for key, value in vars(self).items() if key != "place" and value not in (None, [])}
        return facts | ({"setting": float(f"{self.setting:.4g}")} if self.setting else {})


@final
@dataclass(frozen=True)
class Trial:
    """One solve: its time, the error that it reached, and its steps where they are known."""

    seconds: float
    error: float
    steps: int | None
    cut: bool = False
    note: str | None = None


def measure(
    family: Family, methods: list[Method], *, limit: float, budget: float, tell: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Return for each method and accuracy what its instances took."""
    chosen = [method for method in methods if method.suits(family)]
    cells: dict[str, dict[float, Cell]] = {}
    instances = list(family.draw(CALIBRATION_SEED, family.calibration))
    for method in chosen:
        begin = perf_counter()
        cells[method.name] = _calibrate_all(method, instances, limit)
        told = ", ".join(f"{t:g}: {_brief(cell)}" for t, cell in cells[method.name].items())
        tell(f"  {method.name:32} {told} ({perf_counter() - begin:.1f} s)")
    before = instances[0]
    for k, instance in enumerate(family.draw(SEED, family.count)):
        turn = k % len(chosen)
        for method in chosen[turn:] + chosen[:turn]:
            _time_all(method, before, instance, cells[method.name], limit=limit, budget=budget)
        before = instance
    return {name: {f"{target:g}": cell.as_json() for target, cell in row.items()} for name, row in cells.items()}


def _brief(cell: Cell) -> str:
    return cell.status if cell.status != OK else f"{cell.setting:.2g}" if cell.setting else OK


def _calibrate_all(method: Method, instances: list[Instance], limit: float) -> dict[float, Cell]:
    row: dict[float, Cell] = {}
    inputs = [method.prepare(instance) for instance in instances]
    place = None
    for target in TARGETS:
        cell = calibrated(method, target, instances, inputs, limit=limit, place=place)
        row[target], place = cell, cell.place
        if cell.status != OK:  # then the tighter ones are hopeless, too
            row |= {tighter: Cell(cell.status) for tighter in TARGETS if tighter < target}
            break
    return row


def calibrated(
    method: Method, target: float, instances: list[Instance], inputs: list[Any], *, limit: float, place: int | None
) -> Cell:
    """Return the loosest setting that reaches the target on all calibration instances, or why there is none.

    Starts at the place in the list that the last accuracy had (or at the target itself), and walks from there.
    """
    settings = method.settings(target)
    at = place if place is not None else settings.index(target) if target in settings else 0
    if len(settings) == 1:
        instances = instances[:1]
    spent, begin = 0.0, perf_counter()
    for k, (instance, ready) in enumerate(zip(instances, inputs, strict=False)):
        if k == 0 and method.compiled:
            attempt(method, instance, ready, settings[at], 10 * limit)
        trial = attempt(method, instance, ready, settings[at], limit)
        while k == 0 and at > 0 and trial.error <= target and trial.seconds < 1:
            looser = attempt(method, instance, ready, settings[at - 1], limit)
            if looser.error > target:
                break
            at, trial = at - 1, looser
        while trial.error > target:
            spent += trial.seconds
            if trial.cut:
                return Cell(LIMIT)
            if at + 1 == len(settings) or spent > limit:
                return Cell(MISSED, note=trial.note)
            at = min(at + _leap(trial.error / target), len(settings) - 1)
            trial = attempt(method, instance, ready, settings[at], limit)
        if trial.cut:
            return Cell(LIMIT)
        if k > 0 and perf_counter() - begin > CALIBRATION_SECONDS:
            break
    return Cell(OK, settings[at], at)


def _leap(excess: float) -> int:
    """Return how many settings to skip, a little fewer than if the error were proportional to the setting."""
    return max(1, int(1.5 * math.log2(excess))) if math.isfinite(excess) else 1


def _time_all(
    method: Method, before: Instance, instance: Instance, row: dict[float, Cell], *, limit: float, budget: float
) -> None:
    waiting = [cell for cell in row.values() if cell.wants_more(budget)]
    if not waiting:
        return
    other, inputs = method.prepare(before), method.prepare(instance)
    for cell in waiting:

        def warm(cell: Cell = cell) -> None:
            if not cell.ms or cell.ms[-1] < 1e3 * SHORT:
                attempt(method, before, other, cell.setting, 2 * limit)

        def trial(cell: Cell = cell) -> Trial:
            return attempt(method, instance, inputs, cell.setting, 2 * limit)

        cell.add(_undisturbed(warm, trial))


def _undisturbed(warm: Callable[[], None], trial: Callable[[], Trial]) -> Trial:
    """Return the first trial in which the process kept the core, or else the fastest."""
    fastest: Trial | None = None
    for _ in range(TRIES):
        sleep(PAUSE)
        warm()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        found = trial()
        if resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw == before or found.seconds > SHORT:
            return found
        fastest = found if fastest is None or found.seconds < fastest.seconds else fastest
    assert fastest is not None
    return fastest


def attempt(method: Method, instance: Instance, inputs: Any, setting: Any, limit: float) -> Trial:
    """Solve once, cut off after `limit` seconds where the library comes back to Python."""
    output, cut, note = None, False, None
    gc.disable()
    begin = perf_counter()
    try:
        with warnings.catch_warnings(), _limited(limit):
            warnings.simplefilter("ignore")
            output = method.solve(inputs, setting)
    except TooLongError:
        cut = True
    except Exception as reason:  # a solver gives up in its own way: no output, an infinite error
        note = f"{type(reason).__name__}: {reason}"[:200]
    seconds = perf_counter() - begin
    gc.enable()
    if output is None:
        return Trial(seconds, math.inf, None, cut, note)
    return Trial(seconds, method.error(instance, output), method.steps(output), seconds > limit)


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
