"""The loss as a module: values, its operator under torch's own checks and compiler, its memory, bad input."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from strategies import assert_close, weights
from torch import Tensor

from metaot import KL, TV, Points, Problem
from metaot.losses import SinkhornLoss, sinkhorn_divergence
from metaot.losses.loss import _divergence, _slopes

Parts = tuple[Tensor, Tensor, Tensor, Tensor]


def parts(*batch: int, dtype: torch.dtype = torch.float64) -> Parts:
    """Return weights and clouds that want gradients."""
    a, b, x, y = weights(*batch, 7), weights(*batch, 5), torch.randn(*batch, 7, 3), torch.randn(*batch, 5, 3)
    a, x, b, y = (part.to(dtype).requires_grad_() for part in (a, x, b, y))
    return a, x, b, y


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean"])
def test_it_is_the_divergence(batch, cost, dtype):
    a, x, b, y = parts(*batch, dtype=dtype)
    value = SinkhornLoss(0.5, cost, tol=1e-9)(a, x, b, y)
    expected = sinkhorn_divergence(Problem(a, b, Points(x, y, cost), 0.5), tol=1e-9)
    assert value.dtype == dtype
    assert value.shape == batch
    assert_close(value, expected, 1e-6 if dtype == torch.float32 else 1e-12)
    slopes = zip(*(torch.autograd.grad(v.sum(), (a, x, b, y)) for v in (value, expected)), strict=True)
    for slope, other in slopes:
        assert slope.dtype == dtype
        assert_close(slope, other.double(), 1e-5 if dtype == torch.float32 else 1e-9)


def test_equal_weights_by_default():
    _, x, _, y = parts()
    a, b = torch.full((7,), 1 / 7), torch.full((5,), 1 / 5)
    assert_close(SinkhornLoss(0.5)(x, y), SinkhornLoss(0.5)(a, x, b, y))


@pytest.mark.parametrize("price", [KL(0.3), TV(0.3)], ids=str)
def test_marginals_may_have_a_price(price):
    a, x, b, y = parts()
    a, b = ((mass * w).detach().requires_grad_() for mass, w in ((0.6, a), (1.2, b)))
    value = SinkhornLoss(0.2, marginals=price, tol=1e-11)(a, x, b, y)
    expected = sinkhorn_divergence(Problem(a, b, Points(x, y), 0.2, price), tol=1e-11)
    assert_close(value, expected, 1e-12)
    slopes = zip(*(torch.autograd.grad(v, (a, x, b, y)) for v in (value, expected)), strict=True)
    for slope, other in slopes:
        assert_close(slope, other, 1e-8)
    assert f"marginals={price}" in repr(SinkhornLoss(0.2, marginals=price))


@pytest.mark.slow
def test_the_operators_pass_the_checks_of_torch():
    a, x, b, y = parts(2)
    settings, tests = (0.5, "sqeuclidean", 0, 0.0, 1e-3, 10), ("test_schema", "test_faketensor")
    start, turned = (None,) * 5, torch.tensor(True)
    torch.library.opcheck(_divergence, (a, x, b, y, *start, *settings))
    still = [part.detach() for part in (a, x, b, y)]
    _, *potentials = _divergence(*still, *start, *settings)
    torch.library.opcheck(_divergence, (*still, *potentials, turned, *settings), test_utils=tests)
    torch.library.opcheck(
        _slopes, (torch.rand(2), *still, *potentials, 0.5, "euclidean", 0, 0.0, True), test_utils=tests
    )


@pytest.mark.slow
def test_it_compiles_as_a_whole():
    _, x, _, y = parts()
    loss, compiled = SinkhornLoss(0.5), SinkhornLoss(0.5)
    whole = torch.compile(lambda x, y: 2 * compiled(x, y), backend="aot_eager", fullgraph=True)
    for _ in range(4):
        (expected,) = torch.autograd.grad(2 * loss(x, y), x)
        (slope,) = torch.autograd.grad(whole(x, y), x)
        assert_close(slope, expected)
    torch.compiler.reset()


@pytest.mark.parametrize("exchanged", [False, True])
def test_points_that_move_evenly_need_next_to_no_steps(exchanged, monkeypatch):
    from metaot.losses import loss as module  # noqa: PLC0415, to count its steps

    steps, move, solve = [], torch.randn(60, 2).double() / 500, module.solve_divergence

    def counted(problem, **settings):
        found = solve(problem, **settings)
        steps.append(int(found.steps))
        return found

    monkeypatch.setattr(module, "solve_divergence", counted)
    x, y = torch.randn(60, 2).double(), torch.randn(50, 2).double()
    loss = SinkhornLoss(0.5, tol=1e-4)
    for k in range(6):
        clouds = x + (k + k**2 / 40) * move, y
        value = loss(*(clouds[::-1] if exchanged else clouds))
        expected = sinkhorn_divergence(
            Problem(torch.full((60,), 1 / 60), torch.full((50,), 1 / 50), Points(*clouds), 0.5)
        )
        assert_close(value, expected, 1e-6)
    assert max(steps[4:]) <= steps[1] / 2


def test_a_training_starts_where_the_last_step_ended(monkeypatch):
    x, y = torch.randn(60, 2), torch.randn(50, 2)
    loss, steps = SinkhornLoss(0.02, tol=1e-6), []
    from metaot.losses import loss as module  # noqa: PLC0415, to count its steps

    solve = module.solve_divergence

    def counted(*arguments, **settings):
        found = solve(*arguments, **settings)
        steps.append(int(found.steps + found.self_steps))
        return found

    monkeypatch.setattr(module, "solve_divergence", counted)
    loss(x, y)
    loss(x + 1e-4 * torch.randn_like(x), y)
    loss.forget()
    loss(x, y)
    loss(x[:40], y)
    assert steps[1] < 0.7 * steps[0]
    assert steps[2] == steps[0]
    still = SinkhornLoss(0.02, tol=1e-6, remembers=False)
    still(x, y), still(x, y)
    assert steps[-1] == steps[-2]


def test_the_start_goes_on_as_the_points_do(monkeypatch):
    """It is near the solution where the points go straight on (moved in place), no worse where they turn back."""
    from metaot.losses import loss as module  # noqa: PLC0415, to see its starts

    x, y, way, starts, found = torch.randn(20, 2), torch.randn(20, 2), 1e-3 * torch.randn(20, 2), [], []
    solve = module.solve_divergence

    def seen(problem, *, init, **settings):
        solution = solve(problem, init=init, **settings)
        starts.append(init and init.of_source.potentials.f)
        found.append(solution.of_source.potentials.f)
        return solution

    monkeypatch.setattr(module, "solve_divergence", seen)
    loss = SinkhornLoss(0.1, tol=1e-10)
    for move in (0, 1, 1, 0, -1):
        loss(x.add_(move * way), y)
    moved = float((found[1] - found[0]).abs().max())
    errors = [float((starts[k] - found[k]).abs().max()) for k in (2, 3, 4)]
    assert errors[0] < 0.05 * moved
    assert errors[1] < 1e-8
    assert errors[2] < 1.5 * moved


@pytest.mark.slow
def test_the_first_call_does_not_wait_for_the_compiler_of_torch():
    code = "import sys, torch\nfrom metaot.losses import SinkhornLoss\n"
    code += "x = torch.ones(3, 2, requires_grad=True)\nSinkhornLoss(1.0)(x, 0 * x).backward()\n"
    code += "assert not {'torch._dynamo', 'sympy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_second_derivatives_are_refused():
    _, x, _, y = parts()
    (slope,) = torch.autograd.grad(SinkhornLoss(0.5)(x, y), x, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        slope.sum().backward()


def test_bad_input():
    x, y = torch.randn(4, 2), torch.randn(5, 2)
    with pytest.raises(ValueError, match="eps"):
        SinkhornLoss(0.0)
    with pytest.raises(TypeError, match="eps"):
        SinkhornLoss("small")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cost must be"):
        SinkhornLoss(0.1, "sphere")
    for marginals in ("KL", (KL(1.0), KL(1.0)), KL(torch.ones(2))):
        with pytest.raises(TypeError, match="marginals must be"):
            SinkhornLoss(0.1, marginals=marginals)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"\(x, y\) or \(a, x, b, y\)"):
        SinkhornLoss(0.1)(x, y, x)
    with pytest.raises(TypeError, match="y must be numbers"):
        SinkhornLoss(0.1)(x, "points")
    with pytest.raises(ValueError, match="shape"):
        SinkhornLoss(0.1)(x, [1.0])
    with pytest.raises(ValueError, match="shape"):
        SinkhornLoss(0.1)(x[:, 0], y)
    with pytest.raises(ValueError, match="sum to one"):
        SinkhornLoss(0.1)(torch.ones(4), x, torch.ones(5) / 5, y)
    with pytest.raises(ValueError, match=r"shape \(\*batch, points, d\), got \(0, 2\)"):
        SinkhornLoss(0.1)(x[:0], y)
    with pytest.raises(ValueError, match="x must be dense"):
        SinkhornLoss(0.1)(x.to_sparse(), y)
    for eps in (np.float32(0.5), torch.tensor(0.5), np.int64(1)):
        assert SinkhornLoss(eps).eps == eps
    whole = torch.tensor([[0, 1], [1, 1]])
    assert_close(SinkhornLoss(0.1)(whole > 0, y), SinkhornLoss(0.1)(whole.double(), y), 1e-12)
    assert "eps=0.1" in repr(SinkhornLoss(0.1))


def test_data_may_be_arrays_and_follow_the_precision_of_the_tensors():
    x, y = torch.rand(6, 2, dtype=torch.float32).requires_grad_(), np.random.default_rng(0).random((5, 2))
    value = SinkhornLoss(0.1)(x, y.astype(np.float32))
    value.backward()
    assert value.dtype == x.grad.dtype == torch.float32
    assert_close(value, SinkhornLoss(0.1)(x.detach().double(), torch.from_numpy(y)), 1e-6)
    assert_close(SinkhornLoss(0.1)(y, (y + 1).tolist()), SinkhornLoss(0.1)(*map(torch.tensor, (y, y + 1))), 1e-15)
