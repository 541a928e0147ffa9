"""The server's answers: right ones, and refusals that name the field. No request takes it down."""

import http.client
import io
import json
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from unittest.mock import create_autospec

import numpy as np
import pytest

from metaot.onnx import OnnxModel, Potentials

sys.path.append(str(Path(__file__).parents[2] / "examples" / "serving"))
from serve_metrics import Metrics
from serve_requests import Limits, RefusedError, from_json, from_npy, question

N, M = 3, 2
HEADER_SECONDS, CONNECTIONS = 0.4, 20
A, B = [0.5, 0.25, 0.25], [0.5, 0.5]


def predict(a: np.ndarray, b: np.ndarray, *, eps: np.ndarray | float) -> Potentials:
    """Stand in for a network: each row shows what it was made of."""
    return Potentials(a + np.broadcast_to(eps, len(a))[:, None], 2 * b)


MODEL = create_autospec(OnnxModel, instance=True, sizes=(N, M), eps=(1e-3, 1e-1))
MODEL.predict.side_effect = predict


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def asked(body: object):
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return question(MODEL, Limits(), *from_json(text))


@pytest.mark.parametrize("eps", [0.01, [0.01, 0.02]])
def test_json_and_npy_say_the_same(eps):
    rows = np.array([A + B, A + B])
    by_npy = question(MODEL, Limits(), *from_npy(MODEL, npy(rows), json.dumps(eps)))
    by_json = asked({"a": [A, A], "b": [B, B], "eps": eps})
    for name in ("a", "b", "eps"):
        np.testing.assert_array_equal(getattr(by_npy, name), getattr(by_json, name))
    assert not by_json.vector
    assert by_json.eps.tolist() == np.broadcast_to(eps, 2).tolist()
    one = question(MODEL, Limits(), *from_npy(MODEL, npy(rows[0].astype(np.float32)), "0.01"))
    assert one.vector
    assert one.a.shape == (1, N)
    assert one.a.dtype == np.float64


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"b": B, "eps": 0.01}, "a"),
        ({"a": A, "eps": 0.01}, "b"),
        ({"a": A, "b": B}, "eps"),
        ({"a": A, "b": B, "eps": 1.0}, "eps"),
        ({"a": A, "b": B, "eps": "0.01"}, "eps"),
        ({"a": A, "b": B, "eps": [0.01, 0.01]}, "eps"),
        ({"a": A, "b": B, "eps": 0.01, "epsilon": 1}, "epsilon"),
        ({"a": A[:2], "b": B, "eps": 0.01}, "a"),
        ({"a": ["0.5", 0.25, 0.25], "b": B, "eps": 0.01}, "a"),
        ({"a": [True, False, False], "b": B, "eps": 0.01}, "a"),
        ({"a": [A, [1.0]], "b": B, "eps": 0.01}, "a"),
        ({"a": {"x": 1}, "b": B, "eps": 0.01}, "a"),
        ({"a": None, "b": B, "eps": 0.01}, "a"),
        ({"a": [10**400, 0, 0], "b": B, "eps": 0.01}, "a"),
        ({"a": A, "b": [float("nan"), 1.0], "eps": 0.01}, "b"),
        ({"a": A, "b": [1.5, -0.5], "eps": 0.01}, "b"),
        ({"a": A, "b": [0.5, 0.6], "eps": 0.01}, "b"),
        ({"a": [A, A], "b": B, "eps": 0.01}, "b"),
        ({"a": [[A]], "b": [[B]], "eps": 0.01}, "a"),
        ({"a": [A] * 2000, "b": [B] * 2000, "eps": 0.01}, "a"),
        ([A, B], "body"),
        *[(text, "body") for text in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000)],
    ],
)
def test_a_json_refusal_names_the_field(body, field):
    with pytest.raises(RefusedError) as refused:
        asked(body)
    assert (refused.value.status, refused.value.field) == (400, field)


@pytest.mark.parametrize(
    ("body", "eps", "field"),
    [
        (b"", "0.01", "body"),
        (b"no npy", "0.01", "body"),
        (npy(np.zeros((2, 4))), "0.01", "body"),
        (npy(np.zeros((2, 5), int)), "0.01", "body"),
        (npy(np.asfortranarray(np.zeros((2, 5)))), "0.01", "body"),
        (npy(np.zeros((2, 5)))[:-1], "0.01", "body"),
        (npy(np.zeros((2, 5))).replace(b"(2, 5)", b"(-2, 5"), "0.01", "body"),
        (npy(np.zeros((1, 5))).replace(b"(1, 5), }     ", b"(10**12, 5), }"), "0.01", "body"),
        (npy(np.zeros((1, 5))).replace(b"(1, 5), }          ", b"(999999999999, 5), }"), "0.01", "body"),
        (npy(np.array([A + B])), "cold", "eps"),
        (npy(np.array([A + B])), None, "eps"),
        (npy(np.array([[*A, 1.0, 1.0]])), "0.01", "b"),
        (npy(np.zeros((0, 5))), "0.01", "a"),
    ],
)
def test_a_npy_refusal_names_the_field(body, eps, field):
    with pytest.raises(RefusedError) as refused:
        question(MODEL, Limits(), *from_npy(MODEL, body, eps))
    assert (refused.value.status, refused.value.field) == (400, field)


def test_metrics_are_cumulative():
    metrics = Metrics()
    for seconds in (1e-4, 2e-3, 100.0):
        metrics.answered(200, seconds)
    metrics.answered(400, 2e-3)
    text = metrics.text()
    assert 'metaot_requests_total{status="200"} 3' in text
    assert 'metaot_request_seconds_bucket{le="0.0005"} 1' in text
    assert 'metaot_request_seconds_bucket{le="0.0025"} 3' in text
    assert 'metaot_request_seconds_bucket{le="+Inf"} 4' in text
    assert "metaot_request_seconds_count 4" in text


@pytest.fixture(scope="module")
def address():
    """Run the whole server on a free port."""
    pytest.importorskip("starlette")
    from serve import create_server  # noqa: PLC0415, an extra

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    limits = Limits(body=10_000, seconds=0.3, header_seconds=HEADER_SECONDS, connections=CONNECTIONS)
    server = create_server(MODEL, limits, port=port, log_level="critical")
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield port
    server.should_exit = True
    thread.join()


def send(port, method, path, body=None, kind="application/json"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, body, {"content-type": kind})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content


def test_answers_over_http(address):
    def ask(k: int) -> None:
        eps = [0.01, 0.02, 0.03][k % 3]
        body = json.dumps({"a": [A] * (k % 4 + 1), "b": [B] * (k % 4 + 1), "eps": eps})
        status, content = send(address, "POST", "/predict", body)
        assert status == 200
        np.testing.assert_allclose(json.loads(content)["f"], [np.array(A) + eps] * (k % 4 + 1))
        status, content = send(address, "POST", f"/predict?eps={eps}", npy(np.array(A + B)), "application/x-npy")
        np.testing.assert_allclose(np.load(io.BytesIO(content)), np.r_[np.array(A) + eps, 2 * np.array(B)])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(48)))


def test_refusals_over_http(address):
    def field(*request):
        status, content = send(address, *request)
        return status, json.loads(content)["error"]["field"]

    assert field("POST", "/predict", "{}") == (400, "a")
    assert field("POST", "/predict", "{}", "text/html") == (415, "content-type")
    assert field("POST", "/predict", b" " * 20_000) == (413, "body")
    assert send(address, "GET", "/predict")[0] == 405
    assert send(address, "GET", "/nothing")[0] == 404
    with socket.create_connection(("127.0.0.1", address)) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{")
        assert b"408" in slow.recv(1000)
    with socket.create_connection(("127.0.0.1", address)) as gone:
        gone.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{")
    assert json.loads(send(address, "GET", "/health")[1])["status"] == "ok"
    assert b'status="413"} 1' in send(address, "GET", "/metrics")[1]


def test_unfinished_headers_keep_nobody_out_for_long(address):
    """Also where another byte comes again and again; more connections than the limit are answered at once."""
    with ExitStack() as stack:
        connections = [socket.create_connection(("127.0.0.1", address)) for _ in range(CONNECTIONS)]
        slow = [stack.enter_context(connection) for connection in connections]
        for line in slow:
            line.sendall(b"GET /health HTTP/1.1\r\nx: ")
        assert send(address, "GET", "/health") == (503, b"")
        end = time.monotonic() + 20 * HEADER_SECONDS
        while time.monotonic() < end and send(address, "GET", "/health")[0] == 503:
            with suppress(OSError):
                slow[0].sendall(b"x")
            time.sleep(0.02)
        assert send(address, "GET", "/health")[0] == 200
        for line in slow:
            line.settimeout(HEADER_SECONDS / 2)
            assert line.recv(100).startswith(b"HTTP/1.1 408"), "the byte that came last gave no more time"


def test_each_request_of_a_connection_has_its_own_time_for_headers(address):
    connection = http.client.HTTPConnection("127.0.0.1", address, timeout=5)
    for pause in (0.0, 0.6, 0.6):
        time.sleep(pause * HEADER_SECONDS)
        connection.request("GET", "/health")
        assert connection.getresponse().read()
    connection.sock.sendall(b"GET")
    assert connection.sock.recv(100).startswith(b"HTTP/1.1 408")
    connection.close()
