"""Grids: the order of their atoms, costs along axes, and what they refuse; `test_grid_kernel` has the sums."""

import pytest
import torch
from strategies import assert_close, matrix, unchecked

from metaot.geometry import Dense, Grid, separable


def test_atoms_are_in_the_order_of_a_flattened_image():
    assert [axis.tolist() for axis in Grid(3, 1).axes] == [[0, 0.5, 1], [0]]
    grid = Grid(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 10.0, 20.0]))
    assert grid.sizes == (2, 3)
    assert grid.shape == (6, 6)
    x, y = grid.points
    assert x.tolist() == [[0, 0], [0, 10], [0, 20], [1, 0], [1, 10], [1, 20]]
    assert_close(y, x, 0)
    assert_close(matrix(grid), (x[:, None] - y).square().sum(-1), 0)
    assert_close(matrix(Grid(*grid.axes, cost="l1")), (x[:, None] - y).abs().sum(-1), 0)


def test_a_cost_that_is_not_symmetric_is_from_source_to_target():
    grid = Grid(torch.tensor([0.0, 1.0]), cost=lambda s, t: (t - s).clamp_min(0))
    assert matrix(grid).tolist() == [[0, 1], [0, 0]]
    assert matrix(grid.T).tolist() == [[0, 0], [1, 0]]


def test_grids_too_large_for_their_matrix():
    grid = Grid(150, 150)
    h = torch.rand(grid.shape[1])
    rows = slice(7777, 7779)
    dense = Dense(grid.cost_rows(rows))
    assert_close(grid.softmin(h, 1e-3)[rows], dense.softmin(h, 1e-3), 1e-12)
    assert_close(grid.hardmin(h)[rows], dense.hardmin(h), 1e-12)
    assert_close(grid.times_cost(h)[rows], dense.times_cost(h), 1e-9)


@pytest.mark.parametrize("block", [1, 20, 100])
def test_the_minimum_in_blocks_is_the_minimum(monkeypatch, block):
    grid, h = Grid(4, 3, cost=lambda s, t: (t - 0.5 * s).square()), torch.rand(2, 12)
    whole = grid.hardmin(h)
    monkeypatch.setattr(separable, "_BLOCK", block)
    assert_close(grid.hardmin(h), whole, 0)


def test_an_empty_batch_has_an_empty_answer():
    nothing = torch.zeros(0, 12)
    for answer in (Grid(4, 3).softmin(nothing, 0.1), Grid(4, 3).hardmin(nothing), Grid(4, 3).times_cost(nothing)):
        assert answer.shape == (0, 12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Grid, "at least one axis"),
        (lambda: Grid(3, 0), "axis 1 of a Grid must have at least one point, got 0"),
        (lambda: Grid(3, cost="sphere"), r"\['l1', 'sqeuclidean'\], got 'sphere'"),
        (lambda: Grid(3, torch.zeros(2, 2)), r"axis 1 of a Grid must be a vector .* got \(2, 2\)"),
        (lambda: Grid(torch.tensor([0.0, torch.nan])), r"axis 0 must be finite, got axis 0\[1\] = nan"),
        (lambda: Grid([0.0, 1.0]), "axis 0 must be a torch tensor, got list"),
        (lambda: Grid(torch.arange(3)), "axis 0 must be float32 or float64, got torch.int64"),
    ],
)
def test_wrong_axes(make, message):
    with unchecked(), pytest.raises(ValueError, match=message):
        make()
