"""Connections of the server: there are only so many, and each has to send the headers of a request in time.

uvicorn waits for headers as long as a client likes, and its `limit_concurrency` counts connections that have asked
nothing yet, so that a few hundred of them keep everybody else out.
"""

import asyncio
from typing import Any

import h11
from serve_requests import Limits
from uvicorn.protocols.http.h11_impl import H11Protocol

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"
LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def guarded(limits: Limits) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol with `limits.connections` and `limits.header_seconds`, for its setting `http`."""

    class GuardedProtocol(H11Protocol):
        deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            full = len(self.connections) >= limits.connections
            super().connection_made(transport)
            if full:
                self._leave(BUSY)
            else:
                self._wait_for_headers()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is h11.IDLE:  # a part of the headers at most
                self._wait_for_headers()
            else:
                self._stop_waiting()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _wait_for_headers(self) -> None:
            """Begin to wait, unless that has begun: more bytes give no more time."""
            self.deadline = self.deadline or self.loop.call_later(limits.header_seconds, self._leave, LATE)

        def _stop_waiting(self) -> None:
            if self.deadline:
                self.deadline.cancel()
            self.deadline = None

        def _leave(self, answer: bytes) -> None:
            if not self.transport.is_closing():
                self.transport.write(answer)
                self.transport.close()

    return GuardedProtocol
