"""Many problems on a grid together: what each of them would be alone, however the others are."""

import math

import numpy as np
import pytest

from metaot import single
from metaot.single import AxesKernel, AxesProblem, DenseProblem, sinkhorn_together
from metaot.single.anderson import STALE, Anderson
from metaot.single.together.path import Path

SIZES = [(24,), (7, 9), (4, 3, 5)]


def kernel(sizes: tuple[int, ...], eps: float) -> AxesKernel:
    """Return that of squared distances, some of them below zero."""
    axes = [np.linspace(0, 1, size) for size in sizes]
    return AxesKernel([((x[:, None] - x) ** 2 - 0.1 * k) / eps for k, x in enumerate(axes)])


def measures(seed: int, count: int, sizes: tuple[int, ...], empty: float) -> np.ndarray:
    """Return random weights, of which many are zero."""
    generator = np.random.default_rng(seed)
    a = generator.random((count, math.prod(sizes))) * (generator.random((count, math.prod(sizes))) > empty)
    a[:, seed] += 0.1
    return a / a.sum(1, keepdims=True)


def dense(K: AxesKernel, a: np.ndarray, b: np.ndarray) -> DenseProblem:
    """Return the same as a dense problem on all atoms with mass."""
    C = np.zeros((1, 1))
    for cost in K._costs:
        C = (C[:, None, :, None] + cost[None, :, None, :]).reshape(len(C) * len(cost), -1)
    return DenseProblem(C[np.ix_(a > 0, b > 0)], a[a > 0], b[b > 0])


def starts(kind: str, shape: tuple[int, int]) -> np.ndarray | None:
    """Return a start of each kind, and in one row another one."""
    if kind == "zeros":
        return None
    f = np.random.default_rng(3).normal(size=shape) * {"near": 0.1, "far": 30.0, "huge": 1e6, "nan": 1.0}[kind]
    f[1] = math.nan if kind == "nan" else 0.0
    return f


@pytest.mark.parametrize("kind", ["zeros", "near", "far", "huge", "nan"])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("fits", [True, False])
def test_together_is_as_alone(sizes, fits, kind):
    """Also where sums are looked at, as those of a kernel are that does not fit into floating point."""
    K, count = kernel(sizes, 0.05), 9
    K.fits = fits
    a, b = measures(0, count, sizes, 0.7), measures(1, count, sizes, 0.3)
    f = starts(kind, a.shape)
    found = sinkhorn_together(K, a, b, f, tol=1e-7, max_steps=2000)
    for k in range(count):
        start = None if f is None else f[k]
        alone = single.sinkhorn_on_axes(AxesProblem(K, a[k], b[k]), start, tol=1e-7, max_steps=2000)
        assert alone is not None
        assert abs(found.steps[k] - alone.steps) <= 1
        problem = dense(K, a[k], b[k])
        P, g = problem.best_plan(found.f[k, a[k] > 0])
        assert np.abs(P.sum(1) - problem.a).sum() <= 1.01e-7
        np.testing.assert_allclose(found.g[k, b[k] > 0], g, atol=1e-9)
        np.testing.assert_allclose(found.f[k] - found.f[k] @ a[k], alone.f - alone.f @ a[k], atol=1e-3)
    assert found.finished.all()


def test_what_strays_leaves_where_it_was_nearest_and_the_others_go_on():
    K, a, b = kernel((24,), 5e-3), measures(0, 8, (24,), 0.0), measures(1, 8, (24,), 0.0)
    b[4:] = measures(1, 4, (24,), 0.9)
    found = sinkhorn_together(K, a, b, None, tol=1e-9, max_steps=100)
    assert found.finished.any()
    assert not found.finished.all()
    assert (found.error[found.finished] <= 1e-9).all()
    assert (found.steps[~found.finished] < 40).all()
    for k in (~found.finished).nonzero()[0]:
        problem = dense(K, a[k], b[k])
        errors = []
        for f in (found.f[k, a[k] > 0], np.zeros(int((a[k] > 0).sum()))):
            errors.append(np.abs(problem.best_plan(f)[0].sum(1) - problem.a).sum())
        assert errors[0] <= errors[1] + 1e-12


def test_bad_starts_are_replaced_and_good_ones_beside_them_kept():
    K, a, b = kernel((7, 9), 0.05), measures(0, 4, (7, 9), 0.5), measures(1, 4, (7, 9), 0.5)
    cold = sinkhorn_together(K, a, b, None, tol=1e-6, max_steps=500)
    mixed = cold.f.copy()
    mixed[1:3] = 30 * np.random.default_rng(2).normal(size=(2, 63))
    found = sinkhorn_together(K, a, b, mixed, tol=1e-6, max_steps=500)
    assert found.steps.tolist() == [0, cold.steps[1], cold.steps[2], 0]
    assert (cold.steps > 0).all()
    assert found.finished.all()


def test_starts_beyond_floating_point_are_compared_in_logs():
    """A bad one is replaced, and the problem stays with the others; a good one goes on elsewhere."""
    K, a, b = kernel((40,), 1e-3), measures(0, 4, (40,), 0.0), measures(1, 4, (40,), 0.0)
    cold = sinkhorn_together(K, a, b, None, tol=1e-6, max_steps=500)
    bad = cold.f.copy()
    bad[1] = np.linspace(-500, 400, 40)
    bad[2, 5] += 800
    found = sinkhorn_together(K, a, b, bad, tol=1e-6, max_steps=500)
    assert found.steps.tolist() == [0, cold.steps[1], cold.steps[2], 0]
    for k in (1, 2):
        one = single.sinkhorn_on_axes(AxesProblem(K, a[k], b[k]), bad[k], tol=1e-6, max_steps=500)
        assert one is not None
        assert one.steps == cold.steps[k]


def test_a_problem_whose_error_grows_strays_and_was_nearest_before():
    weights, x = np.full((3, 4), 0.25), np.arange(12.0).reshape(3, 4)
    path = Path(weights)
    assert not path.strayed(x, np.array([1.0, 1.0, 1.0])).any()
    assert path.strayed(x + 1, np.array([0.5, 2.1, np.nan])).tolist() == [False, True, True]
    np.testing.assert_array_equal(path.nearest(np.array([True, True, False])), [x[0] + 1, x[1]])
    for _ in range(STALE - 1):
        strayed = path.strayed(x, np.array([0.6, 1.0, 1.0]))
    assert not strayed[0]
    assert path.strayed(x, np.array([0.6, 1.0, 1.0]))[0]


@pytest.mark.parametrize("sizes", SIZES)
def test_a_part_of_a_kernel_is_that_between_boxes(sizes):
    K, generator = kernel(sizes, 0.05), np.random.default_rng(0)
    rows = [slice(size // 4, size - 1) for size in sizes]
    columns = [slice(1, size // 2 + 1) for size in sizes]
    v = np.zeros((2, *sizes))
    v[:, *columns] = generator.random((2, *(side.stop - side.start for side in columns)))
    expected = [K.times(one.reshape(-1)).reshape(sizes)[tuple(rows)] for one in v]
    inside = np.moveaxis(v[:, *columns], 0, 1)
    found = K.part(rows, columns).times_each(np.ascontiguousarray(inside))
    shape = [side.stop - side.start for side in rows]
    np.testing.assert_allclose(np.moveaxis(found.reshape(shape[0], 2, *shape[1:]), 1, 0), expected)


@pytest.mark.parametrize("eps", [1e-2, 1e-3, 3e-4])
def test_potentials_are_right_far_from_all_mass(eps):
    """Where products underflow; in the log domain they are those of the dense problem."""
    n = 64
    K, x = kernel((n,), eps), np.arange(n)
    a, b = (np.exp(-0.5 * ((x - mean) / 3.0) ** 2) * (np.abs(x - mean) < 8) for mean in (20, 24))
    a, b = a / a.sum(), b / b.sum()
    one = single.sinkhorn_on_axes(AxesProblem(K, a, b), None, tol=1e-8, max_steps=5000)
    two = sinkhorn_together(K, np.stack([a, a]), np.stack([b, b]), None, tol=1e-8, max_steps=5000)
    assert one is not None
    whole = dense(K, np.ones(n), np.ones(n)).C
    for f, g, error in ((one.f, one.g, one.error), (two.f[0], two.g[0], two.error[0])):
        assert np.isfinite(f).all()
        problem = dense(K, a, b)
        z = (f[a > 0] + np.log(a[a > 0]))[:, None] - whole[a > 0]
        best = -(z.max(0) + np.log(np.exp(z - z.max(0)).sum(0)))
        np.testing.assert_allclose(g, best, atol=1e-8)
        assert abs(np.abs(problem.best_plan(f[a > 0])[0].sum(1) - problem.a).sum() - error) <= 1e-10


def test_numbers_that_leave_floating_point_are_no_result():
    """Between distant atoms all products are lost: it is said, and nothing is made up."""
    K = kernel((50,), 1e-4)
    a, b = np.eye(50)[:1], np.eye(50)[-1:]
    assert single.sinkhorn_on_axes(AxesProblem(K, a[0], b[0]), None, tol=1e-6, max_steps=10) is None
    assert single.step_on_axes(K, a[0], b[0], np.zeros(50)) is None
    found = sinkhorn_together(K, np.repeat(a, 3, 0), np.repeat(b, 3, 0), None, tol=1e-6, max_steps=10)
    assert not found.finished.any()
    assert (found.f == 0).all()


@pytest.mark.parametrize("eps", [2e-3, 1.5e-3, 1.3e-3, 1.2e-3])
def test_neither_lost_nor_endless_numbers_come_out(eps):
    """Two atoms far from each other: on the empty ones there are the largest and the smallest sums."""
    K, a, b = AxesKernel([np.zeros((1, 1)), np.array([[0, 1], [1, 0]]) / eps]), np.eye(2)[0], np.eye(2)[1]
    found = single.sinkhorn_on_axes(AxesProblem(K, a, b), None, tol=1e-6, max_steps=10)
    if found is not None:
        np.testing.assert_allclose([found.f, found.g], [[0, -1 / eps], [0, 1 / eps]], atol=1e-9)
    two = sinkhorn_together(K, np.stack([a, a]), np.stack([b, b]), None, tol=1e-6, max_steps=10)
    assert two.finished.all() == (found is not None)
    step = single.step_on_axes(K, a, b, np.zeros(2))
    assert step is None or np.allclose(step[0], [0, -1 / eps], atol=1e-9)


@pytest.mark.parametrize("eps", [0.1, 1e-3])
def test_a_step_is_two_transforms(eps):
    K, sizes = kernel((6, 5), eps), (6, 5)
    a, b = measures(0, 1, sizes, 0.5)[0], measures(1, 1, sizes, 0.5)[0]
    f = 0.1 * np.random.default_rng(1).normal(size=30) / eps**0.5
    found = single.step_on_axes(K, a, b, f)
    assert found is not None
    everywhere = dense(K, np.ones(30), np.ones(30)).C
    problem = DenseProblem(everywhere[a > 0][:, b > 0], a[a > 0], b[b > 0])
    g = problem.best_g(f[a > 0])
    expected = DenseProblem(everywhere[:, b > 0], np.ones(30), b[b > 0]).best_f(g)
    np.testing.assert_allclose(found[0], expected, atol=1e-9)
    P = problem.best_plan(f[a > 0])[0]
    np.testing.assert_allclose(found[1][a > 0], problem.a - P.sum(1), atol=1e-12)


def test_scalings_that_run_away_are_no_result(monkeypatch: pytest.MonkeyPatch):
    """Also where the kernel fits: between tiny masses acceleration has led to infinite potentials."""
    K, a, b = kernel((24,), 0.1), measures(0, 3, (24,), 0.5), measures(1, 3, (24,), 0.5)
    assert K.fits
    monkeypatch.setattr(Anderson, "next", lambda self, x, residual, error: x + 800 * np.sign(residual))
    monkeypatch.setattr(Path, "next", lambda self, x, residual: x + 800 * np.sign(residual))
    assert single.sinkhorn_on_axes(AxesProblem(K, a[0], b[0]), None, tol=1e-6, max_steps=50) is None
    found = sinkhorn_together(K, a, b, None, tol=1e-6, max_steps=50)
    assert not found.finished.any()
    assert np.isfinite(found.f).all()
