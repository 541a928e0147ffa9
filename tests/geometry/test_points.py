"""Point clouds in blocks and in one piece; what clouds and matrices refuse."""

import pytest
import torch
from strategies import BATCHES, assert_close, matrix, unchecked

from metaot.geometry import Dense, Points, base, points


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("block", [1, 20, 100])
def test_blocks_change_nothing(monkeypatch, batch, block):
    x, y = torch.rand(*batch, 7, 2), torch.rand(*batch, 5, 2)
    h, v = torch.rand(*batch, 5), torch.rand(*batch, 5, 2)

    @torch.no_grad()
    def answers():
        cloud = Points(x, y)
        smooth = cloud.softmin(h, 0.1), cloud.mean(h, v, 0.1), cloud.mean_cost(h, 0.1)
        return *smooth, cloud.hardmin(h), cloud.times_cost(h), matrix(cloud)

    whole = answers()
    monkeypatch.setattr(base, "BLOCK", block)
    monkeypatch.setattr(points, "_KEEP", 0)
    for actual, expected in zip(answers(), whole, strict=True):
        assert_close(actual, expected, 1e-14)


def test_no_block_is_larger_than_asked(monkeypatch):
    sizes = []

    def cost(x, y):
        sizes.append(x.shape[-2])
        return (x[..., :, None, 0] - y[..., None, :, 0]).square()

    monkeypatch.setattr(base, "BLOCK", 3 * 5)
    monkeypatch.setattr(points, "_KEEP", 0)
    Points(torch.rand(7, 1), torch.rand(5, 1), cost).softmin(torch.zeros(5), 0.1)
    assert sizes == [3, 3, 1]


def test_solvers_make_a_small_matrix_once():
    calls = []
    cloud = Points(torch.rand(7, 1), torch.rand(5, 1), lambda x, y: calls.append(1) or (x - y.mT).abs())
    with torch.no_grad():
        for _ in range(3):
            cloud.softmin(torch.zeros(5), 0.1)
    assert len(calls) == 1


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


X, Y = torch.rand(3, 2, dtype=torch.float64), torch.rand(4, 2, dtype=torch.float64)
AXIS = torch.tensor([1.0, 0.0])


@pytest.mark.parametrize(
    ("x", "y", "cost", "message"),
    [
        (X, torch.rand(4, 3), "sqeuclidean", r"x of \(3, 2\) and y of \(4, 3\) do not fit"),
        (X.expand(2, 3, 2), Y, "sqeuclidean", "do not fit"),
        (X[:, 0], Y, "sqeuclidean", r"x must have the shape \(\*batch, atoms, d\), got \(3,\)"),
        (X.half(), Y, "euclidean", "x must be float32 or float64, got torch.float16"),
        (X, Y[:0], "sqeuclidean", r"y must have the shape .* got \(0, 2\)"),
        (X, Y, "l1", r"\['euclidean', 'sphere', 'sqeuclidean'\], got 'l1'"),
        (X.float(), Y, "euclidean", "x is torch.float32 .* torch.float64"),
        (X, torch.tensor([[0, 1], [torch.inf, 0]]).double(), "euclidean", r"y\[1, 0\] = inf"),
        (AXIS.expand(3, 2), 2 * AXIS.expand(4, 2), "sphere", r"unit vectors, got \|y\|\[0\] = 2: normalise"),
    ],
)
def test_wrong_clouds(x, y, cost, message):
    with pytest.raises(ValueError, match=message):
        Points(x, y, cost)


@pytest.mark.parametrize(
    ("C", "message"),
    [
        (
            torch.tensor([[0.0, 1.0], [torch.nan, torch.inf]]),
            r"C must be finite, or \+inf .*, got C\[1, 0\] = nan",
        ),
        (torch.zeros(2, 3, 4).index_fill(0, torch.tensor(1), -torch.inf), r"C\[1, 0, 0\] = -inf"),
        (torch.zeros(3), r"C must have the shape \(n, m\) or \(\*batch, n, m\), got \(3,\)"),
        (torch.zeros(3, 0), r"got \(3, 0\)"),
        (torch.zeros(3, 2).half(), "C must be float32 or float64, got torch.float16"),
        (torch.zeros(3, 2).int(), r"C must be float32 or float64, got torch.int32: use .double\(\)"),
        ([[0.0, 1.0]], "C must be a torch tensor, got list: use torch.as_tensor"),
    ],
)
def test_wrong_matrices(C, message):
    with unchecked(), pytest.raises(ValueError, match=message):
        Dense(C)


def test_a_cost_function_may_count():
    x, y = torch.tensor([[0.0, 1.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    cloud = Points(x, y, lambda x, y: (x[..., :, None, :] != y[..., None, :, :]).sum(-1))
    assert_close(matrix(cloud), torch.tensor([[2.0], [1.0]]), 0)


def test_a_cost_function_of_another_shape_is_refused():
    cloud = Points(torch.rand(3, 2), torch.rand(4, 2), lambda x, y: torch.cdist(y, x))
    with pytest.raises(ValueError, match=r"one column for each y, got \(4, 3\)"):
        matrix(cloud)
