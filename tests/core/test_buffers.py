"""Arrays that are not what the core expects are errors, never garbage; nothing leaks, no input is written to."""

import sys
from typing import Any

import numpy as np
import pytest
from core_problems import METHODS, problems
from numpy.testing import assert_array_equal

from metaot import core
from metaot.core import compiled as packing

pytestmark = pytest.mark.skipif(not core.COMPILED, reason="not compiled")

B, N, M = 2, 6, 4

LINE, STRIDES = np.arange(3.0), np.full((1, 2), 2)
SQUARES = np.subtract.outer(LINE, LINE) ** 2
WEIGHTS = np.full((B, 9), 1 / 9)
ON_LEVELS = {"costs": (SQUARES, SQUARES), "levels": (STRIDES, LINE, LINE)}
ON_LEVELS |= {"a": WEIGHTS, "b": WEIGHTS, "f": np.empty((B, 9)), "g": np.empty((B, 9))}


def arguments(**changes: Any) -> tuple:
    """Return the arguments of the compiled function for two problems, some of them changed."""
    parts = {
        "method": 1,
        "kind": 1,
        "point_cost": 0,
        "costs": (np.zeros((N, M)),),
        "levels": None,
        "a": np.full((B, N), 1 / N),
        "b": np.full((B, M), 1 / M),
        "eps": np.ones(B),
        "start": None,
        "prices": None,
        "f": np.empty((B, N)),
        "g": np.empty((B, M)),
        "error": np.empty(B),
        "steps": np.empty(B, dtype=np.int64),
        "limits": (1e-6, 10, True),
        "threads": 1,
    }
    parts.update(changes)
    p = parts.get
    problem = p("a"), p("b"), p("eps"), p("start"), p("prices")
    results = p("f"), p("g"), p("error"), p("steps")
    return (
        p("method"),
        (p("kind"), p("point_cost"), p("costs"), p("levels")),
        problem,
        results,
        p("limits"),
        p("threads"),
    )


def call(**changes: Any) -> None:
    packing._core.solve_each(*arguments(**changes))


def test_the_arguments_themselves_are_right():
    call()
    call(start=np.zeros((B, N)), costs=(np.zeros((B, N, M)),))
    call(method=0, kind=0, costs=(np.zeros((2, 2)), np.zeros((3, 2))))
    call(method=0, kind=0, **ON_LEVELS)
    call(prices=np.array([[1.0, 0.5, 0.0, np.inf]] * B))
    call(method=2, kind=2, costs=(np.zeros((N, 3)), np.zeros((B, M, 3))))


read_only = np.empty((B, N))
read_only.flags.writeable = False
WRONG_KIND = {
    "a list": {"a": [[0.5] * N] * B},
    "None": {"b": None},
    "float32": {"a": np.full((B, N), 1 / N, dtype=np.float32)},
    "float32 of the same length": {"a": np.full((B, 2 * N), 1 / N, dtype=np.float32)},
    "integers": {"b": np.ones((B, M), dtype=np.int64)},
    "big-endian": {"a": np.full((B, N), 1 / N).astype(">f8")},
    "complex": {"a": np.full((B, N // 2), 1 / N, dtype=np.complex128)},
    "objects": {"a": np.full((B, N), None)},
    "eps of float32": {"eps": np.ones(2 * B, dtype=np.float32)},
    "prices of float32": {"prices": np.ones((B, 8), dtype=np.float32)},
    "start of float32": {"start": np.zeros((B, N), dtype=np.float32)},
    "steps of float64": {"steps": np.empty(B)},
    "steps of int32": {"steps": np.empty(2 * B, dtype=np.int32)},
    "costs of float32": {"costs": (np.zeros((N, M), dtype=np.float32),)},
    "costs in a list": {"costs": [np.zeros((N, M))]},
    "limits without a number": {"limits": ("1e-6", 10, True)},
    "a fraction of a step": {"limits": (1e-6, 10.5, True)},
}
WRONG_SIZE = {
    "one problem": {"a": np.ones((1, N))},
    "one column less": {"b": np.ones((B, M - 1))},
    "one row more": {"start": np.zeros((B, N + 1))},
    "sides exchanged": {"costs": (np.zeros((M, N)),)},
    "another batch": {"costs": (np.zeros((B + 1, N, M)),)},
    "four dimensions": {"costs": (np.zeros((1, B, N, M)),)},
    "one dimension": {"costs": (np.zeros(N * M),)},
    "no matrix": {"costs": ()},
    "two matrices": {"costs": (np.zeros((N, M)),) * 2},
    "one cloud": {"kind": 2, "costs": (np.zeros((N, 3)),)},
    "clouds of two dimensions": {"kind": 2, "costs": (np.zeros((N, 3)), np.zeros((M, 2)))},
    "nine axes": {"kind": 0, "method": 0, "costs": (np.zeros((1, 1)),) * 9},
    "axes with a batch": {"kind": 0, "method": 0, "costs": (np.zeros((B, N, M)),)},
    "an axis without points": {"kind": 0, "method": 0, "costs": (np.zeros((N, M)), np.zeros((0, 1)))},
    "no atoms": {"costs": (np.zeros((0, M)),), "a": np.zeros((B, 0)), "f": np.empty((B, 0))},
    "a number": {"eps": np.array(1.0)},
    "prices of one side": {"prices": np.ones((B, 2))},
    "prices for Newton": {"prices": np.ones((B, 4)), "method": 2},
    "small f": {"f": np.empty((B, N - 1))},
    "small g": {"g": np.empty((1, M))},
    "small error": {"error": np.empty(B - 1)},
    "small steps": {"steps": np.empty(1, dtype=np.int64)},
    "columns first": {"a": np.full((N, B), 1 / N).T},
    "every second": {"b": np.full((B, 2 * M), 1 / M)[:, ::2]},
    "backwards": {"eps": np.ones(B)[::-1]},
    "results that are read-only": {"f": read_only},
    "results with strides": {"g": np.empty((B, 2 * M))[:, ::2]},
    "costs with strides": {"costs": (np.zeros((M, N)).T,)},
    "levels of a matrix": {"levels": (STRIDES, LINE, LINE)},
    "levels without coordinates": {"kind": 0, "method": 0, **ON_LEVELS, "levels": (STRIDES,)},
    "levels of one axis": {"kind": 0, "method": 0, **ON_LEVELS, "levels": (STRIDES, LINE)},
    "coordinates of other points": {"kind": 0, "method": 0, **ON_LEVELS, "levels": (STRIDES, LINE, LINE[:2])},
    "strides for one axis": {"kind": 0, "method": 0, **ON_LEVELS, "levels": (STRIDES[:, :1].copy(), LINE, LINE)},
    "strides of zero": {"kind": 0, "method": 0, **ON_LEVELS, "levels": (0 * STRIDES, LINE, LINE)},
    "thirteen levels": {"kind": 0, "method": 0, **ON_LEVELS, "levels": (np.full((13, 2), 2), LINE, LINE)},
    "an unknown method": {"method": 5},
    "a negative method": {"method": -1},
    "unknown costs": {"kind": 3},
    "an unknown cost between points": {"point_cost": 3},
    "axes asked of a matrix": {"method": 0},
    "a step on a matrix": {"method": 3},
    "a potential on a matrix": {"method": 4},
}


WRONG = [
    *((TypeError, changes) for changes in WRONG_KIND.values()),
    *((ValueError, changes) for changes in WRONG_SIZE.values()),
]


@pytest.mark.parametrize(("error", "changes"), WRONG, ids=[*WRONG_KIND, *WRONG_SIZE])
def test_wrong_arrays_are_errors_and_not_held_after_it(error, changes):
    kept = arguments(**changes)
    arrays = [part for group in (kept[1][2], *kept[2:4]) for part in group if isinstance(part, np.ndarray)]
    before = [sys.getrefcount(array) for array in arrays]
    with pytest.raises(error):
        packing._core.solve_each(*kept)
    assert [sys.getrefcount(array) for array in arrays] == before


def test_errors_name_the_array():
    with pytest.raises(TypeError, match="a must be float64, got the format 'f'"):
        call(**WRONG_KIND["float32"])
    with pytest.raises(ValueError, match="start has 112 bytes, expected 2 problems of 6 numbers"):
        call(**WRONG_SIZE["one row more"])
    with pytest.raises(ValueError, match="b must be C-contiguous"):
        call(**WRONG_SIZE["every second"])


def test_what_is_read_is_not_written():
    p = problems("two axes")
    f = np.random.default_rng(0).normal(size=p.a.shape)
    parts = [*p.space.costs.arrays, p.a, p.b, p.eps, f]
    for part in parts:
        part.flags.writeable = False
    copies = [part.copy() for part in parts]
    for method in METHODS:
        p.solve(method, f)
    for part, copy in zip(parts, copies, strict=True):
        assert_array_equal(part, copy)


@pytest.mark.parametrize("layout", [np.asfortranarray, np.float32])
def test_the_public_functions_take_any_layout(layout):
    """Arrays that are not contiguous or not float64 are copied."""
    p, limits = problems("matrix"), core.Limits(1e-6, 50)
    found = core.Compiled(p.space.costs, p.a, p.b, p.eps).newton(core.EVERY, None, limits)
    costs = core.Costs.of_matrix(layout(p.space.C))
    other = core.Compiled(costs, layout(p.a), layout(p.b), p.eps).newton(core.EVERY, None, limits)
    np.testing.assert_allclose(other.f, found.f, atol=1e-4)


def resident() -> int:
    """Return the bytes of memory that the process has."""
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * 4096


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("method", METHODS)
def test_nothing_leaks(method):
    p = problems("two axes" if method != "by matrix" else "sqeuclidean, 64-D", batch=4)

    wrong = core.Compiled(p.space.costs, p.a[:, :-1], p.b, p.eps)

    def run(times: int) -> None:
        for _ in range(times):
            p.solve(method, max_steps=2)
            with pytest.raises(ValueError, match="has"):
                wrong.newton(core.EVERY, None, core.Limits(1e-6, 1))

    run(20)
    before = resident()
    run(200)
    assert resident() - before < 2**20


def pairs_of(**changes: Any) -> tuple:
    """Return the arguments of the compiled function for pairs of two measures, some of them changed."""
    parts = {
        "costs": (0, 0, (np.zeros((2, 2)), np.zeros((3, 3)))),
        "weights": np.full((B, N), 1 / N),
        "eps": np.ones(3),
        "start": None,
        "pairs": np.array([[0, 1], [1, 0], [1, 1]]),
        "f": None,
        "g": None,
        "value": np.empty(3),
    }
    p = (parts | changes).get
    problems = p("weights"), p("eps"), p("start"), p("pairs")
    results = p("f"), p("g"), p("value"), np.empty(3), np.empty(3, dtype=np.int64)
    return True, p("costs"), problems, results, (1e-6, 10, True), 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"pairs": np.array([[0, 1], [1, 0], [1, 2]])}, ValueError, "rows of the weights"),
        ({"pairs": np.array([[0, 1], [1, 0], [1, -1]])}, ValueError, "rows of the weights"),
        ({"pairs": np.array([[0, 1]])}, ValueError, "pairs has 16 bytes"),
        ({"pairs": None}, TypeError, "must be arrays"),
        ({"value": None}, TypeError, "must be arrays"),
        ({"value": np.empty(2)}, ValueError, "value has 16 bytes"),
        ({"start": np.empty((2, N))}, ValueError, "start has 96 bytes"),
        ({"f": np.empty((2, N))}, ValueError, "f has 96 bytes"),
        ({"weights": np.full((B, N - 1), 1 / N)}, ValueError, "a has 80 bytes"),
    ],
)
def test_pairs_that_do_not_fit(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    packing._core.solve_pairs(*pairs_of())
    with pytest.raises(error, match=message):
        packing._core.solve_pairs(*pairs_of(**changes))


K = 3


def averages_of(**changes: Any) -> tuple:
    """Return the arguments of the compiled function for two barycenters of three measures, some changed."""
    parts = {
        "costs": (np.zeros((2, 2)), np.zeros((3, 3))),
        "measures": np.full((B, K, N), 1 / N),
        "weights": np.full((B, K), 1 / K),
        "eps": np.ones(B),
        "f": np.zeros((B, K, N)),
        "log_d": np.zeros((B, N)),
        "settled": np.zeros(B),
        "found f": np.empty((B, K, N)),
        "found g": np.empty((B, K, N)),
        "found log_d": np.empty((B, N)),
        "log_alpha": np.empty((B, N)),
        "errors": np.empty((B, 3)),
        "steps": np.empty(B, dtype=np.int64),
    }
    costs, *arrays = (parts | changes).values()
    return costs, tuple(arrays[:6]), tuple(arrays[6:]), (1e-6, 10, True), 2


_, _GIVEN, _FOUND, *_ = averages_of()
SHAPES = {
    name: part.shape
    for name, part in zip(
        ("measures", "weights", "eps", "f", "log_d", "settled", "found f", "found g", "found log_d", "log_alpha"),
        (*_GIVEN, *_FOUND),
        strict=False,
    )
}


@pytest.mark.parametrize("name", SHAPES)
def test_arrays_of_barycenters_that_do_not_fit(name: str) -> None:
    shape = SHAPES[name]
    wrong = {
        "must be float64": (TypeError, np.zeros(shape, dtype=np.float32)),
        "must be an array": (TypeError, None),
        "must be C-contiguous": (ValueError, np.zeros((*shape[:-1], 2 * shape[-1]))[..., ::2]),
        "has|one grid": (ValueError, np.zeros((*shape[:-1], shape[-1] + 1))),
    }
    for message, (error, array) in wrong.items():
        with pytest.raises(error, match=message):
            packing._core.average_each(*averages_of(**{name: array}))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"steps": np.empty(B)}, TypeError, "steps must be int64"),
        ({"errors": np.empty((B, 2))}, ValueError, "errors has 32 bytes, expected 2 barycenters of 3 numbers"),
        ({"found f": read_only.reshape(B, 1, N)}, ValueError, "C-contiguous and writable"),
        ({"costs": (np.zeros((2, 3)), np.zeros((3, 3)))}, ValueError, "on one grid"),
        ({"costs": [np.zeros((2, 2))]}, TypeError, "tuple"),
        ({"weights": np.empty((B, 0))}, ValueError, "of one measure at least"),
    ],
)
def test_barycenters_that_do_not_fit(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    packing._core.average_each(*averages_of())
    with pytest.raises(error, match=message):
        packing._core.average_each(*averages_of(**changes))
