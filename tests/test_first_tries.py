"""What users of POT, OTT, GeomLoss and scikit-learn try first: each call works, or its error says how."""

import inspect
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from strategies import assert_close, unchecked

import metaot
from metaot import Dense, DualPotentials, Grid, Newton, Points, Problem, SampleProblem, Sinkhorn, solve
from metaot.amortize import GaussianStart, ZeroStart
from metaot.amortize.maps import BuresStart
from metaot.geometry.costs import squared_euclidean
from metaot.tools import displacement_interpolation

RNG = np.random.default_rng(0)
N, M, EPS = 6, 5, 0.3
A, B = np.full(N, 1 / N), np.full(M, 1 / M)  # ot.unif
X, Y = RNG.normal(size=(N, 2)), RNG.normal(size=(M, 2))
C = ((X[:, None] - Y[None]) ** 2).sum(-1)  # ot.dist(X, Y)
IMAGES = RNG.random((2, 3, 4, 5))
IMAGES /= IMAGES.sum((-2, -1), keepdims=True)
ROWS = IMAGES.reshape(2, 3, 20)


def a_problem() -> Problem:
    return Problem(A, B, C, EPS)


def image_problem() -> Problem:
    return Problem(IMAGES[0], IMAGES[1], Grid(4, 5), EPS)


with unchecked():
    ON_ARRAYS = solve(Problem(*(torch.from_numpy(z) for z in (A, B)), Dense(torch.from_numpy(C)), EPS), tol=1e-9)
    ON_IMAGES = solve(
        Problem(*(torch.from_numpy(z) for z in ROWS), Grid(4, 5), torch.full((3,), EPS, dtype=torch.float64)),
        tol=1e-9,
    )


def read_only(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values.flags.writeable = False
    return values


def pandas(make: Callable[[Any], Any]) -> Any:
    return make(pytest.importorskip("pandas"))


class Foreign:
    """An array of another library: numpy can read it, and it may not be written to."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = read_only(values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.values

    def __len__(self) -> int:
        return len(self.values)


class OnADevice:
    """An array that only DLPack reads."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = torch.tensor(values)
        self.__dlpack__, self.__dlpack_device__ = self.values.__dlpack__, self.values.__dlpack_device__

    def __array__(self, dtype: Any = None) -> np.ndarray:
        raise TypeError("implicit conversion is not allowed")


def in_numpy(x: torch.Tensor, y: torch.Tensor) -> Any:
    """Return the squared distances in an array, as a cost function of scipy."""
    return ((x.numpy()[:, None] - y.numpy()) ** 2).sum(-1)


def value(problem: Problem) -> torch.Tensor:
    return solve(problem, tol=1e-9).value


SAME: dict[str, Callable[[], Any]] = {
    "arrays": lambda: value(Problem(A, B, Dense(C), EPS)),
    "a matrix as the geometry": lambda: value(Problem(A, B, C, EPS)),
    "nested lists": lambda: value(Problem(A.tolist(), B.tolist(), C.tolist(), EPS)),
    "tuples": lambda: value(Problem(tuple(A), tuple(B), tuple(map(tuple, C)), EPS)),
    "by names": lambda: value(Problem(a=A, b=B, geometry=C, eps=EPS)),
    "reg as a float32 of numpy": lambda: value(Problem(A, B, C, np.float32(EPS))),
    "reg as an array of no dimension": lambda: value(Problem(A, B, C, np.array(EPS))),
    "reg as a tensor of no dimension": lambda: value(Problem(A, B, C, torch.tensor(EPS))),
    "points": lambda: value(Problem(A, B, Points(X, Y), EPS)),
    "points and the name of a cost": lambda: value(Problem(A, B, Points(X, Y, "sqeuclidean"), EPS)),
    "points as lists": lambda: value(Problem(A, B, Points(X.tolist(), Y.tolist()), EPS)),
    "a cost function of numpy": lambda: value(Problem(A, B, Points(X, Y, in_numpy), EPS)),
    "one weight vector as a tensor": lambda: value(Problem(torch.from_numpy(A), B, C, EPS)),
    "a list beside a tensor": lambda: value(Problem(A.tolist(), torch.from_numpy(B), C, EPS)),
    "a list of tensors": lambda: value(Problem(list(torch.from_numpy(A)), B, list(torch.from_numpy(C)), EPS)),
    "float32 beside float64": lambda: value(Problem(A.astype(np.float32), B, C, EPS)),
    "not writable": lambda: value(Problem(read_only(A), read_only(B), read_only(C), EPS)),
    "reversed twice": lambda: value(Problem(A[::-1], B[::-1], C[::-1, ::-1], EPS)),
    "transposed memory": lambda: value(Problem(A, B, np.asfortranarray(C), EPS)),
    "of another byte order": lambda: value(Problem(A.astype(">f8"), B.astype(">f8"), C.astype(">f8"), EPS)),
    "arrays of another library": lambda: value(Problem(Foreign(A), Foreign(B), Foreign(C), EPS)),
    "arrays on a device": lambda: value(Problem(OnADevice(A), OnADevice(B), C, EPS)),
    "a Series": lambda: pandas(lambda pd: value(Problem(pd.Series(A), pd.Series(B), pd.DataFrame(C), EPS))),
    "points of a table": lambda: pandas(
        lambda pd: value(Problem(A, B, Points(pd.DataFrame(X), pd.DataFrame(Y)), EPS))
    ),
    "counts, divided by their sum": lambda: value(Problem(np.ones(N, int) / N, np.ones(M, int) / M, C, EPS)),
    "a solution as a start": lambda: solve(a_problem(), init=solve(a_problem()), tol=1e-9).value,
    "a pair as a start": lambda: solve(a_problem(), init=(np.zeros(N), [0.0] * M), tol=1e-9).value,
    "a predictor as a start": lambda: solve(a_problem(), init=ZeroStart(), tol=1e-9).value,
    "dual_value of arrays": lambda: metaot.dual_value(a_problem(), tuple(map(np.asarray, potentials()))),
    "dual_value of lists": lambda: metaot.dual_value(a_problem(), tuple(z.tolist() for z in potentials())),
    "dual_value of a solution": lambda: metaot.dual_value(a_problem(), ON_ARRAYS),
    "c_transform of an array": lambda: metaot.dual_value(
        a_problem(), (potentials()[0], metaot.c_transform(a_problem(), potentials()[0].numpy()))
    ),
    "potentials of arrays": lambda: metaot.dual_value(
        a_problem(), DualPotentials(*(z.tolist() for z in potentials()))
    ),
    "f alone, completed": lambda: (
        solve(a_problem(), init=DualPotentials.from_f(a_problem(), potentials()[0].numpy()), tol=1e-9).value
    ),
    "ot_value": lambda: metaot.ot_value(a_problem(), tol=1e-9),
}


def potentials() -> tuple[torch.Tensor, torch.Tensor]:
    return ON_ARRAYS.potentials.f, ON_ARRAYS.potentials.g


@pytest.mark.parametrize("call", SAME.values(), ids=SAME.keys())
def test_calls_that_give_the_same_value(call):
    assert_close(call(), ON_ARRAYS.value, 1e-7)


ON_A_GRID: dict[str, Callable[[], Problem]] = {
    "a batch of images": lambda: Problem(IMAGES[0], IMAGES[1], Grid(4, 5), EPS),
    "the sizes as a tuple": lambda: Problem(IMAGES[0], IMAGES[1], Grid((4, 5)), EPS),
    "the shape of an image": lambda: Problem(IMAGES[0], IMAGES[1], Grid(IMAGES[0, 0].shape), EPS),
    "sizes of numpy": lambda: Problem(IMAGES[0], IMAGES[1], Grid(np.int64(4), np.int32(5)), EPS),
    "the axes as arrays": lambda: Problem(
        ROWS[0], ROWS[1], Grid(np.linspace(0, 1, 4), [0, 1 / 4, 1 / 2, 3 / 4, 1]), EPS
    ),
    "the axes in a tuple": lambda: Problem(ROWS[0], ROWS[1], Grid((np.linspace(0, 1, 4), 5)), EPS),
    "a list of images": lambda: Problem(list(IMAGES[0]), list(IMAGES[1]), Grid(4, 5), EPS),
    "tensors of images": lambda: Problem(*torch.from_numpy(IMAGES), Grid(4, 5), EPS),
    "images beside vectors": lambda: Problem(IMAGES[0], ROWS[1], Grid(4, 5), EPS),
    "a list of temperatures": lambda: Problem(ROWS[0], ROWS[1], Grid(4, 5), [EPS] * 3),
    "an array of temperatures": lambda: Problem(IMAGES[0], IMAGES[1], Grid(4, 5), np.full(3, EPS)),
}


@pytest.mark.parametrize("make", ON_A_GRID.values(), ids=ON_A_GRID.keys())
def test_calls_with_images(make):
    with unchecked():
        solution = solve(make(), tol=1e-9)
        assert solution.potentials.f.shape == (3, 20)
        assert_close(solution.value, ON_IMAGES.value, 1e-7)
        images = solution.potentials.f.reshape(3, 4, 5), solution.potentials.g.reshape(3, 4, 5)
        assert solve(make(), init=images, tol=1e-6).steps.max() <= 1
        assert_close(metaot.dual_value(make(), images), ON_IMAGES.value, 1e-7)


def test_what_may_be_a_vector_is_one():
    """On a grid of 1 x 5, (1, 5) is a batch of one vector, and (1, 1, 5) a batch of one batch of them."""
    w = np.full((1, 5), 0.2)
    assert Problem(w, w, Grid(1, 5), EPS).a.shape == (1, 5)
    assert Problem(w[None], w[None], Grid(1, 5), EPS).a.shape == (1, 1, 5)
    assert Problem(w.T, w.T, Grid(5, 1), EPS).a.shape == (5,)
    square = np.full((5, 5), 0.2)
    assert Problem(square, square, Grid(5), EPS).a.shape == (5, 5)
    cube = np.full((2, 3, 4, 5), 1 / 60)
    assert Problem(cube, cube, Grid(3, 4, 5), EPS).a.shape == (2, 60)


SAYS_HOW: dict[str, tuple[Callable[[], Any], str]] = {
    "solve as in POT": (
        lambda: solve(A, B, C),
        r"solve takes one problem, solve\(metaot.Problem\(a, b, geometry, eps\), .*got 3",
    ),
    "solve as in OTT": (lambda: solve(Points(X, Y), A, B), "solve takes one problem"),
    "ot_value of weights": (lambda: metaot.ot_value(A, B, C, EPS), "ot_value takes one problem"),
    "solve of weights": (
        lambda: solve(A),
        r"problem must be a metaot.Problem.*got a ndarray of shape \(6,\) and float64",
    ),
    "solve of a geometry": (lambda: solve(Grid(4, 5)), r"must be a metaot.Problem.*, got Grid\(4, 5\)"),
    "reg=": (lambda: Problem(A, B, C, reg=EPS), "unexpected keyword argument 'reg'"),
    "no eps": (lambda: Problem(A, B, C), "missing 1 required positional argument: 'eps'"),
    "no weights": (lambda: Problem(None, B, C, EPS), r"a must be weights .*, got None"),
    "uniform": (lambda: Problem("uniform", B, C, EPS), r"a must be weights .*, got the string 'uniform'"),
    "weights in a dict": (lambda: Problem({0: 1.0}, B, C, EPS), r"a must be weights .*, got \{0: 1.0\}"),
    "points as weights": (
        lambda: Problem(X, Y, C, EPS),
        r"sizes \(2, 2\) do not fit the geometry of sizes \(6, 5\)",
    ),
    "weights exchanged": (lambda: Problem(B, A, C, EPS), r"exchange a and b, or take geometry.T"),
    "counts": (
        lambda: Problem([3] * N, B, C, EPS),
        r"a must sum to one, got sum a = 18: divide by a.sum\(-1, keepdims=True\)",
    ),
    "pixels of 0 to 255": (
        lambda: Problem((255 * IMAGES[0]).astype(np.uint8), IMAGES[1], Grid(4, 5), EPS),
        r"a must sum to one, .* divide by a.sum\(\(-2, -1\), keepdims=True\)",
    ),
    "images on a matrix": (
        lambda: Problem(IMAGES[0], IMAGES[1], np.zeros((20, 20)), EPS),
        r"a of shape \(3, 4, 5\) are images, take a.flatten\(-2\)",
    ),
    "images on their side": (
        lambda: Problem(IMAGES[0], IMAGES[1], Grid(5, 4), EPS),
        r"a has the shape \(3, 4, 5\), the weights of Grid\(5, 4\) .* \(\*batch, 20\) or \(\*batch, 5, 4\)",
    ),
    "a column of a table": (
        lambda: Problem(A[:, None], B, C, EPS),
        r"a of shape \(6, 1\) is a column, take a\[..., 0\]",
    ),
    "a negative image": (
        lambda: Problem(-IMAGES[0], IMAGES[1], Grid(4, 5), EPS),
        r"not be negative, got a\[0, 0, 0\]",
    ),
    "no atoms": (lambda: Problem([], B, C, EPS), r"a must have the shape \(\*batch, atoms\), got \(0,\)"),
    "float16": (
        lambda: Problem(A.astype(np.float16), B, C, EPS),
        r"a must be float32 or float64, got float16: use .astype",
    ),
    "half": (lambda: Problem(torch.from_numpy(A).half(), B, C, EPS), r"got torch.float16: use .double\(\)"),
    "bfloat16": (lambda: Problem(A, torch.from_numpy(B).bfloat16(), C, EPS), "b must be .* got torch.bfloat16"),
    "complex": (lambda: Problem(A, B, C + 0j, EPS), "geometry must be float32 or float64, got complex128"),
    "sparse": (
        lambda: Problem(torch.from_numpy(A).to_sparse(), B, C, EPS),
        r"a must be dense, .* use .to_dense\(\)",
    ),
    "a mask": (
        lambda: Problem(np.ma.masked_less(A, 1), B, C, EPS),
        r"a must have no masked entries: take .filled\(0\)",
    ),
    "a ragged matrix": (
        lambda: Problem(A, B, [[0.0, 1.0], [2.0]], EPS),
        r"geometry must be a Geometry.*got \[\[0.0, 1.0\]",
    ),
    "words in a matrix": (lambda: Dense([["a", "b"]]), r"C must be a cost matrix .*, got \[\['a', 'b'\]\]"),
    "the class of a geometry": (lambda: Problem(A, B, Grid, EPS), "the class Grid itself, not an object of it"),
    "arguments exchanged": (
        lambda: Problem(A, B, EPS, C),
        r"order Problem\(a, b, geometry, eps\), got the number 0.3",
    ),
    "a geometry first": (
        lambda: Problem(Grid(4, 5), A, B, EPS),
        r"a must be weights .* in Problem\(a, b, .*got Grid",
    ),
    "the name of a geometry": (
        lambda: Problem(A, B, "grid", EPS),
        r"geometry must be a Geometry, .* got the string",
    ),
    "a geometry as eps": (
        lambda: Problem(A, B, C, Grid(4)),
        "eps must be a number, or one for each problem, got Grid",
    ),
    "eps of words": (lambda: Problem(A, B, C, "0.1"), "eps must be a number, .* got the string '0.1'"),
    "no eps at all": (lambda: Problem(A, B, C, None), "eps must be a number, .* got None"),
    "eps of zero": (lambda: Problem(A, B, C, 0), "eps must be positive and finite, got 0"),
    "eps for too many": (lambda: Problem(A, B, C, [0.1, 0.2]), r"of the batch's shape \(\), got \(2,\)"),
    "sizes in a list": (lambda: Grid([28, 28]), r"for sizes say Grid\(28, 28\)"),
    "a size with a point": (lambda: Grid(28.0, 28.0), "axis 0 of a Grid must be a number of points"),
    "the cost last": (lambda: Grid(28, 28, "l1"), "the cost is named as cost='sqeuclidean', got the string 'l1'"),
    "a cost that is none of a grid": (
        lambda: Grid(28, cost="euclidean"),
        r"one of \['l1', 'sqeuclidean'\].*take Points",
    ),
    "a cost of scipy": (lambda: Points(X, Y, "cityblock"), r"one of \['cosine', 'dot', 'euclidean', 'sphere', "),
    "a cost in place of y": (lambda: Points(X, "sqeuclidean"), "a cost is named as cost='sqeuclidean'"),
    "points on a line": (lambda: Points(A, B), r"points on a line are x\[:, None\]"),
    "a cost of two points": (lambda: Points(X, Y, lambda x, y: ((x[0] - y[0]) ** 2).sum()), "one row for each x"),
    "a cost that is x": (lambda: Points(X, Y, lambda x, y: x), "one row for each x"),
    "samples on a line": (lambda: SampleProblem(A, B), r"samples on a line are x\[:, None\]"),
    "solver of words": (
        lambda: solve(a_problem(), solver="sinkhorn"),
        r"metaot.Sinkhorn\(\) or metaot.Newton\(\), got the string",
    ),
    "a class as the solver": (lambda: solve(a_problem(), solver=Newton), "the class Newton itself"),
    "f alone": (
        lambda: solve(a_problem(), init=np.zeros(N)),
        r"complete f alone by metaot.DualPotentials.from_f\(problem, f\)",
    ),
    "a start of other sizes": (
        lambda: solve(a_problem(), init=(B, A)),
        r"init.f has the shape \(5,\), the problem's weights \(6,\)",
    ),
    "a model of no name": (
        lambda: solve(a_problem(), init="imagenet"),
        r"comes with metaot, one of \[.*'universal'.*'imagenet'",
    ),
    "a model of maps": (
        lambda: solve(a_problem(), init="palette"),
        r"problem must be a metaot.SampleProblem\(x, y\), got",
    ),
    "a network": (
        lambda: solve(a_problem(), init=torch.nn.Linear(2, 2)),
        "init must be potentials, .* got Linear",
    ),
    "tol of words": (lambda: solve(a_problem(), tol="1e-6"), "tol must be a number, got the string '1e-6'"),
    "half a step": (
        lambda: solve(a_problem(), max_steps=0.5),
        "max_steps must be a whole number, got the number 0.5",
    ),
    "a problem as potentials": (
        lambda: metaot.dual_value(a_problem(), a_problem()),
        r"potentials must be DualPotentials, a pair \(f, g\) or a Solution, got Problem of one",
    ),
    "dual_value of weights": (lambda: metaot.dual_value(A, potentials()), "problem must be a metaot.Problem"),
    "c_transform without a problem": (lambda: metaot.c_transform(A, C), "problem must be a metaot.Problem"),
    "predict of weights": (
        lambda: metaot.load("universal").predict(A),
        r"must be a metaot.Problem.* got a ndarray",
    ),
    "predict of samples": (lambda: GaussianStart().predict(SampleProblem(X, Y)), "must be a metaot.Problem"),
    "a map of a discrete problem": (lambda: BuresStart().predict(a_problem()), "must be a metaot.SampleProblem"),
    "transport of one number each": (
        lambda: ON_ARRAYS.transport(B),
        r"values must have the shape .*take \[..., None\]",
    ),
    "interpolation of weights": (
        lambda: displacement_interpolation(image_problem(), A, 0.5),
        "potentials must be",
    ),
}


@pytest.mark.parametrize(("call", "message"), SAYS_HOW.values(), ids=SAYS_HOW.keys())
def test_calls_that_say_how(call, message):
    with unchecked(), pytest.raises((TypeError, ValueError), match=message):
        call()


def test_results_are_arrays_to_numpy_also_where_derivatives_are_asked_for():
    a, x = torch.from_numpy(A).requires_grad_(), torch.from_numpy(X).requires_grad_()
    problem = Problem(a, B, Points(x, Y), EPS)
    solution = solve(problem)
    results = [
        solution.value,
        solution.cost(),
        solution.plan(),
        solution.transport(),
        *vars(solution.bounds()).values(),
    ]
    results += [solution.potentials.f, solution.error, solution.steps, solution.converged, solution.transport(Y)]
    for result in results:
        assert isinstance(np.asarray(result), np.ndarray)
    metaot.ot_value(problem).backward()
    assert a.grad is not None
    assert x.grad is not None
    values = torch.from_numpy(Y).requires_grad_()
    assert solution.transport(values).requires_grad


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_precision_is_the_callers(dtype):
    problem = Problem(A.astype(dtype), B.tolist(), Points(X.astype(dtype), Y.astype(dtype)), EPS)
    wanted = torch.from_numpy(A.astype(dtype)).dtype
    assert problem.a.dtype == problem.b.dtype == problem.geometry.tensors()["x"].dtype == wanted
    assert Problem([1, 0], [0, 1], [[0, 1], [1, 0]], 1).a.dtype == torch.float64
    assert Points(X.astype(np.float32), Y).tensors()["x"].dtype == torch.float64
    assert SampleProblem(X.astype(dtype), Y.tolist()).y.dtype == wanted


def test_settings_are_numbers_of_any_kind():
    with unchecked():
        solution = solve(a_problem(), tol=np.float32(1e-9), max_steps=1e4)
        assert solve(a_problem(), max_steps=np.int64(0)).steps == 0
    assert_close(solution.value, ON_ARRAYS.value, 1e-7)


def test_a_model_is_named():
    problem = Problem(*IMAGES.reshape(2, 3, 4, 5), Grid(4, 5), 0.1)
    with unchecked():
        by_name, by_model = (
            solve(problem, init=init, tol=1e-6) for init in ("universal", metaot.load("universal"))
        )
    assert torch.equal(by_name.steps, by_model.steps)
    assert by_name.converged.all()


LINES: dict[str, tuple[Callable[[], Any], str]] = {
    "a solution": (
        lambda: ON_IMAGES,
        r"Solution of 3 problems, 4 x 5 grid: 3 converged, error <= \de-\d+, \d+( to \d+)? steps",
    ),
    "one that stopped": (
        lambda: solve(a_problem(), solver=Sinkhorn(), tol=1e-15, max_steps=1),
        r"Solution of 1 problem, 6 x 5 costs: 0 converged, 1 not \(MAX_STEPS\), error <= .*, 1 steps",
    ),
    "a problem": (
        image_problem,
        r"Problem of 3 instances, batch \(3,\), on Grid\(4, 5\) with cost 'sqeuclidean', eps 0.3, float64 on cpu",
    ),
    "potentials": (lambda: ON_ARRAYS.potentials, r"DualPotentials\(f of \(6,\) and g of \(5,\), float64 on cpu\)"),
    "points": (
        lambda: Points(X, Y, squared_euclidean),
        r"Points\(x of \(6, 2\), y of \(5, 2\), cost=squared_euclidean\)",
    ),
    "samples": (lambda: SampleProblem(X, Y), r"SampleProblem\(x of \(6, 2\), y of \(5, 2\)\)"),
    "a pair": (lambda: BuresStart().predict(SampleProblem(X, Y)), r"BrenierPair of the batch \(\) in dimension 2"),
    "the universal model": (
        lambda: metaot.load("universal"),
        "UniversalPotential for problems on any Grid with two axes or Points .*.*, eps from 0.001 to 0.1",
    ),
    "a model of maps": (lambda: metaot.load("palette"), "AmortizedMap for samples in dimension 3"),
    "a start": (GaussianStart, "GaussianStart for problems on coordinates with the cost 'sqeuclidean', any eps"),
}


@pytest.mark.parametrize(("make", "line"), LINES.values(), ids=LINES.keys())
def test_what_is_printed_is_one_line(make, line):
    with unchecked():
        assert re.fullmatch(line, repr(make())), repr(make())


def test_predictors_say_what_they_are_for():
    for predictor, eps in ((metaot.load("universal"), (1e-3, 1e-1)), (ZeroStart(), None), (BuresStart(), None)):
        assert predictor.geometry is None
        assert predictor.eps == eps


def test_help_shows_types_and_every_parameter():
    with unchecked():
        text = str(inspect.signature(solve))
    for words in (
        "problem: metaot.problem.Problem |",
        "init: metaot.",
        "solver: ",
        "tol: float = 1e-06",
        "max_steps: int",
    ):
        assert words in text
    assert {"a", "b", "geometry", "eps"} <= set(inspect.signature(Problem).parameters)
    for name in ("init", "solver", "tol", "max_steps"):
        assert f"`{name}`" in (solve.__doc__ or "")


def test_tolerances_have_one_default():
    from metaot.adapters import flash_sinkhorn, geomloss, ott, pot  # noqa: PLC0415

    calls = [solve, metaot.ot_value, metaot.OnnxModel.solve, flash_sinkhorn.sinkhorn, geomloss.solve, ott.sinkhorn]
    for call in (*calls, pot.sinkhorn):
        assert inspect.signature(call).parameters["tol"].default == 1e-6, call


def test_a_wrapped_start_is_asked_once():
    calls = SimpleNamespace(count=0)

    class Counting:
        def predict(self, problem: Problem) -> DualPotentials:
            calls.count += 1
            return ZeroStart().predict(problem)

    solve(a_problem(), init=Counting())
    assert calls.count == 1
