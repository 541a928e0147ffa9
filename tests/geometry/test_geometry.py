"""What every geometry promises, against the definitions on the whole cost matrix."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    BATCHES,
    SPACES,
    assert_close,
    drift,
    every_batch,
    every_dtype,
    every_space,
    matrix,
    random_problem,
    temperatures,
    unchecked,
)
from torch import Tensor

from metaot.geometry import Dense, Geometry, Grid, Points, base, kernel, points
from metaot.geometry import grid as grids
from metaot.solvers import solve


def log_weights(C: Tensor, h: Tensor, eps: Tensor) -> Tensor:
    return (h[..., None, :] - C) / eps[..., None, None]


def with_gaps(*shape: int) -> Tensor:
    """Return a potential with some entries -inf, as the logarithms of weights have."""
    h = torch.rand(shape)
    h[..., 1::3] = -torch.inf
    return h


@every_space
@every_batch
@every_dtype
def test_the_primitives_are_what_they_are_called(space, batch, dtype):
    geometry = space(batch).to(torch.empty(0, dtype=dtype))
    _, m = geometry.shape
    h, v, shared = (x.to(dtype) for x in (with_gaps(*batch, m), torch.rand(*batch, m, 3), torch.rand(m, 2)))
    C, rounding = matrix(geometry).double(), 100 * torch.finfo(dtype).eps
    for eps in (1.0, 1e-1, 1e-2, 1e-3, 1e-4, temperatures(batch, 1.0, 1e-4)):
        scale = torch.as_tensor(eps)
        z = log_weights(C, h.double(), scale)
        w = z.softmax(-1)
        of_weights = min(1.0, rounding / float(scale.min()))
        for actual, expected, atol in (
            (geometry.softmin(h, eps), -scale[..., None] * z.logsumexp(-1), rounding),
            (geometry.mean(h, v, eps), w @ v.double(), of_weights),
            (geometry.mean(h, shared, eps), w @ shared.double(), of_weights),
            (geometry.expected_cost(h, eps), (w * C).sum(-1), of_weights),
        ):
            assert actual.dtype == dtype
            assert_close(actual, expected, atol=atol)


@every_space
@every_batch
@every_dtype
def test_the_minimum_and_the_product_are_what_they_are_called(space, batch, dtype):
    geometry = space(batch).to(torch.empty(0, dtype=dtype))
    C, m = matrix(geometry).double(), geometry.shape[1]
    h, v = with_gaps(*batch, m).to(dtype), torch.randn(*batch, m).to(dtype)
    for actual, expected in (
        (geometry.hardmin(h), (C - h[..., None, :].double()).amin(-1)),
        (geometry.times_cost(v), (C @ v[..., None].double()).squeeze(-1)),
    ):
        assert actual.dtype == dtype
        assert_close(actual, expected, 100 * torch.finfo(dtype).eps)
    assert (geometry.hardmin(torch.full_like(h, -torch.inf)) == torch.inf).all()


@given(st.sampled_from(list(SPACES)), st.sampled_from(BATCHES), st.floats(1e-3, 10), st.floats(-5, 5))
def test_softmin_is_a_smooth_minimum(name, batch, eps, t):
    geometry = SPACES[name](batch)
    _, m = geometry.shape
    h = with_gaps(*batch, m)
    softmin, hardmin = geometry.softmin(h, eps), geometry.hardmin(h)
    assert_close(geometry.softmin(h + t, eps), softmin - t)
    assert (softmin <= hardmin + 1e-12).all()
    assert (softmin >= hardmin - eps * torch.tensor(float(m)).log() - 1e-12).all()
    assert (geometry.softmin(h + torch.rand(m), eps) <= softmin + 1e-12).all()


@every_space
@every_batch
@pytest.mark.parametrize("block", [1, 20, 100])
def test_blocks_change_nothing(monkeypatch, space, batch, block):
    geometry = space(batch)
    m = geometry.shape[1]
    h, v = torch.rand(*batch, m), torch.rand(*batch, m, 2)

    @torch.no_grad()
    def answers() -> list[Tensor]:
        new = copy.copy(geometry)
        sums = [new.softmin(h, eps) for eps in (0.1, 1e-4)] + [new.mean(h, v, 0.1), new.expected_cost(h, 0.1)]
        return [*sums, new.hardmin(h), new.times_cost(h), matrix(new)]

    whole = answers()
    for module, limit in ((base, "BLOCK"), (kernel, "_CHUNK"), (grids, "_BLOCK")):
        monkeypatch.setattr(module, limit, block)
    monkeypatch.setattr(points, "_KEEP", 0)
    for actual, expected in zip(answers(), whole, strict=True):
        assert_close(actual, expected, 1e-14)


@every_space
@every_batch
def test_blocks_of_the_cost_are_chosen_for_each_instance(space, batch):
    geometry = space(batch).flat()
    n, m = geometry.shape
    count = geometry.batch_shape[0] if geometry.batch_shape else 3
    rows, columns = torch.randint(n, (count, 4)), torch.randint(m, (count, 2))
    C = matrix(geometry).expand(count, n, m)
    expected = torch.stack([C[k][rows[k]][:, columns[k]] for k in range(count)])
    assert_close(geometry.cost_block(rows, columns), expected, 1e-15)


@every_space
@every_batch
def test_rows_of_the_cost(space, batch):
    geometry = space(batch)
    n, m = geometry.shape
    C = matrix(geometry)
    assert C.shape == (*geometry.batch_shape, n, m)
    assert_close(torch.cat([geometry.cost_rows(slice(i, i + 2)) for i in range(0, n, 2)], -2), C, 2e-15)


@every_space
@every_batch
def test_T_exchanges_source_and_target(space, batch):
    geometry = space(batch)
    assert geometry.T.shape == geometry.shape[::-1]
    assert geometry.T.batch_shape == geometry.batch_shape
    assert geometry.T.cost_name == geometry.cost_name
    assert_close(matrix(geometry.T), matrix(geometry).mT, 1e-15)
    assert_close(matrix(geometry.T.T), matrix(geometry), 0)
    assert geometry.T is geometry.T, "made once"
    if geometry.points is not None:
        assert [p.shape for p in geometry.T.points] == [p.shape for p in reversed(geometry.points)]


@every_space
def test_to_another_dtype(space):
    geometry = space((3,))
    assert geometry.to(torch.empty(0)) is geometry
    single = geometry.to(torch.empty(0, dtype=torch.float32))
    assert single.softmin(torch.zeros(3, geometry.shape[1], dtype=torch.float32), 0.1).dtype == torch.float32
    assert_close(matrix(single), matrix(geometry), 1e-6)
    assert single.matches(geometry)
    assert geometry.matches(single)


@every_space
def test_a_space_matches_its_copies_and_no_other(space):
    geometry, others = space((3,)), [other((3,)) for other in SPACES.values() if other is not space]
    torch.default_generator.manual_seed(0)
    assert geometry.matches(space((3,)))
    assert geometry.matches(geometry)
    assert not any(geometry.matches(other) for other in others)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Grid(4, 3), Grid(3, 4)),
        (Grid(4, 3), Grid(4, 3, cost="l1")),
        (Grid(4, 3), Grid(torch.linspace(0, 2, 4), 3)),
        (Grid(4, cost=lambda s, t: s - t), Grid(4, cost=lambda s, t: t - s)),
        (Dense(torch.zeros(3, 2)), Dense(torch.full((3, 2), 1e-3))),
        (Points(torch.eye(3), torch.eye(3)), Points(torch.eye(3), torch.eye(3), "euclidean")),
        (Points(torch.eye(3), torch.eye(3)), Points(torch.eye(3), -torch.eye(3))),
    ],
    ids=["sizes", "cost", "axis", "callable", "matrix", "cost of points", "points"],
)
def test_spaces_that_differ_do_not_match(one: Geometry, other: Geometry):
    assert not one.matches(other)
    assert not other.matches(one)


@every_space
@every_batch
def test_pickles_and_copies_have_no_caches(space, batch):
    problem = random_problem(space, batch, 0.1)
    geometry = problem.geometry
    C, size = matrix(geometry), len(pickle.dumps(geometry))
    with torch.no_grad():
        for side in (problem, problem.T):
            solve(side).bounds()
    assert len(pickle.dumps(geometry)) == size
    for again in (copy.copy(geometry), copy.deepcopy(geometry), pickle.loads(pickle.dumps(problem)).geometry):
        assert sum(tensor.numel() for tensor in again.tensors().values()) * 8 + 3000 > len(pickle.dumps(again))
        assert again.__dict__.keys() < geometry.__dict__.keys()
        assert_close(matrix(again.T), C.mT, 1e-15)


@pytest.mark.parametrize("name", ["dense", "points", "points, sphere", "grid", "grid, 3-D l1"])
def test_a_space_is_rebuilt_from_its_tensors(name):
    geometry = SPACES[name](())
    again = Geometry.kinds[type(geometry).__name__].rebuilt(geometry.tensors(), geometry.settings())
    assert again.matches(geometry)
    assert_close(matrix(again), matrix(geometry), 0)


def test_no_block_is_larger_than_asked(monkeypatch):
    sizes = []

    def cost(x, y):
        sizes.append(x.shape[-2])
        return (x[..., :, None, 0] - y[..., None, :, 0]).square()

    monkeypatch.setattr(base, "BLOCK", 3 * 5)
    monkeypatch.setattr(points, "_KEEP", 0)
    Points(torch.rand(7, 1), torch.rand(5, 1), cost).softmin(torch.zeros(5), 0.1)
    assert sizes == [3, 3, 3, 1], "once on a corner, then in blocks"


def test_solvers_make_a_small_matrix_once():
    calls = []
    cloud = Points(torch.rand(7, 1), torch.rand(5, 1), lambda x, y: calls.append(1) or (x - y.mT).abs())
    with torch.no_grad():
        for _ in range(3):
            cloud.softmin(torch.zeros(5), 0.1)
    assert len(calls) == 2, "once on a corner"


def test_a_matrix_that_is_kept_takes_no_derivative_away():
    """A solver has used the cloud before, without derivatives; and each backward has a graph of its own."""
    x, y, h = torch.rand(4, 2, requires_grad=True), torch.rand(5, 2), torch.rand(5)
    cloud = Points(x, y)
    with torch.no_grad():
        cloud.softmin(h, 0.1)
    (expected,) = torch.autograd.grad(Points(x, y).softmin(h, 0.1).sum(), x)
    for _ in range(2):
        (slope,) = torch.autograd.grad(cloud.softmin(h, 0.1).sum(), x)
        assert_close(slope, expected, 0)


def test_a_cost_function_may_count():
    x, y = torch.tensor([[0.0, 1.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    cloud = Points(x, y, lambda x, y: (x[..., :, None, :] != y[..., None, :, :]).sum(-1))
    assert_close(matrix(cloud), torch.tensor([[2.0], [1.0]]), 0)


X, Y = torch.rand(3, 2, dtype=torch.float64), torch.rand(4, 2, dtype=torch.float64)
AXIS, ONE = torch.tensor([[1.0, 0.0]]), torch.ones((), dtype=torch.int64)


def without_a_third_column(x: Tensor, y: Tensor) -> Tensor:
    C = drift(x, y)
    C[..., 2:] = torch.nan
    return C


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Points(X, torch.rand(4, 3)), r"x of \(3, 2\) and y of \(4, 3\) do not fit"),
        (lambda: Points(X.expand(2, 3, 2), Y), "do not fit"),
        (lambda: Points(X[:, 0], Y), r"x must have the shape \(\*batch, atoms, d\), got \(3,\)"),
        (lambda: Points(X.half(), Y), "x must be float32 or float64, got torch.float16"),
        (lambda: Points(X, Y[:0]), r"y must have the shape .* got \(0, 2\)"),
        (
            lambda: Points(X, Y, "l1"),
            r"\['cosine', .* 'sqeuclidean'\], or a function .* got 'l1'",
        ),
        (lambda: Points(X, Y / torch.tensor([[1.0], [0.0], [1.0], [1.0]])), r"y\[1, 0\] = inf"),
        (lambda: Points(AXIS, 0 * AXIS, "cosine"), r"no direction, got \|y\|\[0\] = 0"),
        (lambda: Points(AXIS, 2 * AXIS, "sphere"), r"unit vectors, got \|y\|\[0\] = 2: normalise"),
        (
            lambda: Points(X, Y, lambda x, y: torch.cdist(y, x)),
            r"got \(1, 3\) in place of \(3, 1\): it is transposed",
        ),
        (lambda: Points(X, X, lambda x, y: torch.cdist(y, x)), "it is transposed"),
        (lambda: Points(X[:2], X[:2], lambda x, y: torch.cdist(y, x)), "it is transposed"),
        (
            lambda: Points(X, Y, lambda x, y: torch.cdist(X, Y)),
            r"got \(3, 4\) in place of \(3, 1\): a fixed matrix is Dense",
        ),
        (lambda: Points(X, Y, lambda x, y: torch.full((3, 1), torch.nan)), r"cost\(x, y\)\[0, 0\] = nan"),
        (lambda: Points(X, Y, lambda x, y: torch.cdist(x, y).half()), r"cost\(x, y\) must be float32 or float64"),
        (lambda: Grid(3, cost=lambda s, t: (s - t).square().mT[:1]), "one row for each x and one column"),
        (
            lambda: matrix(Points(X, X, without_a_third_column)),
            r"cost\(x, y\) must be finite, or \+inf .* got cost\(x, y\)\[0, 2\] = nan",
        ),
        (lambda: Dense(Y.index_fill(1, ONE, torch.nan)), r"C must be finite, or \+inf .*, got C\[0, 1\] = nan"),
        (lambda: Dense(torch.zeros(2, 3, 4).index_fill(0, ONE, -torch.inf)), r"C\[1, 0, 0\] = -inf"),
        (lambda: Dense(X[:, 0]), r"C must have the shape \(n, m\) or \(\*batch, n, m\), got \(3,\)"),
        (lambda: Dense(X[:, :0]), r"got \(3, 0\)"),
        (lambda: Dense(X.half()), "C must be float32 or float64, got torch.float16"),
        (
            lambda: Dense([[0.0, 1.0], [2.0]]),
            r"C must be a cost matrix .*, got \[\[0.0, 1.0\], \[2.0\]\]: .*shape",
        ),
        (Grid, "at least one axis"),
        (lambda: Grid(3, 0), "axis 1 of a Grid must have at least one point, got 0"),
        (
            lambda: Grid(3, cost="sphere"),
            r"\['l1', 'sqeuclidean'\], or .* no sum over axes take Points, got 'sphere'",
        ),
        (lambda: Grid(3, 4, cost=("l1",)), "one for each of the 2 axes, got 1"),
        (lambda: Grid(3, X), r"axis 1 of a Grid must be a vector .* got \(3, 2\)"),
        (lambda: Grid(torch.tensor([0.0, torch.nan])), r"axis 0 must be finite, got axis 0\[1\] = nan"),
        (
            lambda: Grid([3, 4]),
            r"may mean sizes or coordinates: for sizes say Grid\(3, 4\), for .* Grid\(np.array",
        ),
    ],
)
def test_wrong_spaces(make, message):
    with unchecked(), pytest.raises(ValueError, match=message):
        make()


@every_space
@every_batch
def test_mean_and_deviation_are_those_of_independent_atoms(space, batch):
    geometry = space(batch)
    n, m = geometry.shape
    C = matrix(geometry)
    for a, b in ((torch.rand(*batch, n), torch.rand(*batch, m)), (torch.ones(n), torch.ones(m))):
        a[..., 0] = 0 if a.ndim == len(batch) + 1 else a[..., 0]
        P = a[..., :, None] * b[..., None, :]
        P = P / P.sum((-2, -1), keepdim=True)
        mean = (P * C).sum((-2, -1))
        deviation = (P * (C - mean[..., None, None]).square()).sum((-2, -1)).sqrt()
        assert_close(geometry.mean_cost(a, b), mean, 1e-13)
        assert_close(geometry.std_cost(a, b), deviation, 1e-13)
    assert_close(geometry.mean_cost(), C.mean((-2, -1)), 1e-13)


def test_a_shift_of_both_clouds_changes_no_mean_in_float32():
    """Norms of 1e4 would take all digits of a distance of one."""
    x, y = torch.rand(50, 12).float(), torch.rand(40, 12).float()
    near, far = (Points(x + shift, y + shift) for shift in (0.0, 2.0**14))
    exact = Points((x + 2.0**14).double(), (y + 2.0**14).double())
    assert_close(far.mean_cost(), exact.mean_cost().float(), 1e-5)
    assert_close(far.std_cost(), exact.std_cost().float(), 1e-5)
    assert_close(far.cost_rows(slice(None)), exact.cost_rows(slice(None)).float(), 1e-5)
    assert_close(near.mean_cost(), far.mean_cost(), 2e-3)  # the points themselves are rounded


def test_bad_weights_of_a_mean_are_named():
    geometry = Grid(2, 3)
    assert_close(geometry.mean_cost(torch.ones(2, 3), torch.ones(6)), geometry.mean_cost(), 1e-15)
    for weights, words in (
        ([1.0, 2.0], r"\(\*batch, 6\)"),
        ([-1.0] * 6, r"a\[0\] = -1"),
        ([0.0] * 6, "positive, finite mass"),
    ):
        with pytest.raises(ValueError, match=words):
            geometry.std_cost(weights)
