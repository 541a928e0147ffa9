"""Problems on a grid, one or many, by compiled code and in numpy: the same steps, right to rounding."""

import math

import numpy as np
import pytest

from metaot import single
from metaot.single import AxesKernel, AxesKernels, AxesProblem, DenseProblem, grid, sinkhorn_on_grid_each
from metaot.single.anderson import Anderson

SIZES = [(24,), (7, 9), (4, 3, 5)]


def kernel(sizes: tuple[int, ...], eps: float) -> AxesKernel:
    """Return that of squared distances, some of them below zero."""
    axes = [np.linspace(0, 1, size) for size in sizes]
    return AxesKernel([((x[:, None] - x) ** 2 - 0.1 * k) / eps for k, x in enumerate(axes)])


def measures(seed: int, count: int, sizes: tuple[int, ...], empty: float) -> np.ndarray:
    """Return random weights, of which many are zero."""
    generator = np.random.default_rng(seed)
    a = generator.random((count, math.prod(sizes))) * (generator.random((count, math.prod(sizes))) > empty)
    a[:, seed % a.shape[1]] += 0.1
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


@pytest.fixture(params=["compiled", "numpy"])
def _by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have both ways, of which the first one is not there where there was no compiler."""
    if request.param == "numpy":
        monkeypatch.setattr(grid, "_steps", None)
    elif grid._steps is None:
        pytest.skip("not compiled")


@pytest.mark.usefixtures("_by")
@pytest.mark.parametrize("kind", ["zeros", "near", "far", "huge", "nan"])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("fits", [True, False])
def test_steps_are_those_in_numpy(sizes, fits, kind):
    """Also where sums are looked at, as those of a kernel are that does not fit into floating point."""
    K, count = kernel(sizes, 0.05), 5
    K.fits = fits
    a, b = measures(0, count, sizes, 0.7), measures(1, count, sizes, 0.3)
    f = starts(kind, a.shape)
    found = sinkhorn_on_grid_each(K, a, b, f, tol=1e-7, max_steps=2000)
    for k in range(count):
        start = None if f is None else f[k]
        alone = single.sinkhorn_on_axes(AxesProblem(K, a[k], b[k]), start, tol=1e-7, max_steps=2000)
        assert alone is not None
        assert found.steps[k] == alone.steps
        assert found.error[k] == pytest.approx(alone.error, rel=0.01)
        np.testing.assert_allclose(found.f[k], alone.f, atol=1e-9)
        np.testing.assert_allclose(found.g[k], alone.g, atol=1e-9)
        problem = dense(K, a[k], b[k])
        P, g = problem.best_plan(found.f[k, a[k] > 0])
        assert np.abs(P.sum(1) - problem.a).sum() <= 1.01e-7
        np.testing.assert_allclose(found.g[k, b[k] > 0], g, atol=1e-9)


@pytest.mark.parametrize("noise", [1e-3, 0.02, 0.1, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("eps", [0.02, 0.2, 2.0])
def test_a_start_is_kept_or_replaced_as_in_numpy(eps, noise):
    """Whatever its mean is; on all sides of the bounds from which on it must be better than zeros."""
    K, a, b = kernel((7, 9), eps), measures(0, 8, (7, 9), 0.3), measures(1, 8, (7, 9), 0.3)
    near = sinkhorn_on_grid_each(K, a, b, None, tol=1e-9, max_steps=5000).f
    f = near + 3 + noise * np.random.default_rng(2).normal(size=near.shape)
    found = sinkhorn_on_grid_each(K, a, b, f, tol=1e-9, max_steps=0)
    for k in range(8):
        alone = single.sinkhorn_on_axes(AxesProblem(K, a[k], b[k]), f[k], tol=1e-9, max_steps=0)
        assert alone is not None
        np.testing.assert_allclose(found.f[k], alone.f, atol=1e-11)
        np.testing.assert_allclose(found.g[k], alone.g, atol=1e-11)


@pytest.mark.usefixtures("_by")
@pytest.mark.parametrize("sizes", [(1,), (2, 1), (8, 16), (9, 17), (33, 2), (2, 3, 2, 3)])
def test_any_size_converges(sizes):
    """Sizes around those of the blocks that products are made of."""
    K, a, b = kernel(sizes, 0.02), measures(0, 2, sizes, 0.2), measures(1, 2, sizes, 0.2)
    found = sinkhorn_on_grid_each(K, a, b, None, tol=1e-9, max_steps=5000)
    for k in range(2):
        problem = dense(K, a[k], b[k])
        assert np.abs(problem.best_plan(found.f[k, a[k] > 0])[0].sum(1) - problem.a).sum() <= 1.01e-9


def test_steps_that_go_back_are_those_in_numpy():
    """Where errors grow on the way, which leads back to plain steps."""
    K, a, b = kernel((24,), 5e-3), measures(0, 8, (24,), 0.0), measures(1, 8, (24,), 0.9)
    found = sinkhorn_on_grid_each(K, a, b, None, tol=1e-9, max_steps=1000)
    steps = []
    for k in range(8):
        alone = single.sinkhorn_on_axes(AxesProblem(K, a[k], b[k]), None, tol=1e-9, max_steps=1000)
        steps.append(0 if alone is None else alone.steps)
    assert max(steps) > 100
    np.testing.assert_allclose(found.steps, steps, rtol=0.3)
    assert (found.error <= 1e-9).all()


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(grid, "_REFINED", 1)
    K, a, b = kernel((7, 9), 0.05), measures(0, 5, (7, 9), 0.5), measures(1, 5, (7, 9), 0.5)
    f = np.random.default_rng(0).normal(size=a.shape)
    for start in (None, f):
        one, three = (
            sinkhorn_on_grid_each(K, a, b, start, tol=1e-6, max_steps=500, threads=threads) for threads in (1, 3)
        )
        for mine, theirs in zip(one, three, strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.skipif(grid._steps is None, reason="not compiled")
def test_arrays_that_do_not_fit_are_no_problem():
    K, a = kernel((7, 9), 0.05), measures(0, 2, (7, 9), 0.5)
    with pytest.raises(ValueError, match="do not fit"):
        sinkhorn_on_grid_each(K, a, a[:, :-1], None, tol=1e-6, max_steps=500)
    with pytest.raises(ValueError, match="do not fit"):
        sinkhorn_on_grid_each(kernel((7, 8), 0.05), a, a, None, tol=1e-6, max_steps=500)


@pytest.mark.usefixtures("_by")
def test_bad_starts_are_replaced_and_good_ones_beside_them_kept():
    K, a, b = kernel((7, 9), 0.05), measures(0, 4, (7, 9), 0.5), measures(1, 4, (7, 9), 0.5)
    cold = sinkhorn_on_grid_each(K, a, b, None, tol=1e-6, max_steps=500)
    mixed = cold.f.copy()
    mixed[1:3] = 30 * np.random.default_rng(2).normal(size=(2, 63))
    found = sinkhorn_on_grid_each(K, a, b, mixed, tol=1e-6, max_steps=500)
    assert found.steps.tolist() == [0, cold.steps[1], cold.steps[2], 0]
    assert (cold.steps > 0).all()
    assert (found.error <= 1e-6).all()


@pytest.mark.usefixtures("_by")
def test_starts_beyond_floating_point_are_compared_in_logs():
    """A bad one is replaced, and the problem stays with the others; a good one goes on elsewhere."""
    K, a, b = kernel((40,), 1e-3), measures(0, 4, (40,), 0.0), measures(1, 4, (40,), 0.0)
    cold = sinkhorn_on_grid_each(K, a, b, None, tol=1e-6, max_steps=500)
    bad = cold.f.copy()
    bad[1] = np.linspace(-500, 400, 40)
    bad[2, 5] += 800
    found = sinkhorn_on_grid_each(K, a, b, bad, tol=1e-6, max_steps=500)
    assert found.steps.tolist() == [0, cold.steps[1], cold.steps[2], 0]
    for k in (1, 2):
        one = single.sinkhorn_on_axes(AxesProblem(K, a[k], b[k]), bad[k], tol=1e-6, max_steps=500)
        assert one is not None
        assert one.steps == cold.steps[k]


@pytest.mark.parametrize("sizes", SIZES)
def test_a_part_of_a_kernel_is_that_between_boxes(sizes):
    K, generator = kernel(sizes, 0.05), np.random.default_rng(0)
    rows = [slice(size // 4, size - 1) for size in sizes]
    columns = [slice(1, size // 2 + 1) for size in sizes]
    v = np.zeros(sizes)
    v[tuple(columns)] = generator.random([side.stop - side.start for side in columns])
    expected = K.times(v.reshape(-1)).reshape(sizes)[tuple(rows)]
    found = K.part(rows, columns).times(np.ascontiguousarray(v[tuple(columns)]).reshape(-1))
    np.testing.assert_allclose(found.reshape(expected.shape), expected)


@pytest.mark.usefixtures("_by")
@pytest.mark.parametrize("eps", [1e-2, 1e-3, 3e-4])
def test_potentials_are_right_far_from_all_mass(eps):
    """Where products underflow; in the log domain they are those of the dense problem."""
    n = 64
    K, x = kernel((n,), eps), np.arange(n)
    a, b = (np.exp(-0.5 * ((x - mean) / 3.0) ** 2) * (np.abs(x - mean) < 8) for mean in (20, 24))
    a, b = a / a.sum(), b / b.sum()
    one = single.sinkhorn_on_axes(AxesProblem(K, a, b), None, tol=1e-8, max_steps=5000)
    two = sinkhorn_on_grid_each(K, np.stack([a, a]), np.stack([b, b]), None, tol=1e-8, max_steps=5000)
    assert one is not None
    whole = dense(K, np.ones(n), np.ones(n)).C
    for f, g, error in ((one.f, one.g, one.error), (two.f[0], two.g[0], two.error[0])):
        assert np.isfinite(f).all()
        problem = dense(K, a, b)
        z = (f[a > 0] + np.log(a[a > 0]))[:, None] - whole[a > 0]
        best = -(z.max(0) + np.log(np.exp(z - z.max(0)).sum(0)))
        np.testing.assert_allclose(g, best, atol=1e-8)
        assert abs(np.abs(problem.best_plan(f[a > 0])[0].sum(1) - problem.a).sum() - error) <= 1e-10


@pytest.mark.usefixtures("_by")
def test_numbers_that_leave_floating_point_are_no_result():
    """Between distant atoms all products are lost: it is said, and nothing is made up."""
    K = kernel((50,), 1e-4)
    a, b = np.eye(50)[:1], np.eye(50)[-1:]
    assert single.sinkhorn_on_axes(AxesProblem(K, a[0], b[0]), None, tol=1e-6, max_steps=10) is None
    assert single.step_on_grid_each(K, a, b, np.zeros((1, 50))).lost.tolist() == [0]
    found = sinkhorn_on_grid_each(K, np.repeat(a, 3, 0), np.repeat(b, 3, 0), None, tol=1e-6, max_steps=10)
    assert np.isinf(found.error).all()
    assert (found.f == 0).all()


@pytest.mark.usefixtures("_by")
@pytest.mark.parametrize("eps", [2e-3, 1.5e-3, 1.3e-3, 1.2e-3])
def test_neither_lost_nor_endless_numbers_come_out(eps):
    """Two atoms far from each other: on the empty ones there are the largest and the smallest sums."""
    K, a, b = AxesKernel([np.zeros((1, 1)), np.array([[0, 1], [1, 0]]) / eps]), np.eye(2)[0], np.eye(2)[1]
    found = single.sinkhorn_on_axes(AxesProblem(K, a, b), None, tol=1e-6, max_steps=10)
    if found is not None:
        np.testing.assert_allclose([found.f, found.g], [[0, -1 / eps], [0, 1 / eps]], atol=1e-9)
    two = sinkhorn_on_grid_each(K, np.stack([a, a]), np.stack([b, b]), None, tol=1e-6, max_steps=10)
    assert (two.error <= 1e-6).all() == (found is not None)
    step = single.step_on_grid_each(K, a[None], b[None], np.zeros((1, 2)))
    assert len(step.lost) or np.allclose(step.f, [[0, -1 / eps]], atol=1e-9)


@pytest.mark.usefixtures("_by")
@pytest.mark.parametrize("eps", [0.1, 1e-3])
def test_a_step_is_two_transforms(eps):
    K, sizes = kernel((6, 5), eps), (6, 5)
    a, b = measures(0, 3, sizes, 0.5), measures(1, 3, sizes, 0.5)
    f = 0.1 * np.random.default_rng(1).normal(size=(3, 30)) / eps**0.5
    found = single.step_on_grid_each(K, a, b, f)
    assert len(found.lost) == 0
    C = dense(K, np.ones(30), np.ones(30)).C
    for k, (i, j) in enumerate(zip(a > 0, b > 0, strict=True)):
        problem = DenseProblem(C[i][:, j], a[k, i], b[k, j])
        expected = DenseProblem(C[:, j], np.ones(30), b[k, j]).best_f(problem.best_g(f[k, i]))
        np.testing.assert_allclose(found.f[k], expected, rtol=1e-13, atol=1e-13)
        P = problem.best_plan(f[k, i])[0]
        np.testing.assert_allclose(found.missing[k, i], problem.a - P.sum(1), atol=1e-12)
        assert (found.missing[k, ~i] == 0).all()


@pytest.mark.usefixtures("_by")
def test_kernels_at_many_temperatures_are_those_at_each():
    """Some fit into floating point and some do not; the steps are the same, and lead to the same."""
    sizes, eps = (6, 5), np.array([0.1, 1e-3, 2e-3, 1.0])
    costs = [cost * 0.05 for cost in kernel(sizes, 0.05)._costs]
    K, alone = AxesKernels(costs, eps), [AxesKernel([cost / one for cost in costs]) for one in eps]
    a, b = measures(0, 4, sizes, 0.5), measures(1, 4, sizes, 0.5)
    f = np.random.default_rng(1).normal(size=(4, 30))
    together = sinkhorn_on_grid_each(K, a, b, f, tol=1e-6, max_steps=500)
    stepped = single.step_on_grid_each(K, a, b, f)
    for k, one in enumerate(alone):
        row = slice(k, k + 1)
        for x, y in zip(K[k].flat, one.flat, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-12)
        found = sinkhorn_on_grid_each(one, a[row], b[row], f[row], tol=1e-6, max_steps=500)
        assert found.steps[0] == together.steps[k]
        np.testing.assert_allclose(together.f[k], found.f[0], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(stepped.f[k], single.step_on_grid_each(one, a[row], b[row], f[row]).f[0], 1e-12)


def test_as_many_kernels_as_problems():
    K, a = AxesKernels(kernel((6, 5), 1.0)._costs, np.array([0.1, 1.0])), measures(0, 3, (6, 5), 0.5)
    if single.COMPILED:
        with pytest.raises(ValueError, match="sizes of the arrays"):
            sinkhorn_on_grid_each(K, a, a, None, tol=1e-6, max_steps=500)


@pytest.mark.usefixtures("_by")
@pytest.mark.parametrize("fall", [100.0, 800.0, 5000.0])
def test_a_step_from_potentials_that_fall_beyond_floating_point(fall):
    """What is far below counts for nothing: not for the sums, and not for the marginal that is missing."""
    K, b = kernel((30,), 0.1), measures(1, 1, (30,), 0.2)
    a, f = np.full((1, 30), 1 / 30), np.linspace(0, -fall, 30)[None]
    found = single.step_on_grid_each(K, a, b, f)
    assert len(found.lost) == 0
    problem = dense(K, a[0], np.ones(30))
    target = DenseProblem(problem.C[:, b[0] > 0], a[0], b[0, b[0] > 0])
    np.testing.assert_allclose(found.f[0], target.best_f(target.best_g(f[0])), rtol=1e-12)
    np.testing.assert_allclose(found.missing[0], a[0] - target.best_plan(f[0])[0].sum(1), atol=1e-14)


def test_scalings_that_run_away_are_no_result(monkeypatch: pytest.MonkeyPatch):
    """Also where the kernel fits: between tiny masses acceleration has led to infinite potentials."""
    K, a, b = kernel((24,), 0.1), measures(0, 3, (24,), 0.5), measures(1, 3, (24,), 0.5)
    assert K.fits
    monkeypatch.setattr(Anderson, "next", lambda self, x, residual, error: x + 800 * np.sign(residual))
    assert single.sinkhorn_on_axes(AxesProblem(K, a[0], b[0]), None, tol=1e-6, max_steps=50) is None


@pytest.mark.usefixtures("_by")
def test_tiny_mass_that_is_nearly_lost_has_a_finite_potential():
    """Nothing may arrive from a billionth of the mass, which is no error to speak of, but f is to be a number."""
    K = kernel((24,), 1e-3)
    a, b = measures(0, 1, (24,), 0.5), measures(1, 1, (24,), 0.2)
    a[0, 0] = 1e-9
    a /= a.sum()
    f = sinkhorn_on_grid_each(K, a, b, None, tol=1e-6, max_steps=2000).f
    f[0, 0] -= 900
    found = sinkhorn_on_grid_each(K, a, b, f, tol=1e-6, max_steps=2000)
    assert found.steps == 0
    assert found.error <= 1e-6
    assert np.isfinite(found.f).all()
    assert np.isfinite(found.g).all()
