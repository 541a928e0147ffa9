"""Load test of examples/serving/serve.py: python -m benchmarks.serve mnist.onnx [--seconds 60] [--clients 8].

Clients on 127.0.0.1 send one problem after the other, half JSON and half npy, in 1 of 20 requests something
malformed instead. Every answer is checked: potentials against the model's own, to 1e-6, refusals for their
status and the field that they name. The server and each client are processes; the checks take their share of the
same cores, so the processor time of the server is measured as well. Results go to benchmarks/results/serve.json.
"""

import argparse
import http.client
import io
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, final

import numpy as np

from metaot import OnnxModel

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "serve.json"
EPS, POOL, MALFORMED = 1e-2, 64, 0.05
JSON, NPY = {"content-type": "application/json"}, {"content-type": "application/x-npy"}


@final
@dataclass(frozen=True)
class Case:
    """A request, and what has to come of it: potentials, or a status and a field."""

    path: str
    body: bytes
    headers: dict[str, str]
    expected: np.ndarray | tuple[int, str]


def good(model: OnnxModel, data_dir: Path | None) -> list[Case]:
    """Pairs of MNIST test digits, each as JSON and as npy."""
    import torch  # noqa: PLC0415, for the data; clients and the server do without

    from metaot.data import Mnist  # noqa: PLC0415

    problem = Mnist(batch=POOL, eps=(EPS, EPS)).split("test", data_dir).sample(torch.Generator().manual_seed(1))
    cases = []
    for a, b in zip(problem.a.numpy(), problem.b.numpy(), strict=True):
        guess = model.predict(a, b, eps=EPS)
        expected = np.concatenate([guess.f, guess.g])
        text = json.dumps({"a": a.tolist(), "b": b.tolist(), "eps": EPS})
        cases.append(Case("/predict", text.encode(), JSON, expected))
        cases.append(Case(f"/predict?eps={EPS}", _npy(np.concatenate([a, b])), NPY, expected))
    return cases


def bad(cases: list[Case]) -> list[Case]:
    """What clients get wrong, and what attackers try."""
    whole = json.loads(cases[0].body)

    def changed(status: int, named: str, **fields: Any) -> Case:
        content = {key: value for key, value in {**whole, **fields}.items() if value != "missing"}
        return Case("/predict", json.dumps(content).encode(), JSON, (status, named))

    def raw(status: int, named: str, body: bytes, headers: dict[str, str] = JSON, query: str = "") -> Case:
        return Case("/predict" + query, body, headers, (status, named))

    rows = np.frombuffer(cases[1].body[-8 * 1568 :])
    query = f"?eps={EPS}"
    return [
        changed(400, "a", a="missing"),
        changed(400, "b", b=whole["b"][:-1]),
        changed(400, "a", a=[-1.0, *whole["a"][1:]]),
        changed(400, "a", a=[float("nan"), *whole["a"][1:]]),
        changed(400, "b", b=[2 * x for x in whole["b"]]),
        changed(400, "b", b=["x", *whole["b"][1:]]),
        changed(400, "b", b=[whole["b"], whole["b"]]),
        changed(400, "a", a=[whole["a"], [1.0]]),
        changed(400, "eps", eps=7.0),
        changed(400, "eps", eps=[EPS, EPS]),
        changed(400, "eps", eps="small"),
        changed(400, "epsilon", epsilon=EPS),
        raw(400, "body", cases[0].body[:1000]),
        raw(400, "body", b"[" * 100_000),
        raw(400, "body", b"\xff\xfe\x00"),
        raw(400, "body", b""),
        raw(415, "content-type", cases[0].body, {"content-type": "text/html"}),
        raw(413, "body", b" " * (9 * 2**20)),
        raw(400, "body", b"no npy", NPY, query),
        raw(400, "body", cases[1].body[:-8], NPY, query),
        raw(400, "body", _npy(np.array([{}], dtype=object), allow_pickle=True), NPY, query),
        raw(400, "body", _npy(rows[:10]), NPY, query),
        raw(400, "b", _npy(np.concatenate([rows[:784], rows[:784] * 2])), NPY, query),
        raw(400, "eps", cases[1].body, NPY, "?eps=cold"),
    ]


@final
@dataclass
class Tally:
    """What one client saw."""

    ms: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def client(port: int, seed: int, begin: float, seconds: float, given: tuple[list[Case], list[Case]]) -> Tally:
    """Send one request after the other, on one connection as long as the server keeps it."""
    tally, chance, (cases, broken) = Tally(), random.Random(seed), given
    time.sleep(max(0.0, begin - time.time()))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        if chance.random() < MALFORMED:
            if chance.random() < 0.1:
                _vandalise(port, chance)
                tally.refused["no HTTP, or gone in the middle"] += 1
                continue
            case = chance.choice(broken)
        else:
            case = chance.choice(cases)
        begin = time.perf_counter()
        try:
            connection.request("POST", case.path, case.body, case.headers)
            response = connection.getresponse()
            content = response.read()
        except (BrokenPipeError, ConnectionResetError):
            connection.close()  # a server may close on a body that it refuses
            if not (isinstance(case.expected, tuple) and case.expected[0] == 413):
                tally.wrong.append("a connection was closed")
            tally.refused["413, connection closed"] += 1
            continue
        _check(tally, case, response.status, content, 1e3 * (time.perf_counter() - begin))
    connection.close()
    return tally


def _check(tally: Tally, case: Case, status: int, content: bytes, ms: float) -> None:
    if isinstance(case.expected, tuple):
        named = json.loads(content)["error"]["field"] if status < 500 else None
        tally.refused[f"{status} {named}"] += 1
        if (status, named) != case.expected:
            tally.wrong.append(f"expected {case.expected}, got {status} {content[:200]!r}")
        return
    tally.ms.append(ms)
    if status != 200:
        tally.wrong.append(f"expected potentials, got {status} {content[:200]!r}")
        return
    if case.headers == NPY:
        found = np.load(io.BytesIO(content), allow_pickle=False)
    else:
        answer = json.loads(content)
        found = np.array(answer["f"] + answer["g"])
    if not np.abs(found - case.expected).max() <= 1e-6 * np.ptp(case.expected):
        tally.wrong.append(f"potentials differ by {np.abs(found - case.expected).max():.2g}")


def _vandalise(port: int, chance: random.Random) -> None:
    """Send no HTTP, or leave in the middle of a body."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        if chance.random() < 0.5:
            line.sendall(bytes(chance.randrange(256) for _ in range(200)) + b"\r\n\r\n")
        else:
            line.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 5000\r\n\r\n{")


def load(
    options: argparse.Namespace, clients: int, *, together: int, seconds: float, cases: list[Case]
) -> dict[str, Any]:
    """Run the server and the clients; return what was measured."""
    port, broken = _free_port(), bad(cases)
    command = [
        options.python,
        "examples/serving/serve.py",
        str(options.model),
        "--port",
        str(port),
        "--together",
        str(together),
    ]
    with subprocess.Popen(command, cwd=ROOT) as server:
        try:
            _wait(port)
            memory, spent = _memory(server.pid), _cpu_seconds(server.pid)
            with ProcessPoolExecutor(clients, get_context("spawn")) as pool:
                begin = time.time() + 3  # until all processes are there
                runs = [
                    pool.submit(client, port, seed, begin, seconds, (cases, broken)) for seed in range(clients)
                ]
                tallies = [run.result() for run in runs]
            crashed = server.poll() is not None
            metrics = "" if crashed else _get(port, "/metrics")
            after, spent = _memory(server.pid), _cpu_seconds(server.pid) - spent
        finally:
            server.terminate()
    ms = np.array([value for tally in tallies for value in tally.ms])
    refused = sum((tally.refused for tally in tallies), Counter())
    wrong = [text for tally in tallies for text in tally.wrong]
    runs_made, predicted = _of(metrics, "problems_together_count"), _of(metrics, "problems_together_sum")
    return {
        "clients": clients, "seconds": seconds, "together": together, "crashed": crashed, "answered": len(ms),
        "refused": dict(sorted(refused.items())), "wrong": len(wrong), "first_wrong": wrong[:5],
        "server_cpu_ms_per_request": round(1e3 * spent / (len(ms) + sum(refused.values())), 3),
        "requests_per_second": round((len(ms) + sum(refused.values())) / seconds, 1),
        "ms": {name: round(float(np.quantile(ms, q)), 2) for name, q in _QUANTILES.items()},
        "problems_in_a_prediction": round(predicted / runs_made, 2) if runs_made else None,
        "server_memory_mib": [round(memory, 1), round(after, 1)],
    }  # fmt: skip


_QUANTILES = {"median": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}


def _npy(array: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _get(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    return connection.getresponse().read().decode()


def _wait(port: int) -> None:
    for _ in range(100):
        try:
            json.loads(_get(port, "/health"))
        except (OSError, http.client.HTTPException):
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("the server did not start within 10 s")


def _memory(process: int) -> float:
    """Return the resident memory in MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def _cpu_seconds(process: int) -> float:
    """Return the processor time of a process, all of its threads: it does not depend on who else is busy."""
    numbers = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


def _of(metrics: str, name: str) -> float:
    return float(metrics.partition(f"metaot_{name} ")[2].partition("\n")[0] or 0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Load test of examples/serving/serve.py on 127.0.0.1.")
    parser.add_argument("model", type=Path, help="an export of checkpoints/mnist")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--python", default=sys.executable, help="the server's Python, if it is another one")
    parser.add_argument("--data-dir", type=Path, help="data folder (default: $METAOT_DATA, else the user's cache)")
    options = parser.parse_args()
    cases = good(OnnxModel(options.model), options.data_dir)
    runs = []
    for clients, together, seconds in (
        (options.clients, 32, options.seconds),
        (options.clients, 1, 15),
        (1, 32, 10),
    ):
        run = load(options, clients, together=together, seconds=seconds, cases=cases)
        runs.append(run)
        print(json.dumps(run, indent=1), flush=True)
    RESULTS.write_text(json.dumps({"eps": EPS, "malformed": MALFORMED, "runs": runs}, indent=1) + "\n")
    sys.exit(any(run["crashed"] or run["wrong"] for run in runs))


if __name__ == "__main__":
    main()
