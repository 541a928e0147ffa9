"""The primitives of the compiled core: costs, steps, potentials and solutions are those of the whole matrix."""

import numpy as np
import pytest
from core_problems import METHODS, SPACES, Problems, axes, between, of_matrix, on_axes, problems, weights
from numpy.testing import assert_allclose

from metaot import core

pytestmark = pytest.mark.skipif(not core.COMPILED, reason="not compiled")
every_space = pytest.mark.parametrize("name", SPACES)
every_method = pytest.mark.parametrize("method", METHODS)
grids = pytest.mark.parametrize("name", [name for name in SPACES if "two" in name or "three" in name])


def assert_right(p: Problems, found: core.Result, tol: float) -> None:
    """Assert that potentials are finite, that the error is at most `tol`, and that it is true."""
    assert np.isfinite(found.f).all()
    assert np.isfinite(found.g).all()
    assert (found.error <= tol).all()
    assert (p.true_error(found.f, found.g) <= tol + 1e-11).all()


@every_space
@pytest.mark.parametrize("method", ["by matrix", "newton"])
def test_costs_are_right_to_rounding(name, method):
    """Where all mass of one side is on one atom, the other side's potential is its row of costs."""
    p = problems(name, batch=2)
    for i in (0, p.a.shape[1] - 1):
        alone, spread = np.eye(p.a.shape[1])[[i, i]], np.ones_like(p.b) / p.b.shape[1]
        found = Problems(p.space, alone, spread, p.eps).solve(method, max_steps=0)
        expected = np.broadcast_to(p.space.C, (2, *p.space.C.shape[-2:]))[:, i]
        assert_allclose(found.f[:, i, None] + found.g, expected, rtol=1e-14, atol=1e-14)
    for j in (0, p.b.shape[1] - 1):
        alone, spread = np.eye(p.b.shape[1])[[j, j]], np.ones_like(p.a) / p.a.shape[1]
        found = Problems(p.space, spread, alone, p.eps).solve(method, tol=1e-300, max_steps=1)
        expected = np.broadcast_to(p.space.C, (2, *p.space.C.shape[-2:]))[:, :, j]
        assert_allclose(found.f + found.g[:, j, None], expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dim", [2, 12, 64])
@pytest.mark.parametrize(
    ("cost", "small", "opposite", "beside"),
    [("sqeuclidean", 1e-18, 4, 4), ("euclidean", 1e-9, 2, 2), ("sphere", 1e-9, np.pi, np.pi - 1e-9)],
)
def test_costs_between_points_do_not_cancel(dim, cost, small, opposite, beside):
    """Unit vectors that coincide, are very near each other, opposite, and nearly opposite."""
    x, across = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, 2)))[0].T
    y = np.stack([x, x + 1e-9 * across, -x, -x + 1e-9 * across])
    a, b, eps = np.ones((1, 1)), np.full((1, 4), 0.25), np.array([0.1])
    one = core.Compiled(core.Costs.between_points(x[None], y, cost), a, b, eps)
    found = one.sinkhorn(core.EVERY, None, core.Limits(1e-9, 0))
    costs = found.f[0, 0] + found.g[0]
    assert_allclose(costs[:2], [0, small], rtol=1e-6, atol=1e-16)
    assert_allclose(costs[2:], [opposite, beside], rtol=1e-15)


@every_space
@every_method
@pytest.mark.parametrize("eps", [1.0, 0.05])
def test_solutions_are_right_on_all_atoms(name, method, eps):
    p = problems(name, eps=eps)
    found = p.solve(method)
    assert_right(p, found, 1e-9)
    assert (found.steps > 0).all()
    assert_allclose(found.g, p.best_g(found.f), atol=1e-9)
    assert_allclose(found.f[p.a == 0], p.best_f(found.g)[p.a == 0], atol=1e-9)
    assert_allclose(found.error, p.true_error(found.f, found.g), atol=1e-11)


@pytest.mark.parametrize("name", ["two axes", "two rectangular axes", "matrix", "sphere, 12-D"])
def test_a_plain_step_is_the_best_f_for_the_best_g(name):
    p = problems(name)
    f = np.zeros_like(p.a)
    for steps in range(4):
        found = p.solve("plain", tol=1e-300, max_steps=steps)
        difference = np.where(p.a > 0, found.f - f, 0)
        assert_allclose(difference, np.where(p.a > 0, difference.max(1, keepdims=True), 0), atol=1e-12)
        f = p.best_f(p.best_g(f))


def test_acceleration_takes_a_fraction_of_the_steps():
    p = problems("sqeuclidean, 2-D", batch=8, eps=0.3)
    plain, accelerated = (p.solve(method, tol=1e-6).steps.sum() for method in ("plain", "accelerated"))
    assert accelerated < plain / 4


@every_method
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_start_says_nothing_on_atoms_without_mass_and_nothing_if_it_is_not_finite(method, value):
    p = problems("two axes")
    cold = p.solve(method)
    assert (p.solve(method, np.where(p.a > 0, cold.f, value)).steps == 0).all()
    assert_right(p, p.solve(method, np.where(p.a > 0, value, cold.f)), 1e-9)


@pytest.mark.parametrize("name", ["two axes", "matrix", "one axis"])
@every_method
def test_a_start_with_a_marginal_below_floating_point(name, method):
    """One atom far below the others: its row of the plan is zero in floating point, and its best f is finite."""
    p = problems(name)
    a = p.a + 0.1 / p.a.shape[1]
    a[:, 0] = 0.001
    p = Problems(p.space, a / a.sum(1, keepdims=True), p.b, p.eps)
    f = p.solve("newton").f
    f[:, 0] -= 2000 * p.eps
    found = p.solve(method, f)
    assert_right(p, found, 1e-9)
    assert (found.steps < 100).all() or method == "plain"


def test_a_start_is_compared_with_zeros_across_a_wide_kernel():
    """Absorbed about this start, a kernel underflows at zeros, whose first steps are the rivals of the start."""
    C = [[0.5798, 0.4967, 0.3295], [0.0898, 0.1175, 0.1968], [0.9249, 0.9997, 0.8767]]
    p = of_matrix(C, [0.3115, 0.2563, 0.4322], [0.3809, 0.3958, 0.2233], 1e-3)
    found = p.solve("by matrix", np.array([[0.3615, -0.0196, 0.8629]]), max_steps=0)
    assert found.error < 0.5
    assert p.solve("by matrix", max_steps=0).error > 1


@grids
@pytest.mark.parametrize("eps", [0.1, 1e-3])
def test_a_step_on_a_grid(name, eps):
    p = problems(name, eps=eps)
    f = 0.1 * np.random.default_rng(1).normal(size=p.a.shape)
    found = core.sinkhorn_step(p.space.costs, p.a, p.b, p.eps, f)
    g = p.best_g(f)
    assert_allclose(found.f, p.best_f(g), atol=1e-12)
    assert_allclose(found.missing, p.a - p.plans(f, g).sum(2), atol=1e-12)
    assert_allclose(found.value, p.value(f, g), atol=1e-12)
    best = core.best_potential(p.space.costs, p.a, p.b, p.eps, f)
    assert_allclose(best, g, atol=1e-12)


@pytest.mark.parametrize("sizes", [(40, 50), (20, 7, 11)])
@pytest.mark.parametrize("method", ["accelerated", "by matrix", "newton"])
def test_measures_in_boxes_on_a_large_grid(sizes, method):
    generator, count = np.random.default_rng(0), int(np.prod(sizes))
    costs = [np.subtract.outer(np.linspace(0, 1, size), np.linspace(0, 1, size)) ** 2 for size in sizes]
    masses = []
    for low, high in ((0.1, 0.5), (0.4, 0.9)):
        mass = np.zeros(sizes)
        part = tuple(slice(int(low * size), int(high * size)) for size in sizes)
        mass[part] = weights(generator, 1, mass[part].size)[0].reshape(mass[part].shape)
        masses.append(mass.reshape(1, count))
    p = Problems(on_axes(*costs), *masses, np.array([0.02]))
    found = p.solve(method, tol=1e-8)
    assert_right(p, found, 1e-8)
    assert_allclose(found.g, p.best_g(found.f), atol=1e-9)
    assert_allclose(found.f[p.a == 0], p.best_f(found.g)[p.a == 0], atol=1e-9)


@pytest.mark.parametrize("sizes", [(1, 1), (2, 1), (8, 16), (9, 17), (33, 2), (2, 3, 2, 3)])
def test_sizes_around_those_of_blocks(sizes):
    p = problems(axes(*((size, size) for size in sizes)), batch=2)
    for method in ("accelerated", "newton"):
        assert_right(p, p.solve(method), 1e-9)


@pytest.mark.parametrize(
    ("cost", "dim", "eps", "far"),
    [
        ("sqeuclidean", 2, 0.01, False),
        ("euclidean", 2, 0.01, True),
        pytest.param("sphere", 3, 1.0, False, marks=pytest.mark.slow),
        ("sqeuclidean", 2, 3e-4, True),
        pytest.param("euclidean", 12, 0.1, False, marks=pytest.mark.slow),
    ],
)
def test_clouds_of_which_no_matrix_is_made(cost, dim, eps, far):
    """Blocks far from each other are left out; from zeros, and from a start far off."""
    generator, (n, m) = np.random.default_rng(dim), (2300, 1900)
    x, y = generator.random((n, dim)) - 0.3, generator.random((m, dim)) - 0.3
    if cost == "sphere":
        x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    a, b = weights(generator, 1, n, empty=0.02), weights(generator, 1, m, empty=0.01)
    p, empty = Problems(between(x, y, cost), a, b, np.array([eps])), a[0] == 0
    without_mass = Problems(between(x[empty], y, cost), a[:, empty], b, p.eps)
    f = 1000 * eps * generator.normal(size=a.shape) if far else None
    found = p.solve("by matrix", f, tol=1e-6, max_steps=3)
    assert_allclose(found.error, p.true_error(found.f, found.g), atol=1e-7)
    assert_allclose(found.g, p.best_g(found.f), atol=1e-6 * eps)
    assert_allclose(found.f[:, empty], without_mass.best_f(found.g), atol=1e-6 * eps)


@pytest.mark.parametrize("height", [40, -40, 3000])
def test_sums_that_change_much_from_point_to_point(height):
    """A start that is compared with zeros leaves sums that are far too high, or too low, for them."""
    generator, (n, m), eps = np.random.default_rng(0), (2300, 1900), 0.01
    x, y = generator.random((n, 2)), generator.random((m, 2))
    p = Problems(between(x, y, "sqeuclidean"), weights(generator, 1, n), weights(generator, 1, m), np.array([eps]))
    found = p.solve("by matrix", height * eps * np.sin(9 * x[None, :, 0]), tol=1e-6, max_steps=1)
    assert_allclose(found.error, p.true_error(found.f, found.g), rtol=1e-6)
    assert found.error < 1


@every_method
def test_atoms_that_weigh_next_to_nothing(method):
    C = np.random.default_rng(0).random((5, 6))
    a, b = np.array([0.5, 1e-300, 0.5, 0, 1e-25]), np.array([5e-324, 0.25, 0.5, 0.25, 1e-21, 0])
    p = of_matrix(C, a, b, 0.1)
    found = p.solve(method)
    assert_right(p, found, 1e-9)
    P = p.plans(found.f, found.g)[0]
    assert (P[[1, 4]].sum(1) <= 1e-20).all()
    assert_allclose(P[:, 4].sum(), b[4], rtol=1e-6)


@pytest.mark.parametrize("method", ["accelerated", "by matrix", "newton"])
def test_forbidden_pairs_along_an_axis(method):
    """Mass may not go up one axis, and has a bounded way along the other one."""
    generator, n = np.random.default_rng(0), 5
    up = np.where(np.tri(n), generator.random((n, n)), np.inf)
    along = np.where(np.abs(np.subtract.outer(np.arange(4), np.arange(4))) <= 2, generator.random((4, 4)), np.inf)
    space = on_axes(up, along)
    P = generator.random(space.C.shape) * np.isfinite(space.C)
    P[:3], P[:, -2:] = 0, 0
    P /= P.sum()
    p = Problems(space, P.sum(1)[None], P.sum(0)[None], np.array([0.1]))
    for f in (None, generator.normal(size=(1, 20))):
        assert_right(p, p.solve(method, f, max_steps=20_000), 1e-9)


@every_method
@pytest.mark.parametrize(
    "C",
    [[[np.inf, np.inf], [0.1, 0.2]], [[0.1, np.inf], [0.2, np.inf]], [[np.inf, np.inf], [np.inf, np.inf]]],
    ids=["row", "column", "all"],
)
def test_without_a_finite_plan_there_is_no_result_and_no_loop(method, C):
    for start in (None, np.array([[0.3, -0.2]])):
        found = of_matrix(C, [0.5, 0.5], [0.5, 0.5], 0.1).solve(method, start, max_steps=10**6)
        assert found.error >= 0.5
        assert np.isfinite(found.f).all()
        assert np.isfinite(found.g).all()
        assert (found.steps < 100).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("eps", [1e-1, 1e-2, 1e-3])
def test_newton_is_quick_and_never_lowers_the_dual_value(seed, eps):
    """On the truncated plan, whose entries are chosen anew on the way."""
    generator = np.random.default_rng(seed)
    x, y = generator.random((12, 2)), generator.random((400, 2))
    a, b = weights(generator, 1, 12, empty=0), weights(generator, 1, 400, empty=0)
    p = Problems(between(x, y, "euclidean"), a, b, np.array([eps]))
    found = p.solve("newton", tol=1e-11, max_steps=100)
    assert_right(p, found, 1e-11)
    assert found.steps <= {1e-1: 6, 1e-2: 12, 1e-3: 25}[eps]
    values = [p.value(*p.solve("newton", tol=1e-11, max_steps=k)[:2])[0] for k in range(int(found.steps[0]) + 1)]
    assert (np.diff(values) >= -1e-13).all()


@pytest.mark.parametrize(("n", "m", "p", "q"), [(1, 1, 1, 1), (9, 130, 4, 3), (65, 257, 11, 10)])
def test_sums_under_exponentials_are_those_of_the_matrix(n, m, p, q):
    x, y, v = np.random.default_rng(0).normal(size=(3, 2, max(n, m), max(p, q)))
    x, y, v = x[:, :n, :p], y[:, :m, :p], v[:, :m, :q]
    x[0, 0, 0], y[:, :, 0] = -1e30, 1.0  # the logarithm of nothing
    expected = np.exp(x @ y.swapaxes(-1, -2)) @ v
    for threads in (1, 3):
        assert np.allclose(core.exponential_sums(x, y, v, threads=threads), expected, rtol=1e-12, atol=1e-12)
    assert not expected[0, 0].any()
