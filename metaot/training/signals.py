"""Leave a run cleanly: the first SIGTERM or Ctrl-C asks it to stop, a second one stops it at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class StopRequest:
    """Whether somebody has asked the run to stop."""

    asked = False


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Catch SIGTERM and SIGINT while the block runs."""
    request = StopRequest()
    old: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(number: int, frame: FrameType | None) -> None:
        request.asked = True
        signal.signal(number, old[number])

    for number in old:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
