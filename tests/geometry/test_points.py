"""Point clouds: which costs are made, and when."""

import torch
from strategies import assert_close, matrix

from metaot.geometry import Points, base, points


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


def test_a_cost_function_may_count():
    x, y = torch.tensor([[0.0, 1.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    cloud = Points(x, y, lambda x, y: (x[..., :, None, :] != y[..., None, :, :]).sum(-1))
    assert_close(matrix(cloud), torch.tensor([[2.0], [1.0]]), 0)
