"""Input-convex networks: convex for any weights, with the derivatives that autograd finds."""

import pytest
import torch
from clouds import SMOOTH, random_weights
from hypothesis import given
from hypothesis import strategies as st
from strategies import assert_close

from metaot.brenier import ACTIVATIONS, Icnn

ARCHITECTURES = [(8,), (8, 5), (7, 6, 5)]


def metric(*batch: int, dim: int = 3) -> torch.Tensor:
    root = torch.randn(*batch, dim, dim)
    return root @ root.mT + 0.1 * torch.eye(dim)


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
    torch.manual_seed(seed)
    icnn, Q = Icnn(dim, hidden, activation), metric(4, dim=dim)
    weights = random_weights(icnn, 4, seed=seed, strength=strength)
    start, end = 5 * torch.randn(2, 4, 30, dim)
    share = torch.rand(4, 30, 1)
    inside = icnn.value(weights, Q, share * start + (1 - share) * end)
    chord = share[..., 0] * icnn.value(weights, Q, start) + (1 - share[..., 0]) * icnn.value(weights, Q, end)
    assert ((chord - inside) >= -1e-12 * (1 + chord.abs())).all()


@pytest.mark.parametrize("hidden", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradient_is_that_of_autograd(hidden: tuple[int, ...], activation: str) -> None:
    icnn, Q = Icnn(3, hidden, activation), metric(2)
    weights, u = random_weights(icnn, 2), torch.randn(2, 20, 3, requires_grad=True)
    (expected,) = torch.autograd.grad(icnn.value(weights, Q, u).sum(), u)
    assert_close(icnn.gradient(weights, Q, u).detach(), expected, rtol=1e-8)


@pytest.mark.parametrize("hidden", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("activation", SMOOTH)
def test_hessian_is_that_of_autograd(hidden: tuple[int, ...], activation: str) -> None:
    icnn, Q = Icnn(3, hidden, activation), metric()
    weights, u = random_weights(icnn), torch.randn(1, 3)
    slope, H = icnn.gradient_and_hessian(weights, Q, u)
    assert_close(slope, icnn.gradient(weights, Q, u))
    expected = torch.autograd.functional.hessian(lambda place: icnn.value(weights, Q, place).sum(), u)
    assert_close(H[0], expected[0, :, 0])
    assert torch.linalg.eigvalsh(H[0] - icnn.floor * Q).min() > 0


def test_a_batch_of_networks_is_one_by_one() -> None:
    icnn, Q = Icnn(3, (8, 5)), metric(2, 3)
    weights, u = random_weights(icnn, 2, 3), torch.randn(2, 3, 10, 3)
    values, slopes = icnn.value(weights, Q, u), icnn.gradient(weights, Q, u)
    for i in range(2):
        for j in range(3):
            assert_close(values[i, j], icnn.value(weights[i, j], Q[i, j], u[i, j]))
            assert_close(slopes[i, j], icnn.gradient(weights[i, j], Q[i, j], u[i, j]))


def test_a_new_network_is_nearly_the_quadratic(generator: torch.Generator) -> None:
    icnn, Q, u = Icnn(3, (64, 64)), metric(2), torch.randn(2, 50, 3)
    slope = icnn.gradient(icnn.weights(generator, 2).double(), Q, u)
    assert (slope - u @ Q).norm() < 0.1 * (u @ Q).norm()


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
        Icnn(3, (8,)).value(torch.zeros(10), torch.eye(3), torch.zeros(1, 3))
