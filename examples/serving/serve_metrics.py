"""Counts and latencies of the server, in the text format of Prometheus."""

from bisect import bisect_left
from collections import Counter
from threading import Lock
from typing import final

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0)
TOGETHER = (1, 2, 4, 8, 16, 32, 64, 256, 1024)


@final
class Histogram:
    """How many values lie at or below each bound, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds, self._counts, self._sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, meaning: str) -> list[str]:
        lines, total = [f"# HELP {name} {meaning}", f"# TYPE {name} histogram"], 0
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            total += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*lines, f"{name}_sum {self._sum:.9g}", f"{name}_count {total}"]


@final
class Metrics:
    """What the server has done; the event loop and the predicting thread may write to it at the same time."""

    def __init__(self) -> None:
        self._lock, self._statuses = Lock(), Counter[int]()
        self._seconds, self._together = Histogram(SECONDS), Histogram(TOGETHER)

    def answered(self, status: int, seconds: float) -> None:
        with self._lock:
            self._statuses[status] += 1
            self._seconds.add(seconds)

    def predicted(self, problems: int) -> None:
        with self._lock:
            self._together.add(problems)

    def text(self) -> str:
        with self._lock:
            counts = [f'metaot_requests_total{{status="{k}"}} {n}' for k, n in sorted(self._statuses.items())]
            lines = [
                "# HELP metaot_requests_total requests to /predict by status",
                "# TYPE metaot_requests_total counter",
                *counts,
                *self._seconds.lines("metaot_request_seconds", "time from the headers of a request to its answer"),
                *self._together.lines("metaot_problems_together", "problems in one prediction"),
            ]
        return "\n".join(lines) + "\n"
