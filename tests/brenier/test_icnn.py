"""Input-convex networks: convex for any weights, with the derivatives that autograd finds."""

import pytest
import torch
from clouds import random_weights
from hypothesis import given
from hypothesis import strategies as st
from strategies import assert_close

from metaot.brenier import ACTIVATIONS, Icnn

ARCHITECTURES = [(8,), (8, 5), (7, 6, 5)]


@given(
    hidden=st.sampled_from(ARCHITECTURES),
    activation=st.sampled_from(list(ACTIVATIONS)),
    dim=st.integers(1, 5),
    strength=st.floats(0, 10),
    seed=st.integers(0, 2**31),
)
def test_convex_along_random_segments(
    hidden: tuple[int, ...], activation: str, dim: int, strength: float, seed: int
) -> None:
    torch.default_generator.manual_seed(seed)
    icnn = Icnn(dim, hidden, activation)
    weights = random_weights(icnn, 4, seed=seed, strength=strength)
    start, end = 5 * torch.randn(2, 4, 30, dim)
    share = torch.rand(4, 30, 1)
    inside = icnn.value(weights, share * start + (1 - share) * end)
    chord = share[..., 0] * icnn.value(weights, start) + (1 - share[..., 0]) * icnn.value(weights, end)
    assert ((chord - inside) >= -1e-12 * (1 + chord.abs())).all()


@pytest.mark.parametrize("hidden", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_derivatives_are_those_of_autograd(hidden: tuple[int, ...], activation: str) -> None:
    icnn = Icnn(3, hidden, activation)
    weights, u = random_weights(icnn, 2, strength=1.0), torch.randn(2, 20, 3, requires_grad=True)
    (expected,) = torch.autograd.grad(icnn.value(weights, u).sum(), u, create_graph=True)
    slope, H = icnn.gradient_and_hessian(weights, u)
    assert_close(slope, expected, rtol=1e-8)
    assert_close(icnn.gradient(weights, u), slope)
    for row, part in zip(H.unbind(-2), expected.unbind(-1), strict=True):
        assert_close(row, torch.autograd.grad(part.sum(), u, retain_graph=True)[0])
    assert torch.linalg.eigvalsh(H - icnn.floor * torch.eye(3)).min() > 0


def test_a_batch_of_networks_is_one_by_one() -> None:
    icnn = Icnn(3, (8, 5))
    weights, u = random_weights(icnn, 2, 3), torch.randn(2, 3, 10, 3)
    values, slopes = icnn.value(weights, u), icnn.gradient(weights, u)
    for i in range(2):
        for j in range(3):
            assert_close(values[i, j], icnn.value(weights[i, j], u[i, j]))
            assert_close(slopes[i, j], icnn.gradient(weights[i, j], u[i, j]))


def test_a_new_network_is_nearly_the_quadratic(generator: torch.Generator) -> None:
    icnn, u = Icnn(3, (64, 64)), torch.randn(2, 50, 3)
    slope = icnn.gradient(icnn.weights(generator, 2).double(), u)
    assert (slope - u).norm() < 0.1 * u.norm()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dim": 0}, "dim and hidden sizes"),
        ({"hidden": ()}, "dim and hidden sizes"),
        ({"activation": "relu"}, "activation is one of"),
        ({"floor": 0.0}, "floor must lie between 0 and 1, got 0.0"),
    ],
)
def test_contradictory_settings_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Icnn(**{"dim": 3, **settings})


def test_a_weight_vector_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="has 44 weights, got a vector of 10"):
        Icnn(3, (8,)).value(torch.zeros(10), torch.zeros(1, 3))
