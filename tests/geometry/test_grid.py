"""Grids: atoms, and sums and kernels against the whole matrix, also where exp(-C/eps) is mostly zero."""

import pickle

import pytest
import torch
from strategies import assert_close, matrix, temperatures, weights

from metaot.geometry import Dense, Grid
from metaot.potentials import c_transform
from metaot.problem import Problem

GRIDS = {
    "1-D": lambda: Grid(60),
    "one point": lambda: Grid(1, 7),
    "2-D": lambda: Grid(11, 9),
    "long": lambda: Grid(40, 3),
    "3-D": lambda: Grid(5, 4, 3),
    "uneven": lambda: Grid(torch.tensor([0.0, 0.001, 0.002, 0.4, 0.41, 1.0]), torch.rand(13)),
    "large": lambda: Grid(torch.linspace(-3, 5, 9), torch.linspace(0, 4, 6)),
    "l1 on one axis": lambda: Grid(12, 7, cost=("l1", "sqeuclidean")),
    "not symmetric": lambda: Grid(9, 6, cost=lambda s, t: (t - 0.5 * s).square()),
    "negative": lambda: Grid(9, 6, cost=lambda s, t: -3 * s * t - 2),
    "steps": lambda: Grid(30, 4, cost=lambda s, t: ((s - t).abs() > 0.5).to(s)),
}
EPS = [1.0, 3e-3, 1e-3, 1e-4, "one each"]
every_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
every_eps = pytest.mark.parametrize("eps", EPS)


def temperature(eps, batch):
    return temperatures((batch,), 1e-1, 1e-4) if eps == "one each" else eps


def near_solution(grid, batch, eps):
    """Return f + eps log a and g + eps log b after a few Sinkhorn steps."""
    n = grid.shape[0]
    problem = Problem(weights(batch, n), weights(batch, n), grid, eps)
    f = torch.zeros_like(problem.a)
    for _ in range(4):
        g = c_transform(problem, f)
        f = c_transform(problem.T, g)
    scale = torch.as_tensor(eps)[..., None]
    return f + scale * problem.a.log(), g + scale * problem.b.log()


def assert_product(actual, K, v, rtol):
    """Assert that it is K v, up to rounding of its terms."""
    assert actual.dtype == v.dtype
    v = v.double()
    bound = rtol * torch.einsum("bij,bj->bi", K, v.abs()) + 1e-290
    assert ((actual - torch.einsum("bij,bj->bi", K, v)).abs() <= bound).all()


@every_grid
@every_eps
@pytest.mark.parametrize(("batch", "dtype"), [(1, torch.float64), (4, torch.float64), (3, torch.float32)])
def test_a_kernel_is_its_matrix(grid, eps, batch, dtype):
    grid, eps = grid(), temperature(eps, batch)
    f, g = (h.to(dtype) for h in near_solution(grid, batch, eps))
    scale = torch.as_tensor(eps)[..., None, None].expand(batch, 1, 1)
    K = ((f.double()[:, :, None] + g.double()[:, None, :] - matrix(grid)) / scale).exp()
    kernel, v = grid.kernel(f, g, eps), torch.randn(batch, grid.shape[1]).to(dtype)
    v[:, 0] = 0
    rtol = 1e-10 if dtype == torch.float64 else 1e-6
    assert_product(kernel.times(v), K, v, rtol)
    assert_product(kernel.times(1e15 * v), K, 1e15 * v, rtol)
    assert_product(kernel.T.times(v), K.mT, v, rtol)


@pytest.mark.parametrize("name", ["1-D", "2-D", "3-D", "not symmetric"])
@pytest.mark.parametrize("eps", [3e-3, 1e-3, 1e-4, "one each"])
@pytest.mark.parametrize("index", [torch.tensor([2, 0, 3]), torch.tensor([False, True, False, True])], ids=str)
def test_a_part_of_a_kernel_is_the_kernel_of_the_part(name, eps, index):
    grid, eps = GRIDS[name](), temperature(eps, 4)
    f, g = near_solution(grid, 4, eps)
    v = torch.rand(4, grid.shape[1])
    kernel = grid.kernel(f, g, eps)
    before, whole, transposed = kernel[index], kernel.times(v), kernel.T.times(v)
    for part in (before, kernel[index], kernel.T[index].T):
        assert_close(part.times(v[index]), whole[index], 0, 1e-13)
        assert_close(part.T.times(v[index]), transposed[index], 0, 1e-13)
    last = torch.tensor([-1])
    assert_close(kernel[index][last].times(v[index][last]), whole[index][last], 0, 1e-13)


@every_grid
@every_eps
def test_sums_are_exact_whatever_the_potential(grid, eps):
    grid, eps = grid(), temperature(eps, 3)
    C, scale = matrix(grid), torch.as_tensor(eps)[..., None]
    for spread in (0.1, 3.0, 1e3):
        h = spread * torch.randn(3, grid.shape[1])
        h[:, ::3] = -torch.inf
        h[0, 1:] = -torch.inf
        h[0, 0] = 0
        exponents = (h[:, None, :] - C) / scale[..., None]
        size = h[h.isfinite()].abs().max() + C.abs().max()
        assert_close(grid.softmin(h, eps), -scale * exponents.logsumexp(-1), 1e-14 * float(size) + 1e-15)
        w, v = exponents.softmax(-1), torch.randn(*h.shape, 2)
        rounding = 1e-14 * float(size / scale.min()) + 1e-13
        assert_close(grid.mean(h, v, eps), w @ v, 10 * rounding)
        assert_close(grid.expected_cost(h, eps), (w * C).sum(-1), float(C.abs().max()) * 10 * rounding)


@pytest.mark.parametrize("sizes", [(9,), (6, 5), (4, 3, 3)], ids=str)
@pytest.mark.parametrize("eps", [3e-3, 2e-3, 1.56e-3, 1.5e-3, 1.46e-3, 1.44e-3, 1e-3])
def test_sums_are_exact_at_the_limits_of_plain_products(sizes, eps):
    grid = Grid(*sizes)
    h = torch.full((2, grid.shape[1]), -torch.inf)
    h[0, 0], h[1, 0], h[1, -1] = 0, -len(sizes) / 2, 0
    assert_close(grid.softmin(h, eps), ((matrix(grid) - h[:, None, :]) / -eps).logsumexp(-1) * -eps, 1e-14)
    f = grid.softmin(h, eps)
    K = ((f[:, :, None] + h[:, None, :] - matrix(grid)) / eps).exp()
    v = torch.rand(2, grid.shape[1])
    assert_product(grid.kernel(f, h, eps).times(v), K, v, 1e-11)
    assert_product(grid.kernel(f, h, eps).T.times(v), K.mT, v, 1e-11)


@every_eps
def test_without_mass_nothing_is_nan(eps):
    grid, eps = Grid(8, 5), temperature(eps, 2)
    empty, h = torch.full((2, 40), -torch.inf), torch.zeros(2, 40)
    h[1] = empty[1]
    assert grid.softmin(h, eps)[0].isfinite().all()
    assert (grid.softmin(h, eps)[1] == torch.inf).all()
    assert_close(grid.mean(empty, torch.ones(2, 40, 1), eps), 0.0, 0)
    assert_close(grid.expected_cost(empty, eps), 0.0, 0)
    for f, g in ((empty, h), (h, empty), (empty, empty)):
        kernel = grid.kernel(f, g, eps)
        for K in (kernel, kernel.T, kernel[torch.tensor([1])]):
            batch = 1 if K is not kernel and K is not kernel.T else 2
            assert_close(K.times(torch.full((batch, 40), 1e15)), 0.0, 0)


@every_eps
def test_nan_is_not_hidden(eps):
    grid, h = Grid(8, 5), torch.zeros(2, 40)
    h[1, 3] = torch.nan
    eps = temperature(eps, 2)
    for answer in (grid.softmin(h, eps), grid.mean(h, torch.ones(40, 1), eps)[..., 0], grid.expected_cost(h, eps)):
        assert answer[0].isfinite().all()
        assert answer[1].isnan().any()


def test_kernels_that_are_kept_are_of_this_eps():
    grid, h = Grid(6, 5), torch.rand(2, 30)
    eps = torch.tensor([0.1, 0.2])
    before = grid.softmin(h, eps)
    eps *= 2
    assert_close(grid.softmin(h, eps), Grid(6, 5).softmin(h, eps), 0)
    for other in (0.1, 0.2, 0.3, 0.4, 0.5, 0.1):
        assert_close(grid.softmin(h, other), Grid(6, 5).softmin(h, other), 0)
    assert_close(pickle.loads(pickle.dumps(grid)).softmin(h, eps / 2), before, 0)


def test_atoms_are_in_the_order_of_a_flattened_image():
    assert [axis.tolist() for axis in Grid(3, 1).axes] == [[0, 0.5, 1], [0]]
    grid = Grid(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 10.0, 20.0]))
    assert grid.sizes == (2, 3)
    assert grid.shape == (6, 6)
    x, y = grid.points
    assert x.tolist() == [[0, 0], [0, 10], [0, 20], [1, 0], [1, 10], [1, 20]]
    assert_close(y, x, 0)
    assert_close(matrix(grid), (x[:, None] - y).square().sum(-1), 0)
    assert_close(matrix(Grid(*grid.axes, cost="l1")), (x[:, None] - y).abs().sum(-1), 0)
    both = Grid(*grid.axes, cost=("l1", lambda s, t: 2 * (t - s)))
    expected = (x[:, None, 0] - y[:, 0]).abs() + 2 * (y[:, 1] - x[:, None, 1])
    for space in (both, both.seen_from(x)):
        assert_close(matrix(space), expected, 0)
    assert_close(matrix(both.T), expected.T, 0)
    one_way = Grid(grid.axes[0], cost=lambda s, t: (t - s).clamp_min(0))
    assert matrix(one_way).tolist() == matrix(one_way.T).T.tolist() == [[0, 1], [0, 0]]


def test_grids_too_large_for_their_matrix():
    grid = Grid(150, 150)
    h = torch.rand(grid.shape[1])
    rows = slice(7777, 7779)
    dense = Dense(grid.cost_rows(rows))
    assert_close(grid.softmin(h, 1e-3)[rows], dense.softmin(h, 1e-3), 1e-12)
    assert_close(grid.hardmin(h)[rows], dense.hardmin(h), 1e-12)
    assert_close(grid.times_cost(h)[rows], dense.times_cost(h), 1e-9)


def test_an_empty_batch_has_an_empty_answer():
    nothing = torch.zeros(0, 12)
    for answer in (Grid(4, 3).softmin(nothing, 0.1), Grid(4, 3).hardmin(nothing), Grid(4, 3).times_cost(nothing)):
        assert answer.shape == (0, 12)
