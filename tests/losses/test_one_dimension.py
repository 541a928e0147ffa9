"""Distances on a line and on a circle: closed forms, linear programs, and derivatives by finite differences."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import assert_close, weights
from torch import Tensor

from metaot.losses import wasserstein_1d

POWERS = [1.0, 1.5, 2.0, 3.0, 7.0]
PERIODS = [None, 1.0, 2.7]


def costs(x: Tensor, y: Tensor, p: float, period: float | None) -> Tensor:
    """Return the distances between points to the power p."""
    gap = (x[:, None] - y).abs()
    if period is not None:
        gap = gap.remainder(period)
        gap = torch.minimum(gap, period - gap)
    return gap.pow(p)


def by_linear_program(C: Tensor, a: Tensor, b: Tensor) -> float:
    ot = pytest.importorskip("ot")
    return float(ot.emd2(a.numpy(), b.numpy(), C.numpy()))


def some_measures(n: int, m: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.default_generator.manual_seed(seed)
    return torch.randn(n), torch.randn(m), weights(n), weights(m)


@pytest.mark.parity
@settings(max_examples=20)
@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    p=st.sampled_from(POWERS),
    period=st.sampled_from(PERIODS),
    weighed=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_distance_is_that_of_the_linear_program(sizes, p, period, weighed, seed) -> None:
    n, m = sizes
    x, y, a, b = some_measures(n, m, seed)
    if not weighed:
        a, b = torch.full((n,), 1 / n), torch.full((m,), 1 / m)
    expected = by_linear_program(costs(x, y, p, period), a, b)
    found = wasserstein_1d(x, y, *((a, b) if weighed else ()), p=p, period=period)
    assert float(found) ** p == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_a_translation_costs_its_length_and_a_dirac_all_distances() -> None:
    x = torch.randn(50)
    for p in POWERS:
        assert_close(wasserstein_1d(x, x.flip(0) + 0.7, p=p), 0.7, 1e-12)
        assert_close(wasserstein_1d(x, [0.3], p=p), (x - 0.3).abs().pow(p).mean().pow(1 / p), 1e-12)


@pytest.mark.parametrize(("x", "y"), [(0.9, 0.2), (0.2, 0.9)])
def test_the_shorter_way_may_lead_around(x, y) -> None:
    for p in POWERS:
        assert_close(wasserstein_1d([x], [y], p=p, period=1.0), 0.3, 1e-15)
        assert_close(wasserstein_1d([x], [y, y], p=p, period=1.0), 0.3, 1e-15)


@settings(max_examples=25)
@given(n=st.integers(1, 12), p=st.sampled_from(POWERS), seed=st.integers(0, 2**32 - 1))
def test_the_best_cut_of_the_circle_is_the_best_rotation_of_equal_atoms(n, p, seed) -> None:
    torch.default_generator.manual_seed(seed)
    x, y = torch.rand(2, n).sort(-1).values
    lifted = torch.cat([y - 1, y, y + 1])
    every = [(x - lifted[k : k + n]).abs().pow(p).mean().pow(1 / p) for k in range(2 * n + 1)]
    assert_close(wasserstein_1d(3 + x.flip(0), y - 5, p=p, period=1.0), torch.stack(every).min(), 1e-12)


@settings(max_examples=15)
@given(n=st.integers(1, 9), m=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
def test_on_the_circle_w1_is_the_distance_of_distribution_functions_from_their_median(n, m, seed) -> None:
    torch.default_generator.manual_seed(seed)
    x, y, a, b = torch.rand(n), torch.rand(m), weights(n), weights(m)
    places, order = torch.cat([x, y]).sort()
    heights = torch.cat([a, -b])[order].cumsum(0)
    lengths = torch.cat([places.diff(), 1 - places[-1:] + places[:1]])
    least = min(float((lengths * (heights - level).abs()).sum()) for level in heights)
    assert float(wasserstein_1d(x, y, a, b, p=1, period=1.0)) == pytest.approx(least, abs=1e-12)


@pytest.mark.parametrize("period", [None, 2.7])
@pytest.mark.parametrize(("sizes", "p"), [((5, 5), 2.0), ((4, 7), 1.0), ((4, 6), 3.0), ((1, 3), 1.5)])
def test_derivatives_are_finite_differences_also_where_there_is_no_mass(sizes, p, period) -> None:
    torch.default_generator.manual_seed(1)
    parts = [torch.randn(sizes[0]), torch.randn(sizes[1]), *(torch.rand(size) for size in sizes)]
    if sizes[0] > 1:
        parts[2][1] = 0
    parts[2:] = [w / w.sum() for w in parts[2:]]
    leaves = [part.clone().requires_grad_() for part in parts]
    wasserstein_1d(*leaves, p=p, period=period).backward()
    for k, leaf in enumerate(leaves):
        assert_close(leaf.grad, slopes(parts, k, p, period), 2e-5)


def slopes(parts: list[Tensor], k: int, p: float, period: float | None) -> Tensor:
    """Return difference quotients; of weights to the right, since they are not negative."""
    step = 1e-6
    values = []
    for sign in (1.0, -1.0 if k < 2 else 0.0):
        moved = [part.expand(len(parts[k]), -1) for part in parts]
        moved[k] = parts[k] + sign * step * torch.eye(len(parts[k]))
        moved[k] = moved[k] / moved[k].sum(-1, keepdim=True) if k >= 2 else moved[k]
        values.append(wasserstein_1d(*moved, p=p, period=period))
    return (values[0] - values[1]) / (step * (2 if k < 2 else 1))


@pytest.mark.parametrize("period", [None, 1.0])
@pytest.mark.parametrize("p", [1.0, 2.0, 2.5])
def test_equal_measures_have_distance_zero_and_no_slope(p, period) -> None:
    order = torch.randperm(20)
    x, a = torch.randn(20), weights(20)
    for extra in ((), (a, a[order])):
        leaves = [part.clone().requires_grad_() for part in (x, x[order], *extra)]
        found = wasserstein_1d(*leaves, p=p, period=period)
        found.backward()
        assert float(found.detach()) == 0
        assert all(not leaf.grad.any() for leaf in leaves)


@pytest.mark.parametrize("size", [1e-200, 1e200])
@pytest.mark.parametrize("p", [2.0, 3.0, 40.0])
def test_no_power_overflows_or_underflows(size, p) -> None:
    x, y = torch.randn(6), torch.randn(6)
    leaf = (size * x).requires_grad_()
    found = wasserstein_1d(leaf, size * y, p=p)
    found.backward()
    plain = x.clone().requires_grad_()
    wasserstein_1d(plain, y, p=p).backward()
    assert float(found.detach() / size) == pytest.approx(float(wasserstein_1d(x, y, p=p)), rel=1e-12)
    assert_close(leaf.grad, plain.grad)


@pytest.mark.parametrize("period", [None, 1.0])
def test_batches_are_broadcast_and_go_by_blocks(period, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, a, b = torch.randn(2, 3, 6), torch.randn(3, 4), weights(6), weights(2, 1, 4)
    leaves = [part.clone().requires_grad_() for part in (x, y, a, b)]
    whole = wasserstein_1d(*leaves, period=period)
    whole.sum().backward()
    assert whole.shape == (2, 3)
    assert_close(whole[1, 2], wasserstein_1d(x[1, 2], y[2], a, b[1, 0], period=period))
    monkeypatch.setattr("metaot.losses.one_dimension._BLOCK", 20)
    others = [part.clone().requires_grad_() for part in (x, y, a, b)]
    wasserstein_1d(*others, period=period).sum().backward()
    for leaf, other in zip(leaves, others, strict=True):
        assert_close(leaf.grad, other.grad)


def test_equal_weights_that_are_written_down_change_nothing() -> None:
    x, y = torch.randn(6), torch.randn(9)
    a = torch.full((6,), 1 / 6, requires_grad=True)
    assert_close(wasserstein_1d(x, y, a), wasserstein_1d(x, y), 1e-14)
    assert_close(wasserstein_1d(x, y, [1 / 6] * 6), wasserstein_1d(x, y), 1e-14)


def test_lists_arrays_and_single_precision_are_taken() -> None:
    assert_close(wasserstein_1d([0, 1], [3, 1]), math.sqrt(2.5), 1e-15)
    found = wasserstein_1d(np.float32([0, 1]), [3, 1], [0.5, 0.5])
    assert found.dtype == torch.float32
    x, y, a = torch.randn(40), torch.randn(30), weights(40)
    for period in PERIODS:
        single = wasserstein_1d(x.float(), y.float(), a.float(), period=period)
        assert single.dtype == torch.float32
        assert_close(single, wasserstein_1d(x, y, a, period=period), 1e-6)


def test_inputs_stay_as_they_are_and_an_empty_batch_is_empty() -> None:
    x, y = torch.randn(3, 5), torch.randn(3, 5)
    before = x.clone()
    wasserstein_1d(x, y)
    assert torch.equal(x, before)
    assert wasserstein_1d(x[:0], y[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "settings_", "words"),
    [
        (([0.0, math.nan], [1.0]), {}, r"x must be finite, got x\[1\] = nan"),
        (([0.0, 1.0], [1.0], [0.5, 0.6]), {}, "^a must sum to one, got sum a = 1.1: divide by a.sum"),
        (([0.0, 1.0], [1.0], [1.5, -0.5]), {}, r"a must not be negative, got a\[1\] = -0.5"),
        (([0.0, 1.0], [1.0], [1.0]), {}, "1 weights a do not fit 2 atoms x"),
        (([0.0], [1.0]), {"p": 0.5}, "p must be a finite number of at least 1, got 0.5"),
        (([0.0], [1.0]), {"p": math.inf}, "p must be a finite number"),
        (([0.0], [1.0]), {"period": -1}, "period must be positive and finite"),
        ((torch.zeros(2, 3), torch.zeros(4, 3)), {}, r"batches do not fit each other: x \(2,\), y \(4,\)"),
        (([], [1.0]), {}, "x must have the shape"),
        ((1.0, [1.0]), {}, "x must have the shape"),
    ],
)
def test_bad_input_is_named(arguments, settings_, words) -> None:
    with pytest.raises(ValueError, match=words):
        wasserstein_1d(*arguments, **settings_)


@pytest.mark.parametrize("period", [2.5, 1e20, 1e300])
def test_on_half_of_a_circle_is_on_a_line(period) -> None:
    x, y, a, b = torch.rand(3, 5) - 0.7, torch.rand(3, 6) - 0.7, *(torch.rand(n).softmax(0) for n in (5, 6))
    leaves = [part.requires_grad_() for part in (x, y, a, b)]
    line, circle = wasserstein_1d(x, y, a, b), wasserstein_1d(x, y, a, b, period=period)
    assert_close(circle, line, 1e-14)
    found = zip(*(torch.autograd.grad(value.sum(), leaves) for value in (line, circle)), strict=True)
    for on_line, on_circle in found:
        assert_close(on_circle, on_line, 1e-12)


def test_what_holds_no_numbers_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="y must be numbers"):
        wasserstein_1d([0.0], None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="p must be a number"):
        wasserstein_1d([0.0], [1.0], p="2")  # type: ignore[arg-type]


def test_a_second_derivative_says_that_there_is_none() -> None:
    x = torch.randn(5, requires_grad=True)
    (first,) = torch.autograd.grad(wasserstein_1d(x, torch.randn(5)).square(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
