"""The twins of the networks for one problem, compiled and in numpy, are the networks."""

import warnings

import numpy as np
import pytest
import torch

from metaot.amortize import AmortizedPotential
from metaot.geometry import Dense, Geometry, Grid
from metaot.models import MODELS, PotentialModel, RefinedPotential, alone, single
from metaot.models.alone import gelu
from metaot.models.refined import GridStep
from metaot.problem import Problem

BOUNDS = (1e-4, 1e-1)
SPECTRAL = {"moments": 4, "modes": 4, "width": 32, "hidden": 24}
REFINED = {"first": SPECTRAL, "modes": 4, "hidden": 24}
CASES = {
    "mlp": ("PotentialMLP", Dense(torch.rand(12, 9)), {"width": 16, "depth": 2}),
    "mlp without hidden layers": ("PotentialMLP", Grid(6), {"width": 13, "depth": 0}),
    "spectral": ("SpectralPotential", Grid(9, 7), SPECTRAL),
    "1-D": ("RefinedPotential", Grid(40), REFINED),
    "2-D": ("RefinedPotential", Grid(14, 11), REFINED),
    "3-D": ("RefinedPotential", Grid(5, 6, 4), REFINED),
    "28 x 28": ("RefinedPotential", Grid(28, 28), {}),
}


def build(case: str) -> tuple[PotentialModel, Geometry]:
    kind, geometry, settings = CASES[case]
    model = single(MODELS[kind].for_geometry(geometry, BOUNDS, **settings))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 or "modulation" in name or "gain" in name or "correction.outputs" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.standardise(*images(geometry, 50))
    return model.requires_grad_(False), geometry


def images(geometry: Geometry, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return strokes on nothing: most atoms have no mass."""

    def weights(n: int) -> torch.Tensor:
        values = torch.rand(count, n) * (torch.rand(count, n) < 0.3)
        values[:, 0] += 1e-3
        return (values / values.sum(-1, keepdim=True)).float()

    n, m = geometry.shape
    return weights(n), weights(m)


@pytest.mark.parametrize("eps", [1e-4, 1e-3, 3e-3, 1e-2, 1e-1])
@pytest.mark.parametrize("case", CASES)
def test_the_twin_is_the_evaluator(case: str, eps: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """As near as rounding lets it: these weights are random, and amplify it more than trained ones."""
    monkeypatch.setattr(alone, "_forward", None)
    model, geometry = build(case)
    for passes in (0, 1, 2) if model.refines else (model.passes,):
        model.passes = passes
        evaluator = model.at(torch.tensor([eps]).float())
        twin = evaluator.alone()
        for a, b in zip(*images(geometry, 3), strict=True):
            with warnings.catch_warnings(action="error"):
                mine = list(twin(a.numpy(), b.numpy()))
            theirs = list(evaluator(a[None], b[None]))
            assert len(mine) == len(theirs) == passes + 1
            for f, expected in zip(mine, theirs, strict=True):
                assert f.dtype == np.float32
                assert np.abs(f - expected[0].numpy()).max() <= 1e-5 * expected.abs().max()


@pytest.mark.skipif(alone._forward is None, reason="not compiled")
@pytest.mark.parametrize("eps", [1e-4, 1e-3, 1e-2, 1e-1])
@pytest.mark.parametrize("case", [case for case in CASES if "mlp" not in case])
def test_compiled_parts_are_those_in_numpy(case: str, eps: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """To rounding, from the same numbers: the whole would amplify it, by random weights and small temperatures."""
    model, geometry = build(case)
    twin = model.at(torch.tensor([eps]).float()).alone()
    first = getattr(twin, "first", twin)
    a, b = (values[0].numpy() for values in images(geometry, 1))
    missing, x = 1e-3 * torch.randn(len(a)).float().numpy(), torch.randn(len(first.inputs[1])).float().numpy()

    def parts() -> list[np.ndarray]:
        added = np.zeros_like(a)
        if model.refines:
            twin.correction(added, x, missing)
        return [*first.both(a, b), added]

    compiled = parts()
    monkeypatch.setattr(alone, "_forward", None)
    expected = parts()
    for mine, theirs in zip(compiled, expected, strict=True):
        assert np.abs(mine - theirs).max() <= 2e-6 * np.abs(theirs).max()


@pytest.mark.skipif(alone._forward is None, reason="not compiled")
def test_arrays_that_do_not_fit_are_no_problem() -> None:
    model, geometry = build("2-D")
    twin = model.at(torch.tensor([0.01]).float()).alone()
    a, b = (values[0].numpy() for values in images(geometry, 1))
    x, missing = np.zeros(32, dtype=np.float32), np.zeros(154, dtype=np.float32)
    for wrong in (a[:-1], a.astype(np.float64)):
        with pytest.raises(ValueError, match="do not fit"):
            next(iter(twin(wrong, b)))
    for f, features, left in ((a, x[1:], missing), (a, x, missing[1:]), (a[1:].copy(), x, missing)):
        with pytest.raises(ValueError, match="do not fit"):
            twin.correction(f, features, left)


@pytest.mark.parametrize("sizes", [(9,), (28, 28), (3, 4, 2)])
@pytest.mark.parametrize("spread", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("eps", [1e-1, 1e-2, 1e-3])
def test_the_step_agrees_for_every_potential(sizes: tuple[int, ...], spread: float, eps: float) -> None:
    """On both sides of the bound up to which plain products fit into floating point; by all ways."""
    grid = Grid(*sizes)
    step = GridStep(list(sizes))
    step.set_costs(grid)
    at = step.at(torch.tensor([eps]))
    a, b = images(grid, 1)
    f = (spread * torch.rand(1, grid.shape[0])).float()
    several = step.at(torch.tensor([eps, eps]))(*(values.expand(2, -1) for values in (f, a, b)))
    expected = [values[:1] for values in several]
    for mine, theirs in zip(at(f, a, b), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=2e-6 * float(f.max()))
    with warnings.catch_warnings(action="error"), np.errstate(all="ignore"):
        got = at.alone()(f[0].numpy(), a[0].double().numpy(), b[0].double().numpy())
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(mine)[None], theirs, rtol=1e-5, atol=2e-6 * float(f.max()))


def test_gelu_is_exact_to_rounding_and_has_limits() -> None:
    x = torch.linspace(-12, 12, 100001)
    with np.errstate(all="ignore"):
        mine = np.concatenate([gelu(part) for part in np.array_split(x.float().numpy(), 100)])
    error = np.abs(mine - torch.nn.functional.gelu(x.float().double()).numpy())
    assert (error / np.maximum(np.abs(x.numpy()), 1)).max() < 2.5e-7
    with np.errstate(all="ignore"):
        far = gelu(np.array([-np.inf, -1e30, -1e10, -0.0, 1e10, 1e30, np.nan], dtype=np.float32))
    assert np.array_equal(far[1:], np.array([0, 0, 0, 1e10, 1e30, np.nan], dtype=np.float32), equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_problem_is_predicted_as_in_a_batch(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    model, geometry = build("2-D")
    known = AmortizedPotential(model, geometry, BOUNDS)
    a, b = (value.to(dtype) for value in images(geometry, 2))
    batch = known.stages(Problem(a, b, geometry, 0.01))
    one = Problem(a[0].reshape(*shape, -1), b[0].reshape(*shape, -1), geometry, 0.01)
    stages = known.stages(one)
    assert len(stages) == 3
    assert torch.equal(known.predict(one).f, stages[-1])
    for f, expected in zip(stages, batch, strict=True):
        assert f.shape == one.a.shape
        assert f.dtype == dtype
        assert (f.reshape(-1) - expected[0]).abs().max() <= 2e-6 * expected.abs().max()


def test_a_prediction_is_the_callers_own() -> None:
    model, geometry = build("2-D")
    known = AmortizedPotential(model, geometry, BOUNDS)
    a, b = images(geometry, 1)
    case = Problem(a, b, geometry, 0.01)
    stages = known.stages(case)
    kept = [f.clone() for f in stages]
    for f in stages:
        f.zero_()
    assert all(torch.equal(f, again) for f, again in zip(kept, known.stages(case), strict=True))


def test_problems_that_numpy_cannot_read_are_left_to_torch() -> None:
    model, geometry = build("2-D")
    known = AmortizedPotential(model, geometry, BOUNDS)
    a, b = images(geometry, 1)
    expected = known.predict(Problem(a, b, geometry, 0.01)).f
    watched = a.clone().requires_grad_()
    f = known.predict(Problem(watched, b, geometry, 0.01)).f
    assert torch.autograd.grad(f.square().sum(), watched)[0].abs().max() > 0
    with torch.no_grad():
        for case in (Problem(watched, b, geometry, 0.01), Problem(a, b, geometry, torch.tensor([0.01]))):
            assert (known.predict(case).f - expected).abs().max() <= 2e-6 * expected.abs().max()


def test_the_twin_of_a_changed_model_is_its_own() -> None:
    model, geometry = build("2-D")
    assert isinstance(model, RefinedPotential)
    known = AmortizedPotential(model, geometry, BOUNDS)
    a, b = images(geometry, 1)
    case = Problem(a, b, geometry, 0.01)
    before = known.predict(case).f
    model.first.gain.bias.mul_(1.5)
    after = known.predict(case).f
    expected = model(a, b, torch.tensor([0.01]).float())
    assert (after - expected).abs().max() <= 2e-6 * expected.abs().max()
    assert not torch.allclose(after, before, rtol=1e-3)
