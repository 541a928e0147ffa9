"""Serve predictions over HTTP: python examples/serving/serve.py mnist.onnx [--port 8000].

    POST /predict  JSON {"a": [...], "b": [...], "eps": 0.01}, one problem or rows, to {"f": ..., "g": ...};
                    or a npy array (content-type application/x-npy) of rows [a, b], n + m numbers each, with
                    ?eps=0.01 in the address, to rows [f, g]. eps may be a list, one for each row.
    GET /health     the model, its sizes and its temperatures
    GET /metrics    counts and latencies, as Prometheus reads them

A bad request gets a 4xx and {"error": {"field": ..., "message": ...}}. Requests that arrive while a prediction
runs are predicted together in the next one. A connection that sends no whole headers, or no whole body, in time is
closed, and more connections than the limit get a 503 at once. It needs `pip install 'metaot[serve]'` and an export
(`python export.py checkpoints/mnist`), and no torch. It listens on 127.0.0.1 unless set otherwise, and knows no
users: put a proxy in front.
"""

import argparse
import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any, final

import numpy as np
import uvicorn
from serve_connections import guarded
from serve_metrics import Metrics
from serve_requests import Array, Limits, Question, RefusedError, from_json, from_npy, question
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from metaot import OnnxModel

NPY = "application/x-npy"


Answer = asyncio.Future[tuple[Array, Array]]


@final
class Batcher:
    """Predicts on one thread, beside the event loop: all that has come in the meantime, together."""

    def __init__(self, model: OnnxModel, limits: Limits, metrics: Metrics) -> None:
        self._model, self._limits, self._metrics = model, limits, metrics
        self._waiting: deque[tuple[Question, Answer]] = deque()
        self._problems, self._arrived = 0, asyncio.Event()
        self._thread = ThreadPoolExecutor(1)

    async def answer(self, asked: Question) -> tuple[Array, Array]:
        """Wait for f and g of each row."""
        if self._problems + len(asked.a) > self._limits.waiting:
            raise RefusedError(503, "request", "too many problems wait already: come back later")
        future: Answer = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, future))
        self._problems += len(asked.a)
        self._arrived.set()
        return await future

    async def run(self) -> None:
        """Answer until cancelled; an error of a prediction goes to those that asked, and to nobody else."""
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            batch = self._next()
            if not self._waiting:
                self._arrived.clear()
            if not batch:
                continue
            try:
                answers = await loop.run_in_executor(self._thread, self._predict, [asked for asked, _ in batch])
            except Exception as error:
                answers = [error] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    def _next(self) -> list[tuple[Question, Answer]]:
        """Take the first questions that wait, those of clients that are gone left out."""
        batch, count = [], 0
        while self._waiting:
            asked, future = self._waiting[0]
            if batch and count + len(asked.a) > self._limits.together:
                break
            self._waiting.popleft()
            self._problems -= len(asked.a)
            if not future.done():
                batch.append((asked, future))
                count += len(asked.a)
        return batch

    def _predict(self, questions: list[Question]) -> list[tuple[Array, Array]]:
        a, b, eps = (np.concatenate([getattr(asked, name) for asked in questions]) for name in ("a", "b", "eps"))
        self._metrics.predicted(len(a))
        found = self._model.predict(a, b, eps=float(eps[0]) if (eps == eps[0]).all() else eps)
        ends = np.cumsum([len(asked.a) for asked in questions])[:-1]
        return list(zip(np.split(found.f, ends), np.split(found.g, ends), strict=True))


def create_app(model: OnnxModel, limits: Limits | None = None) -> Starlette:
    """Return the ASGI application."""
    limits, metrics = limits or Limits(), Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.batcher = Batcher(model, limits, metrics)
        worker = asyncio.create_task(app.state.batcher.run())
        yield
        worker.cancel()

    async def predict(request: Request) -> Response:
        begin = time.perf_counter()
        response = await _answer(model, limits, request)
        metrics.answered(response.status_code, time.perf_counter() - begin)
        return response

    async def health(request: Request) -> Response:
        low, high = model.eps
        return JSONResponse({"status": "ok", "model": repr(model), "sizes": model.sizes, "eps": [low, high]})

    async def show(request: Request) -> Response:
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")

    routes = [
        Route("/predict", predict, methods=["POST"]),
        Route("/health", health),
        Route("/metrics", show),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


async def _answer(model: OnnxModel, limits: Limits, request: Request) -> Response:
    try:
        as_npy = _sends_npy(request)
        body = await _body(request, limits)
        fields = from_npy(model, body, request.query_params.get("eps")) if as_npy else from_json(body)
        asked = question(model, limits, *fields)
        f, g = await request.app.state.batcher.answer(asked)
    except RefusedError as error:
        content = {"error": {"field": error.field, "message": str(error)}}
        return JSONResponse(content, error.status, {"connection": "close"} if error.status in (408, 413) else None)
    except ClientDisconnect:
        return Response(status_code=499)  # nobody reads it
    if as_npy:
        rows, out = np.concatenate([f, g], 1), BytesIO()
        np.save(out, rows[0] if asked.vector else rows)
        return Response(out.getvalue(), media_type=NPY)
    return JSONResponse({"f": (f[0] if asked.vector else f).tolist(), "g": (g[0] if asked.vector else g).tolist()})


async def _body(request: Request, limits: Limits) -> bytes:
    """Return the whole body; refuse one that is too long as soon as that is known, or too slow."""
    too_long = RefusedError(413, "body", f"a body has at most {limits.body} bytes: send fewer problems at once")
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > limits.body:
        raise too_long
    parts, total = [], 0
    try:
        async with asyncio.timeout(limits.seconds):
            async for part in request.stream():
                total += len(part)
                if total > limits.body:
                    raise too_long
                parts.append(part)
    except TimeoutError:
        raise RefusedError(408, "body", f"the body did not come within {limits.seconds:g} s") from None
    return b"".join(parts)


def _sends_npy(request: Request) -> bool:
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind not in ("application/json", NPY):
        raise RefusedError(
            415, "content-type", f"content-type must be application/json or {NPY}, got {kind[:80]!r}"
        )
    return kind == NPY


def create_server(model: OnnxModel, limits: Limits, **settings: Any) -> uvicorn.Server:
    """Return uvicorn's server of the application; `settings` are those of `uvicorn.Config`."""
    config = uvicorn.Config(create_app(model, limits), http=guarded(limits), access_log=False, **settings)
    return uvicorn.Server(config)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the predictions of an exported model over HTTP.")
    parser.add_argument("model", help="a file that export.py wrote")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=1, help="threads of a prediction (default: 1)")
    parser.add_argument(
        "--together", type=int, default=Limits.together, help="problems predicted at once, at most"
    )
    options = parser.parse_args()
    model, limits = OnnxModel(options.model, threads=options.threads), Limits(together=options.together)
    create_server(
        model, limits, host=options.host, port=options.port, log_level="warning", timeout_graceful_shutdown=10
    ).run()


if __name__ == "__main__":
    main()
