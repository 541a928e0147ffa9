"""A geometry that is its matrix."""

import pytest
import torch
from strategies import unchecked

from metaot.geometry import Dense


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


def test_a_matrix_has_no_coordinates():
    assert Dense(torch.zeros(2, 3)).points is None
    assert Dense(torch.zeros(2, 3)).cost_name is None
