"""A distribution against a data set: potentials that are known, agreement with `solve`, and runs that go on."""

import math
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import metaot
from metaot import Points, Problem, SemiDiscrete, solve
from metaot.maps import Image, Normal, Uniform, semidiscrete
from metaot.maps.samplers import Stream
from metaot.models import data_set
from metaot.models.data_set import DataSetPotential

Y = torch.tensor([0.1, 0.35, 0.4, 0.9]).double()[:, None]
B = torch.tensor([0.1, 0.4, 0.2, 0.3]).double()
B = B / B.sum()


def noise(count: int, generator: torch.Generator) -> Tensor:
    return torch.randn(count, 3, generator=generator)


def on_the_line() -> Tensor:
    """G for |x - y|^2 from the uniform distribution: cells end where the weights before are used up."""
    ends = B.cumsum(0)[:-1]
    y = Y[:, 0]  # (x - y_j)^2 - g_j = (x - y_k)^2 - g_k at the end of cell j
    steps = (ends - y[1:]).square() - (ends - y[:-1]).square()
    g = torch.cat([torch.zeros(1), steps.cumsum(0)])
    return g - (g * B).sum()


def test_the_potential_on_a_line_is_known() -> None:
    semi = SemiDiscrete(Y, B).fit(Uniform(1), tol=1e-6, max_samples=2**15, progress=False)
    assert (semi.g - on_the_line()).abs().max() < 1e-3
    x = torch.tensor([0.05, 0.3, 0.55, 0.99])[:, None]
    assert semi.assign(x).tolist() == [0, 1, 2, 3]
    assert torch.equal(semi.map(x), Y)
    cost = (x - Y).square()[:, 0]
    assert torch.allclose(semi.potential(x), cost - semi.g)


def test_two_diracs_and_a_temperature_are_known() -> None:
    """P(y_1 | x) is logistic in x; by symmetry g is equal, and with weights 1/4 it solves a scalar equation."""
    y = torch.tensor([[-1.0], [1.0]])
    semi = SemiDiscrete(y, eps=0.5).fit(Normal(1), tol=1e-7, max_samples=2**13, progress=False)
    assert (semi.g[0] - semi.g[1]).abs() < 1e-3
    assert torch.allclose(semi.conditional([[0.25]])[0, 1], torch.tensor(4 * 0.25 / 0.5).sigmoid(), atol=1e-3)
    assert torch.allclose(semi.map([[0.25]]), torch.tensor([[math.tanh(0.25 * 2 / 0.5)]]), atol=1e-3)
    uneven = SemiDiscrete(y, [0.25, 0.75], eps=0.5).fit(Normal(1), tol=1e-7, max_samples=2**13, progress=False)
    u = (torch.arange(2**14) + 0.5) / 2**14
    x = Normal(1).of_cube(u[:, None])
    assert torch.allclose(uneven.conditional(x).mean(0), torch.tensor([0.25, 0.75]), atol=1e-4)


def test_symmetric_data_have_symmetric_potentials() -> None:
    angle = torch.arange(8) * math.pi / 4
    semi = SemiDiscrete(torch.stack([angle.cos(), angle.sin()], 1)).fit(
        Normal(2), tol=1e-4, max_samples=2**14, progress=False
    )
    assert semi.g.abs().max() < 0.02
    assert semi.error is not None
    assert abs(semi.error.chi2) < 4 * semi.error.std + 1e-4


def skewed(x: Tensor, y: Tensor) -> Tensor:
    """A cost of one's own: the first axis counts twice."""
    return ((x[..., :, None, :] - y[..., None, :, :]).square() * torch.tensor([2.0, 1.0])).sum(-1)


@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean", "dot", skewed])
def test_it_agrees_with_solve_on_a_quadrature(cost: object, generator: torch.Generator) -> None:
    y, b = torch.randn(12, 2, generator=generator), torch.rand(12, generator=generator) + 0.1
    b = b / b.sum()
    semi = SemiDiscrete(y, b, cost, 0.3).fit(Normal(2), tol=1e-12, max_samples=2**13, progress=False)
    x = Stream(Normal(2), 0, y).points(0, 2**13)
    problem = Problem(torch.full((2**13,), 2.0**-13), b, Points(x, y, cost), 0.3)
    exact = solve(problem, tol=1e-10)
    g = exact.potentials.g - (exact.potentials.g * b).sum()
    assert torch.allclose(semi.g, g, atol=1e-4)
    found = semi.predict(problem)
    assert torch.allclose(found.f - found.f.mean(), exact.potentials.f - exact.potentials.f.mean(), atol=1e-4)
    assert solve(problem, init=semi, tol=1e-4).steps <= 1
    assert torch.allclose(semi.map(x[:5]), exact.map().push(x[:5]), atol=1e-4)
    hard = SemiDiscrete(y, b, cost).fit(Normal(2), tol=1e-3, progress=False)
    cold = solve(Problem(problem.a, b, problem.geometry, 0.05), tol=1e-3)
    assert solve(cold.problem, init=hard, tol=1e-3).steps < cold.steps


def test_many_data_are_fitted_by_stochastic_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaot.maps.fitting.NEWTON", 10)
    y = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    for eps in (0.0, 0.5):
        semi = SemiDiscrete(y, eps=eps).fit(noise, tol=5e-3, progress=False)
        assert semi.converged
        exact = semi.measure(noise, 200_000)
        assert exact.chi2 < 0.01
        newton = SemiDiscrete(y, eps=eps)
        monkeypatch.setattr("metaot.maps.fitting.NEWTON", 100)
        newton.fit(Normal(3), tol=1e-3, progress=False)
        monkeypatch.setattr("metaot.maps.fitting.NEWTON", 10)
        assert (newton.g - semi.g).abs().median() < 0.1


def test_scores_in_parts_are_those_in_one(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    y, x = torch.randn(50, 10, generator=generator) + 30, 29 + torch.randn(33, 10, generator=generator)
    for eps in (0.0, 2.0):
        model = DataSetPotential.of(y, torch.rand(50, generator=generator).softmax(0), "sqeuclidean", eps)
        model.g = torch.randn(50, generator=generator)
        assert torch.allclose(model.data, y)
        C = Points(x, y).cost_rows(slice(None))
        P = ((model.h - C) / (eps or 1e-9)).softmax(1)
        whole = [model.potential(x), model.received(x), model.sent(x), model.conditional(x)]
        assert torch.allclose(whole[1], P.sum(0))
        assert torch.allclose(whole[3], P)
        assert torch.allclose(whole[2], P @ y)
        with monkeypatch.context() as patch:
            patch.setattr(data_set, "ENTRIES", 64)
            patch.setattr(data_set, "ROWS", 8)
            parts = [model.potential(x), model.received(x), model.sent(x), model.conditional(x)]
            counts = torch.bincount(model.assigned(x[:1].expand(4000, -1), generator), minlength=50) / 4000
        assert all(map(torch.allclose, whole, parts))
        assert (counts - P[0]).abs().max() < 0.05


def test_cells_that_are_empty_at_first_are_filled(generator: torch.Generator) -> None:
    """From a ring around the origin most of the nearest cells of far data are empty."""
    ring = Image(
        lambda u: (3 + u[:, 1:]) * torch.cat([(6.2831 * u[:, :1]).cos(), (6.2831 * u[:, :1]).sin()], 1), 2
    )
    y = torch.randn(50, 2, generator=generator) + 3
    semi = SemiDiscrete(y).fit(ring, max_samples=2**15, progress=False)
    assert semi.converged
    assert semi.measure(ring, 50_000).chi2 < 0.02


def test_atoms_without_weight_receive_nothing(generator: torch.Generator) -> None:
    y = torch.randn(6, 2, generator=generator)
    for eps in (0.0, 0.5):
        semi = SemiDiscrete(y, [0, 1, 1, 1, 0, 1], eps=eps).fit(Normal(2), progress=False)
        assert set(semi.assign(torch.randn(500, 2, generator=generator), generator).tolist()) == {1, 2, 3, 5}
        assert semi.g.isfinite().all()


def test_the_error_bar_is_right(generator: torch.Generator) -> None:
    """With g = 0 on an uneven set chi^2 is known from the cells of a uniform distribution."""
    model = DataSetPotential.of(Y, B, "sqeuclidean", 0.0)
    cells = torch.tensor([0.225, 0.15, 0.275, 0.35])
    exact = float(((cells - B).square() / B).sum())
    found = [SemiDiscrete.of(model).measure(Uniform(1), 4000, seed) for seed in range(40)]
    scores = torch.tensor([(each.chi2 - exact) / each.std for each in found])
    assert scores.abs().max() < 5
    assert 0.6 < float(scores.square().mean().sqrt()) < 1.5


def test_samplers_are_what_they_say() -> None:
    stream = Stream(Normal(2, mean=[1, 2], std=3), 0, torch.zeros(1, 2))
    x = stream.points(0, 4096)
    assert torch.allclose(x.mean(0), torch.tensor([1.0, 2.0]), atol=0.02)
    assert torch.allclose(x.std(0), torch.tensor([3.0, 3.0]), atol=0.02)
    assert torch.equal(stream.points(100, 50), x[100:150])  # one sequence, wherever it is begun
    disc = Image(lambda u: u[:, :1].sqrt() * (2 * math.pi * u[:, 1:]).cos(), 2)
    assert Stream(disc, 0, torch.zeros(1, 1)).points(0, 10).shape == (10, 1)
    assert not torch.equal(stream.fresh(5, 0), stream.fresh(5, 1))


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaot.maps.fitting.NEWTON", 10)
    y = torch.randn(30, 3, generator=torch.Generator().manual_seed(1))
    settings = {"tol": 1e-6, "save_every": 2, "progress": False}
    whole = SemiDiscrete(y).fit(noise, folder=tmp_path / "whole", max_samples=40_000, **settings)
    parts = SemiDiscrete(y).fit(noise, folder=tmp_path / "parts", max_samples=20_000, **settings)
    assert parts.samples < whole.samples
    again = SemiDiscrete(y)
    again.fit(noise, folder=tmp_path / "parts", max_samples=40_000, resume=True, **settings)
    assert torch.equal(again.g, whole.g)
    loaded = metaot.load(tmp_path / "parts")
    assert isinstance(loaded, SemiDiscrete)
    assert torch.equal(loaded.g, whole.g)
    assert loaded.error == again.error
    assert list((tmp_path / "parts" / "board").iterdir())
    with pytest.raises(ValueError, match="holds a run already"):
        SemiDiscrete(y).fit(noise, folder=tmp_path / "parts", **settings)
    with pytest.raises(ValueError, match="eps = 0"):
        SemiDiscrete(y, eps=1.0).fit(noise, folder=tmp_path / "parts", resume=True, **settings)
    with pytest.raises(ValueError, match="points = "):
        SemiDiscrete(y + 1).fit(noise, folder=tmp_path / "parts", resume=True, **settings)


def test_an_interruption_saves(tmp_path: Path) -> None:
    calls = []

    def stopping(count: int, generator: torch.Generator) -> Tensor:
        calls.append(count)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return torch.randn(count, 3, generator=generator)

    semi = SemiDiscrete(torch.randn(20, 3)).fit(stopping, tol=1e-9, folder=tmp_path, progress=False)
    assert not semi.converged
    assert semi.samples < 10_000
    assert torch.equal(metaot.load(tmp_path).g, semi.g)


def test_it_fits_in_other_threads_too() -> None:
    found: list[SemiDiscrete] = []
    worker = threading.Thread(target=lambda: found.append(SemiDiscrete(Y, B).fit(Uniform(1), progress=False)))
    worker.start()
    worker.join()
    assert found[0].converged


def test_data_may_be_images_arrays_or_a_data_set_of_hugging_face() -> None:
    import datasets  # noqa: PLC0415, slow

    images = np.random.default_rng(0).random((20, 2, 2), dtype=np.float32)
    semi = SemiDiscrete(images).fit(Normal(4), progress=False)
    assert semi.y.dtype == torch.float32
    assert semi.assign(np.zeros((3, 2, 2))).shape == (3,)
    column = datasets.Dataset.from_dict({"x": images.reshape(20, 4)}).with_format("torch")["x"][:]
    assert torch.equal(SemiDiscrete(column).fit(Normal(4), progress=False).g, semi.g)


def test_wrong_input_is_named() -> None:
    semi = SemiDiscrete(Y, B)
    with pytest.raises(ValueError, match=r"no potential yet: call fit"):
        semi.assign([[0.5]])
    with pytest.raises(ValueError, match=r"y must have the shape .* y\[:, None\]"):
        SemiDiscrete(Y[:, 0])
    with pytest.raises(ValueError, match=r"eps must be finite, and positive or 0"):
        SemiDiscrete(Y, eps=-1.0)
    with pytest.raises(ValueError, match=r"b must have the shape \(\*batch, 4\)"):
        SemiDiscrete(Y, [0.5, 0.5])
    with pytest.raises(ValueError, match=r"y\[1, 0\] = nan"):
        SemiDiscrete([[0.0], [math.nan]])
    with pytest.raises(ValueError, match=r"cost must be one of"):
        SemiDiscrete(Y, cost="manhattan")
    with pytest.raises(TypeError, match=r"sampler must be a function"):
        semi.fit(torch.zeros(3, 1))  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"asked for 2 points in dimension 1, as the data have, and gave \(2, 2\)"
    ):
        semi.fit(Normal(2))
    with pytest.raises(ValueError, match="tol must be positive"):
        semi.fit(Uniform(1), tol=0.0)
    with pytest.raises(ValueError, match="name it, folder="):
        semi.fit(Uniform(1), resume=True)
    with pytest.raises(ValueError, match=r"cost function of your own cannot be saved"):
        SemiDiscrete(Y, cost=lambda x, y: (x - y.mT).abs()).fit(Uniform(1), folder="nowhere")
    with pytest.raises(ValueError, match="std must be positive"):
        Normal(2, std=0.0)
    with pytest.raises(ValueError, match="low must be below high"):
        Uniform(2, low=1.0)
    semi.fit(Uniform(1), progress=False)
    with pytest.raises(ValueError, match=r"x must have the shape .* with 1 numbers"):
        semi.assign([[0.5, 0.5]])
    a = torch.full((3,), 1 / 3)
    x = torch.rand(3, 1)
    with pytest.raises(ValueError, match="as targets, got other ones"):
        semi.predict(Problem(a, B, Points(x, Y + 1), 0.1))
    with pytest.raises(ValueError, match="for the weights b"):
        semi.predict(Problem(a, [0.25] * 4, Points(x, Y), 0.1))
    with pytest.raises(ValueError, match="with the cost 'sqeuclidean'"):
        semi.predict(Problem(a, B, Points(x, Y, "euclidean"), 0.1))
    soft = SemiDiscrete(Y, B, eps=0.1).fit(Uniform(1), progress=False)
    with pytest.raises(ValueError, match=r"was fitted for eps 0\.1, got eps = 0\.2"):
        soft.predict(Problem(a, B, Points(x, Y), 0.2))
    assert semidiscrete.SemiDiscrete is SemiDiscrete
