"""Barycenters on one support: closed forms, optimality, agreement with POT, starts and bad input."""

import math

import pytest
import torch
from torch import Tensor

import metaot
from metaot.averages import barycenter, entropic_barycenter
from metaot.averages.problem import Measures

WEIGHTS, DEVIATIONS = torch.tensor([0.3, 0.7]), (0.5, 1.2)
RIGHT = {0.2: (0.9902196913, 1.0394686028), 1.0: (0.9948528101, 1.2193257630)}
"""Standard deviations by eps: debiased, and with a uniform reference."""


def line(points: int, reach: float) -> Tensor:
    return torch.linspace(-reach, reach, points)


def gaussians(axis: Tensor, deviations: tuple[float, ...], dim: int = 1) -> Tensor:
    """Isotropic Gaussians on a grid with equal axes."""
    squares = sum(part.square() for part in torch.meshgrid(*[axis] * dim, indexing="ij"))
    images = torch.stack([(-squares / (2 * s**2)).exp() for s in deviations]).flatten(1)
    return images / images.sum(-1, keepdim=True)


def deviation(image: Tensor, axis: Tensor) -> float:
    """The standard deviation along the first axis."""
    along = image.flatten(1).sum(-1) if image.ndim > 1 else image
    return float((along * axis.square()).sum().sqrt())


def shapes(side: int) -> Tensor:
    """A disc, a ring and two bars, with many zeros."""
    t = torch.linspace(-0.5, 0.5, side)
    y, x = torch.meshgrid(t, t, indexing="ij")
    r = (x.square() + y.square()).sqrt()
    bars = ((x - 0.25).abs() < 0.1) | ((x + 0.25).abs() < 0.1)
    images = torch.stack([r < 0.3, (r < 0.4) & (r > 0.25), bars & (y.abs() < 0.35)]).double()
    return images / images.sum((1, 2), keepdim=True)


@pytest.mark.parametrize("eps", RIGHT)
def test_gaussians_on_a_line(eps: float) -> None:
    axis = line(81, 8.0)
    a, grid = gaussians(axis, DEVIATIONS), metaot.Grid(axis)
    for average, right in zip((barycenter, entropic_barycenter), RIGHT[eps], strict=True):
        found = average(a, WEIGHTS, grid, eps, tol=1e-9)
        assert bool(found.converged)
        assert deviation(found.measure, axis) == pytest.approx(right, abs=2e-8)


@pytest.mark.parametrize(("dim", "points"), [(2, 49), (3, 25)])
def test_isotropic_gaussians(dim: int, points: int) -> None:
    axis = line(points, 6.0)
    a = gaussians(axis, DEVIATIONS, dim)
    for average, right in zip((barycenter, entropic_barycenter), RIGHT[1.0], strict=True):
        found = average(a, WEIGHTS, metaot.Grid(*[axis] * dim), 1.0, tol=1e-6)
        assert deviation(found.image, axis) == pytest.approx(right, abs=2e-4)
        assert found.image.shape == (points,) * dim


def test_the_barycenter_of_one_measure_is_itself() -> None:
    a = shapes(24)
    weights = torch.eye(3)
    found = barycenter(a, weights, metaot.Grid(24, 24), 1e-3)
    assert float((found.image - a).abs().sum((1, 2)).max()) < 1e-9
    blurred = entropic_barycenter(a, weights, metaot.Grid(24, 24), 1e-2)
    assert float((blurred.image - a).abs().sum((1, 2)).min()) > 0.1


def test_equal_measures_are_their_barycenter() -> None:
    axis = line(60, 4.0)
    a = gaussians(axis, (0.8,)).expand(3, -1)
    found = barycenter(a, [0.2, 0.5, 0.3], metaot.Grid(axis), 0.5, tol=1e-9)
    assert deviation(found.measure, axis) == pytest.approx(deviation(a[0], axis), abs=1e-6)


@pytest.mark.parametrize("average", [barycenter, entropic_barycenter])
def test_all_plans_have_the_marginals_that_they_should(average) -> None:
    a = shapes(20).flatten(1)
    found = average(a, [0.2, 0.3, 0.5], metaot.Grid(20, 20), 5e-3, tol=1e-7)
    assert bool(found.converged)
    assert float(found.error) <= 1e-7
    problem = metaot.Problem(a, found.measure.expand_as(a), metaot.Grid(20, 20), 5e-3)
    error = metaot.potentials.marginal_error(problem, found.potentials)
    assert float(error.max()) < 1e-6


@pytest.mark.parametrize("average", [barycenter, entropic_barycenter])
def test_nothing_near_has_a_lower_value(average) -> None:
    """The value of Gaussians near the right one, computed by solving, is higher."""
    axis, eps = line(81, 6.0), 1.0
    grid, a = metaot.Grid(axis), gaussians(axis, DEVIATIONS)
    found = average(a, WEIGHTS, grid, eps, tol=1e-9)
    right = RIGHT[eps][average is entropic_barycenter]

    def value(alpha: Tensor) -> float:
        def cost(x: Tensor, y: Tensor) -> Tensor:
            return metaot.ot_value(metaot.Problem(x, y, grid, eps), tol=1e-10)

        if average is entropic_barycenter:
            entropy = float((alpha * (alpha * len(alpha)).log()).nansum())
            return float(sum(w * cost(b, alpha) for w, b in zip(WEIGHTS, a, strict=True))) + eps * entropy
        own = 0.5 * cost(alpha, alpha)
        return float(sum(w * (cost(b, alpha) - 0.5 * cost(b, b) - own) for w, b in zip(WEIGHTS, a, strict=True)))

    assert float(found.value) == pytest.approx(value(found.measure), abs=1e-7)
    for factor in (0.98, 1.02):
        assert value(gaussians(axis, (factor * right,))[0]) > float(found.value)


@pytest.mark.parametrize("average", [barycenter, entropic_barycenter])
def test_the_derivative_in_the_weights_is_that_of_the_envelope(average) -> None:
    axis = line(61, 6.0)
    a = gaussians(axis, (0.5, 0.8, 1.2))

    weights = torch.tensor([0.2, 0.3, 0.5], requires_grad=True)
    ways = torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])
    rows = torch.cat([weights[None], weights.detach() + 1e-4 * ways, weights.detach() - 1e-4 * ways])
    here, *moved = average(a, rows, metaot.Grid(axis), 1.0, tol=1e-10).value
    (slope,) = torch.autograd.grad(here, weights)
    above, below = torch.stack(moved).detach().split(2)
    torch.testing.assert_close((above - below) / 2e-4, ways @ slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("average", [barycenter, entropic_barycenter])
def test_a_measure_without_weight_has_a_derivative_too(average) -> None:
    axis = line(61, 6.0)
    a = gaussians(axis, (0.5, 0.8, 1.2))
    first, way = torch.tensor([0.4, 0.6, 0.0], requires_grad=True), torch.tensor([-1.0, 0.0, 1.0])

    rows = torch.stack([first, *(first.detach() + t * way for t in (1e-3, 2e-3))])
    here, near, far = average(a, rows, metaot.Grid(axis), 1.0, tol=1e-9).value
    (slope,) = torch.autograd.grad(here, first, retain_graph=True)
    assert float((4 * near - far - 3 * here).detach()) / 2e-3 == pytest.approx(float(slope @ way), rel=1e-3)


def test_zero_weights_change_nothing() -> None:
    a, grid = shapes(20), metaot.Grid(20, 20)
    two = barycenter(a[:2], [0.4, 0.6], grid, 3e-3)
    three = barycenter(a, [0.4, 0.6, 0.0], grid, 3e-3)
    assert torch.allclose(two.measure, three.measure, atol=1e-12)
    assert three.potentials.g.isfinite().all()


def test_rows_of_weights_are_as_if_alone() -> None:
    a, grid = shapes(20), metaot.Grid(20, 20)
    rows = torch.tensor([[[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]], [[0.0, 0.5, 0.5], [0.6, 0.2, 0.2]]])
    found = barycenter(a, rows, grid, 3e-3)
    assert found.image.shape == (2, 2, 20, 20)
    start = found.potentials  # one start for both ways
    found, alone = (
        barycenter(a, rows, grid, 3e-3, init=start),
        barycenter(a, rows[1, 1], grid, 3e-3, init=start[1, 1]),
    )
    assert torch.allclose(found.measure[1, 1], alone.measure, atol=1e-12)
    assert found.steps[1, 1] == alone.steps


def test_many_rows_start_from_the_plans_between_pairs() -> None:
    """On a line the mean of potentials between pairs is nearly the solution."""
    axis = line(101, 4.0)
    a, grid = gaussians(axis, (0.5, 0.7, 1.0)), metaot.Grid(axis)
    rows = torch.tensor([[0.2, 0.3, 0.5], [0.3, 0.3, 0.4], [0.5, 0.5, 0.0], [0.1, 0.8, 0.1]])
    many, one = entropic_barycenter(a, rows, grid, 0.05), entropic_barycenter(a, rows[0], grid, 0.05)
    assert int(many.steps[0]) < int(one.steps)
    assert torch.allclose(many.measure[0], one.measure, atol=1e-6)
    same = entropic_barycenter(a.expand(4, 3, -1).clone(), rows, grid, 0.05)  # not known to be shared
    assert same.steps[0] == one.steps


@pytest.mark.parametrize("average", [barycenter, entropic_barycenter])
def test_a_start_from_its_own_answer_takes_no_step(average) -> None:
    a, grid = shapes(20), metaot.Grid(20, 20)
    first = average(a, [0.2, 0.3, 0.5], grid, 3e-3)
    assert int(average(a, [0.2, 0.3, 0.5], grid, 3e-3, init=first).steps) == 0
    rows = average(a, [[0.2, 0.3, 0.5], [0.3, 0.3, 0.4]], grid, 3e-3, init=first)
    assert int(rows.steps[0]) == 0
    assert bool(rows.converged.all())
    assert int(average(a, [0.3, 0.3, 0.4], grid, 3e-3, init=rows[1]).steps) == 0


def test_how_ragged_a_barycenter_is_does_not_depend_on_the_start() -> None:
    """Where the root of eps is several pixels wide, very different measures have nearly the same value."""
    a, grid, weights = shapes(32), metaot.Grid(32, 32), [0.2, 0.3, 0.5]
    cold = barycenter(a, weights, grid, 5e-3)
    assert bool(cold._state.settled)
    noise = 0.05 * torch.randn(3, 32 * 32, generator=torch.Generator().manual_seed(0))
    other = barycenter(a, weights, grid, 5e-3, init=(noise, noise))
    assert float((other.measure - cold.measure).abs().sum()) < 1e-2
    assert float(other.value) == pytest.approx(float(cold.value), rel=1e-3)


def test_a_start_from_neighbouring_weights_saves_steps_where_nothing_is_debiased() -> None:
    a, grid = shapes(20), metaot.Grid(20, 20)
    first = entropic_barycenter(a, [0.2, 0.3, 0.5], grid, 3e-3)
    near, cold = (entropic_barycenter(a, [0.22, 0.3, 0.48], grid, 3e-3, init=start) for start in (first, None))
    assert int(near.steps) < int(cold.steps)
    given = entropic_barycenter(a, [0.22, 0.3, 0.48], grid, 3e-3, init=first.potentials)
    assert int(given.steps) == int(near.steps)


def test_other_spaces_and_dtypes_give_the_same() -> None:
    a, grid = shapes(12), metaot.Grid(12, 12)
    axes = barycenter(a, [0.2, 0.3, 0.5], grid, 1e-2)
    cloud = barycenter(a.flatten(1), [0.2, 0.3, 0.5], metaot.Points(grid.points[0]), 1e-2)
    assert float((axes.measure - cloud.measure).abs().sum()) < 1e-5
    single = barycenter(a.float(), [0.2, 0.3, 0.5], grid, 1e-2)
    assert single.measure.dtype == torch.float32
    assert float((axes.measure - single.measure).abs().sum()) < 1e-3


def test_torch_and_compiled_code_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    a, grid = shapes(20), metaot.Grid(20, 20)
    by_core = barycenter(a, [0.2, 0.3, 0.5], grid, 3e-3, max_steps=12)
    monkeypatch.setattr(metaot.core, "COMPILED", False)
    by_torch = barycenter(a, [0.2, 0.3, 0.5], grid, 3e-3, max_steps=12)
    assert float((by_core.measure - by_torch.measure).abs().sum()) < 1e-8


@pytest.mark.parity
def test_agrees_with_the_methods_of_pot_that_are_right() -> None:
    ot = pytest.importorskip("ot")
    axis = line(41, 6.0)
    a, weights = gaussians(axis, DEVIATIONS), WEIGHTS.numpy()
    costs = (axis[:, None] - axis).square().numpy()
    settings = {"numItermax": 100, "stopThr": 1e-10, "warn": False}
    theirs = ot.barycenter(a.T.numpy(), costs, 1.0, weights, method="sinkhorn_log", **settings)
    ours = entropic_barycenter(a, weights, metaot.Grid(axis), 1.0, tol=1e-9)
    assert float((ours.measure - torch.from_numpy(theirs)).abs().sum()) < 1e-7
    theirs = ot.bregman.barycenter_debiased(a.T.numpy(), costs, 1.0, weights, **settings)
    ours = barycenter(a, weights, metaot.Grid(axis), 1.0, tol=1e-6)
    assert float((ours.measure - torch.from_numpy(theirs)).abs().sum()) < 1e-3
    grid, images, uneven = metaot.Grid(16, 16), shapes(16), torch.tensor([0.2, 0.3, 0.5])
    theirs = ot.bregman.convolutional_barycenter2d(images.numpy(), 2e-2, uneven.numpy(), **settings)
    ours = entropic_barycenter(images, uneven, grid, 2e-2, tol=1e-9)
    assert float((ours.image - torch.from_numpy(theirs)).abs().sum()) < 1e-4


def test_not_converging_is_a_result() -> None:
    found = barycenter(shapes(16), [0.2, 0.3, 0.5], metaot.Grid(16, 16), 1e-3, max_steps=2)
    assert found.status is metaot.Status.MAX_STEPS
    assert int(found.steps) == 2
    assert "2 steps" in repr(found)


SIXTEEN = metaot.Grid(16, 16)


@pytest.mark.parametrize(
    ("measures", "weights", "geometry", "eps", "words"),
    [
        (shapes(16), [0.5, 0.5, 0.5], SIXTEEN, 1e-2, "weights must sum to one, got sum weights = 1.5: divide by"),
        (shapes(16), [1.5, -0.5, 0.0], SIXTEEN, 1e-2, r"weights must not be negative, got weights\[1\] = -0.5"),
        (shapes(16), [0.5, 0.5], SIXTEEN, 1e-2, "one for each of the 3 measures"),
        (shapes(12), [0.2, 0.3, 0.5], SIXTEEN, 1e-2, r"shape \(\*batch, k, 256\) or \(\*batch, k, 16, 16\)"),
        ([shapes(12)[0], shapes(16)[0]], [0.5, 0.5], SIXTEEN, 1e-2, r"on one grid .*measures\[1\] has \(16, 16\)"),
        (torch.zeros(3, 16, 16), [0.2, 0.3, 0.5], SIXTEEN, 1e-2, r"measures\[0\] = 0: divide by .*\(\(-2, -1\)"),
        (shapes(16), [0.2, 0.3, math.nan], SIXTEEN, 1e-2, "weights must be finite"),
        (shapes(16), [0.2, 0.3, 0.5], SIXTEEN, 0.0, "eps must be positive"),
        (torch.full((2, 3), 1 / 3), [0.5, 0.5], metaot.Dense(torch.rand(3, 4)), 1e-2, "as many sources as"),
        (torch.full((2, 3), 1 / 3), [0.5, 0.5], metaot.Dense(torch.rand(3, 3)), 1e-2, "symmetric cost"),
        (shapes(16).expand(2, 3, 16, 16), [[0.2, 0.3, 0.5]] * 3, SIXTEEN, 1e-2, "differ in their batch"),
    ],
)
def test_bad_input(measures, weights, geometry, eps, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        barycenter(measures, weights, geometry, eps)


def test_other_things_than_numbers_and_spaces() -> None:
    with pytest.raises(TypeError, match="geometry must be a Geometry"):
        barycenter(shapes(16), [0.2, 0.3, 0.5], (16, 16), 1e-2)
    with pytest.raises(TypeError, match="init must be a Barycenter"):
        barycenter(shapes(16), [0.2, 0.3, 0.5], SIXTEEN, 1e-2, init=3)
    C = torch.ones(16, 16)
    C[9, 12] = 5.0
    with pytest.raises(ValueError, match=r"got Dense.*, C\[9, 12\] = 5 and its transpose\[9, 12\] = 1"):
        barycenter(torch.full((1, 16), 1 / 16), [1.0], metaot.Dense(C), 1e-2)
    with pytest.raises(ValueError, match=r"init.f has the shape \(2, 256\)"):
        barycenter(shapes(16), [0.2, 0.3, 0.5], SIXTEEN, 1e-2, init=(torch.zeros(2, 256), torch.zeros(2, 256)))


def test_a_start_that_is_not_finite_is_zeros() -> None:
    bad = torch.full((3, 256), torch.nan)
    found = barycenter(shapes(16), [0.2, 0.3, 0.5], SIXTEEN, 1e-2, init=(bad, bad))
    assert torch.equal(found.measure, barycenter(shapes(16), [0.2, 0.3, 0.5], SIXTEEN, 1e-2).measure)


def test_no_rows_are_no_barycenters() -> None:
    assert barycenter(shapes(16), torch.zeros(0, 3), SIXTEEN, 1e-2).measure.shape == (0, 256)


def test_images_of_several_batches_are_read() -> None:
    found = Measures.checked(shapes(16), torch.full((4, 3), 1 / 3), SIXTEEN, 1e-2)
    assert found.measures.shape == (4, 3, 256)


@pytest.mark.parametrize("find", [barycenter, entropic_barycenter])
def test_large_grids_are_solved_coarse_to_fine(find):
    grid = metaot.Grid(96, 96)
    x, middles = grid.points[0].double(), torch.tensor([[0.3, 0.3], [0.7, 0.4], [0.4, 0.8]], dtype=torch.float64)
    bells = (-(x - middles[:, None]).square().sum(-1) / 0.02).exp() + 0.01
    measures = bells / bells.sum(-1, keepdim=True)
    zeros = torch.zeros_like(measures)
    settings = {"weights": [0.2, 0.3, 0.5], "geometry": grid, "eps": 4e-3, "tol": 1e-4}
    quick, slow = find(measures, **settings), find(measures, init=(zeros, zeros), **settings)
    assert quick.converged
    assert quick.steps < slow.steps
    assert float(quick.value) == pytest.approx(float(slow.value), abs=1e-6)
    torch.testing.assert_close(quick.measure @ x, slow.measure @ x, atol=1e-4, rtol=0)
