"""Sliced distances: means over projections, their error bars, and derivatives by finite differences."""

import math

import numpy as np
import pytest
import torch
from strategies import assert_close, weights
from torch import Tensor
from torch.nn.functional import normalize

from metaot.losses import (
    largest_slice,
    max_sliced_wasserstein,
    sliced_estimate,
    sliced_wasserstein,
    wasserstein_1d,
)
from metaot.losses.directions import even_directions

POWERS = [1.0, 1.5, 2.0, 3.0]


def unit_vectors(count: int, d: int) -> Tensor:
    return normalize(torch.randn(count, d), dim=-1)


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("weighed", [False, True])
def test_it_is_the_mean_over_projections(p, weighed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaot.losses.projections._BLOCK", 40)
    x, y, theta = torch.randn(2, 9, 4), torch.randn(13, 4), unit_vectors(11, 4)
    extra = (weights(9), weights(2, 13)) if weighed else ()
    found = sliced_estimate(x, y, *extra, p=p, directions=theta)
    for k in range(2):
        own = (extra[0], extra[1][k]) if weighed else ()
        each = wasserstein_1d(theta @ x[k].mT, theta @ y.mT, *own, p=p)
        assert_close(found.distances[k], each, 1e-13)
        assert_close(found.value[k], each.pow(p).mean().pow(1 / p), 1e-13)
    assert torch.equal(found.directions, theta)


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("weighed", [False, True])
def test_derivatives_are_finite_differences(p, weighed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaot.losses.projections._BLOCK", 40)
    parts = [torch.randn(9, 3), torch.randn(12, 3) + 0.5, unit_vectors(7, 3)]
    if weighed:
        parts += [torch.rand(9) * (torch.arange(9) != 2), torch.rand(12)]
        parts[3:] = [w / w.sum() for w in parts[3:]]
    leaves = [part.clone().requires_grad_() for part in parts]
    value(leaves, p).backward()
    for k, leaf in enumerate(leaves):
        way = torch.rand_like(leaf)  # of weights, a way that stays among them
        way = way - parts[k] * way.sum() if k >= 3 else way
        way = way - (way * parts[k]).sum(-1, keepdim=True) * parts[k] if k == 2 else way
        ends = [
            [part + sign * 1e-6 * way if k == j else part for j, part in enumerate(parts)]
            for sign in (1, 0 if k == 3 else -1)
        ]
        quotient = float(value(ends[0], p) - value(ends[1], p)) / (2e-6 if k != 3 else 1e-6)
        assert float((leaf.grad * way).sum()) == pytest.approx(quotient, abs=1e-5), k


def value(parts: list[Tensor], p: float) -> Tensor:
    x, y, theta, *extra = parts
    return sliced_wasserstein(x, y, *extra, p=p, directions=theta)


def test_upstream_factors_and_batches_reach_the_derivatives() -> None:
    x, y, theta = torch.randn(2, 3, 6, 4), torch.randn(6, 4), unit_vectors(5, 4)
    factors = torch.randn(2, 3)
    leaves = [part.clone().requires_grad_() for part in (x, y, theta)]
    (factors * sliced_wasserstein(leaves[0], leaves[1], directions=leaves[2])).sum().backward()
    others = [part.clone().requires_grad_() for part in (x, y, theta)]
    for i in range(2):
        for j in range(3):
            one = sliced_wasserstein(others[0][i, j], others[1], directions=others[2])
            (factors[i, j] * one).backward()
    for leaf, other in zip(leaves, others, strict=True):
        assert_close(leaf.grad, other.grad)


@pytest.mark.parametrize("p", POWERS)
def test_equal_clouds_have_distance_zero_error_zero_and_no_slope(p) -> None:
    x = torch.randn(20, 5)
    leaf = x.flip(0).requires_grad_()
    found = sliced_estimate(leaf, x, p=p)
    found.value.backward()
    assert float(found.value.detach()) == float(found.error) == 0
    assert not leaf.grad.any()


@pytest.mark.parametrize("d", [1, 2, 3, 5, 20])
def test_a_translation_has_the_mean_square_of_its_projections(d) -> None:
    x, shift = torch.randn(30, d), torch.randn(d)
    found = sliced_estimate(x, x + shift, directions=128)
    exact = float(shift.norm()) / math.sqrt(d)
    assert abs(float(found.value) - exact) <= 3 * float(found.error) + 1e-12
    if d != 3:  # equal angles and tight frames know second moments
        assert float(found.value) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(("d", "count"), [(1, 7), (2, 50), (3, 64), (4, 40), (10, 128), (64, 20), (64, 200)])
def test_even_directions_are_unit_vectors_with_the_second_moments_of_the_sphere(d, count) -> None:
    vectors = even_directions(count, d).vectors
    assert vectors.shape == (count if d > 1 else 1, d)
    assert_close(vectors.norm(dim=-1), 1.0, 1e-12)
    if count < d:
        assert_close(vectors @ vectors.mT, torch.eye(count), 1e-10)
    else:
        moments = vectors.mT @ vectors * d / len(vectors)
        assert_close(moments, torch.eye(d), 0.05 if d == 3 else 1e-5)


@pytest.mark.parametrize("d", [2, 3, 6])
def test_the_error_bar_covers_the_error_and_even_directions_beat_random_ones(d, generator) -> None:
    x, y = torch.randn(40, d), torch.randn(50, d) * torch.linspace(0.3, 2, d) + 0.5
    truth = float(sliced_wasserstein(x, y, directions=3000)) ** 2
    errors: dict[str, list[float]] = {"even": [], "random": [], "bars": []}
    for _ in range(20):
        found = sliced_estimate(x, y, directions=64, generator=generator)
        errors["even"].append(float(found.value) ** 2 - truth)
        errors["bars"].append(float(2 * found.value * found.error))
        random = torch.randn(64, d, generator=generator)
        errors["random"].append(float(sliced_wasserstein(x, y, directions=normalize(random, dim=-1))) ** 2 - truth)
    size = {name: float(np.sqrt(np.mean(np.square(each)))) for name, each in errors.items()}
    assert size["even"] < 0.5 * size["random"]
    assert size["even"] < 1.5 * size["bars"] < 3 * size["random"]


def test_a_generator_turns_the_directions_and_none_leaves_them() -> None:
    x, y = torch.randn(20, 3), torch.randn(20, 3)
    plain, again = (sliced_estimate(x, y) for _ in range(2))
    first, second = (sliced_estimate(x, y, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    assert float(plain.value) == float(again.value)
    assert len({float(each.value) for each in (plain, first, second)}) == 3
    assert_close(first.directions.norm(dim=-1), 1.0)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_the_largest_slice_of_a_translation_is_along_it(p) -> None:
    x, shift = torch.randn(2, 30, 8), torch.randn(8)
    found = largest_slice(x, x + shift, p=p, directions=32)
    assert_close(found.value, shift.norm(), 1e-9)
    assert_close((found.direction @ normalize(shift, dim=0)).abs(), 1.0, 1e-9)


def test_the_largest_slice_is_above_all_directions() -> None:
    x, y, a, b = torch.randn(25, 3), torch.randn(30, 3) * torch.tensor([0.5, 1.0, 2.0]), weights(25), weights(30)
    others = sliced_estimate(x, y, a, b, directions=4000).distances
    assert float(max_sliced_wasserstein(x, y, a, b)) >= float(others.max()) * (1 - 1e-9)


def test_the_largest_slice_has_the_derivatives_of_its_direction() -> None:
    x = torch.randn(25, 3)
    leaf = x.clone().requires_grad_()
    found = largest_slice(leaf, x + torch.tensor([1.0, 2.0, -1.0]))
    found.value.backward()
    way = found.direction * found.direction[0].sign()
    assert_close(leaf.grad, (-way / 25).expand(25, 3), 1e-6)


def test_single_precision_arrays_and_lists_are_taken() -> None:
    x, y = torch.randn(50, 4), torch.randn(60, 4)
    single = sliced_wasserstein(x.float().numpy(), y.float().tolist())
    assert single.dtype == torch.float32
    assert_close(single, sliced_wasserstein(x, y), 1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"directions": 0}, "directions must be a positive number"),
        ({"directions": torch.ones(3, 2)}, r"unit vectors, got \|directions\|\[0\] = 1.41421"),
        ({"directions": torch.ones(3, 4)}, r"directions must have the shape \(count, 2\), got \(3, 4\)"),
        ({"directions": torch.eye(2), "generator": torch.Generator()}, "a generator turns even directions"),
        ({"y": torch.zeros(3, 4)}, "do not fit: same d"),
        ({"x": torch.zeros(3)}, r"points on a line are x\[:, None\]"),
        ({"p": 0}, "p must be a finite number of at least 1"),
    ],
)
def test_bad_input_is_named(changes, words) -> None:
    arguments = {"x": torch.zeros(3, 2), "y": torch.ones(4, 2), **changes}
    for function in (sliced_wasserstein, max_sliced_wasserstein):
        with pytest.raises(ValueError, match=words):
            function(**arguments)


def test_any_whole_number_is_one_of_directions() -> None:
    x, y = torch.zeros(3, 2), torch.ones(4, 2)
    for count in (np.int64(4), np.array(4), torch.tensor(4)):
        assert sliced_wasserstein(x, y, directions=count) == sliced_wasserstein(x, y, directions=4)
    for other in (1, np.random.default_rng(0)):
        with pytest.raises(TypeError, match="generator must be a torch"):
            sliced_wasserstein(x, y, generator=other)  # type: ignore[arg-type]
    assert sliced_estimate(x.expand(0, 3, 2), y).error.shape == (0,)


def test_threads_change_nothing() -> None:
    x, y = torch.randn(9000, 3), torch.randn(9000, 3)
    alone = sliced_wasserstein(x, y, directions=20)
    torch.set_num_threads(2)
    try:
        assert_close(sliced_wasserstein(x, y, directions=20), alone, 1e-14)
    finally:
        torch.set_num_threads(1)
