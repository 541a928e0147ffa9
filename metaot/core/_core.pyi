"""Compiled code; `compiled.py` packs the arrays.

All are C-contiguous float64, but for `steps`, int64, and where another dtype is named.
"""

from numpy import ndarray

def assign_points(
    cost: int, x: ndarray, y: ndarray, eps: ndarray, prices: ndarray, columns: ndarray, exact: bool, quick: bool, /
) -> tuple[float, float]:
    """Put a column for each row of the costs between points x and y, n d each, into `columns`, int64.

    `cost` is the place of its name in `metaot.core.POINT_COSTS`. By one auction for each of the positive `eps`,
    from `prices` of columns to those that prove the second number returned: a lower bound of the sum of costs of
    all assignments. The first one is that sum for `columns`. `exact` asks for the best assignment; `quick` lets
    rows that lose their best columns share what is left, without an auction. Raises as `solve_each`.
    """

def assign_rows(
    costs: ndarray | tuple[ndarray, ...], eps: ndarray, prices: ndarray, columns: ndarray, exact: bool, /
) -> float:
    """Put a column for each row of costs, n n in float32 or float64, into `columns`, int64.

    Or of the squared distances between points x and y, n d in float64, with prices from a potential f of x. By one
    auction for each of the `eps`, which must not be negative, from `prices` of columns to those that prove what is
    returned: a lower bound of the sum of costs of all assignments. `exact` asks for the best assignment. Raises as
    `solve_each`.
    """

def average_each(
    axes: tuple[ndarray, ...],
    problems: tuple[ndarray, ndarray, ndarray, ndarray, ndarray, ndarray],
    results: tuple[ndarray, ndarray, ndarray, ndarray, ndarray, ndarray],
    limits: tuple[float, int, bool],
    threads: int,
    /,
) -> None:
    """Fill `results` (f, g, log d, log alpha, errors, steps) of barycenters on the axes of one grid.

    `problems` are (measures, weights, eps, f, log d, settled): batch k n, batch k, batch, batch k n, batch n and
    batch; `limits` is (tol, max_steps, debiased). All potentials are in units of eps. A row of `errors`, batch 3,
    has the error of the plans, that of the self-plan, and whether log d has settled.
    Raises as `solve_each`.
    """

def learnt_potentials(
    C: ndarray,
    a: ndarray,
    b: ndarray,
    eps: ndarray,
    settings: ndarray,
    weights: ndarray,
    temperatures: ndarray,
    f: ndarray,
    spreads: ndarray,
    threads: int,
    /,
) -> None:
    """Fill f and by how many eps costs differ, by a `metaot.models.costs.CostNetwork`, for C n m or batch n m.

    `settings`, int64, are width, hidden, cells, rows, the number of levels, their targets and their rounds;
    `weights`, float32, those of one round after another; `temperatures`, float32, cooling and then warmth.
    The spread is -1 where equal weights or infinite costs need the longer way in torch. Raises as `solve_each`.
    """

def solve_each(
    method: int,
    costs: tuple[int, int, tuple[ndarray, ...], tuple[ndarray, ...] | None],
    problems: tuple[ndarray, ndarray, ndarray, ndarray | None, ndarray | None],
    results: tuple[ndarray, ndarray, ndarray, ndarray],
    limits: tuple[float, int, bool],
    threads: int,
    /,
) -> None:
    """Fill `results` (f, g, error, steps) of `problems` (a, b, eps, start, prices), a row for each.

    `costs` is the kind (0 axes, 1 a matrix, 2 clouds), the cost between points (0 squared distance, 1 distance,
    2 angle), the arrays, and for method 0 coarser grids or None: the strides of nodes along each axis, int64, a
    row for each of at most 12, the finest first, and the coordinates along all axes, strictly monotone. `limits`
    is (tol, max_steps, accelerated). The method is 0 for Sinkhorn on the axes of a grid, 1 for Sinkhorn on a
    matrix, 2 for Newton, 3 for one Sinkhorn step on a grid (g is then a less the marginal of the start's plan, and
    `error` its dual value), 4 for the best g for the start, 5 for f_i = min_j C_ij - b_j, 6 and 7 for symmetric
    Sinkhorn on axes and on a matrix: b is a, and f shared by both sides, with the best potential for it in g.
    A row of `prices` is the kind (0 none, 1 KL, 2 TV) and rho, in the units of the cost, of the source's marginal,
    and of the target's; methods 0, 1, 6 and 7 take it, the last two with the source's for both sides.
    Raises TypeError for a wrong dtype, ValueError for sizes that do not fit and arrays that are not contiguous.
    """

def solve_together(calls: tuple[tuple[object, ...], ...], threads: int, /) -> None:
    """Solve the problems of up to 8 calls, tuples of the arguments of `solve_each` without `threads`."""

def exponential_sums(x: ndarray, y: ndarray, v: ndarray, out: ndarray, threads: int, /) -> None:
    """Put exp(x y^T) v into `out`, n q, for x n p, y m p and v m q."""

def multiply_rows(x: ndarray, y: ndarray, out: ndarray, factor: float, threads: int, /) -> float:
    """Put factor x y^T into `out`, n m, from 16 bits of x, n d, and y, m d; all float32.

    Returns the largest error of the mean of its entries over pairs that have each row of x and of y as often as
    any other. Raises as `solve_each`.
    """

def has_quick_products() -> bool:
    """Return whether `multiply_rows` is faster on this processor than products of floats."""

def sort_rows(values: ndarray, order: ndarray | None, threads: int, /) -> None:
    """Sort the rows of `values`, float32 or float64, where they are; fill `order`, int64, with where numbers were.

    Equal numbers keep their order. Raises as `solve_each`.
    """

def solve_pairs(
    by_axes: bool,
    costs: tuple[int, int, tuple[ndarray, ...]],
    problems: tuple[ndarray, ndarray, ndarray | None, ndarray],
    results: tuple[ndarray | None, ndarray | None, ndarray, ndarray, ndarray],
    limits: tuple[float, int, bool],
    threads: int,
    /,
) -> None:
    """Fill `results` (f, g, value, error, steps) by Sinkhorn on axes, or on matrices, for pairs of measures.

    `problems` are (measures, eps, start, pairs): eps, a start and two rows of the measures, int64, for each pair.
    Potentials, if they are wanted, are those of atoms with mass, among zeros.
    Costs with a batch have one for each measure: of a pair the source's, and of clouds the target's second one.
    """

def sum_clouds(
    point_cost: int,
    x: ndarray,
    y: ndarray,
    h: ndarray,
    values: ndarray | None,
    eps: float,
    results: tuple[ndarray | None, ndarray | None, ndarray | None],
    threads: int,
    /,
) -> None:
    """Fill `results` (softmin, mean costs, means), n, n and n k, between points x, n d, and y, m d.

    The costs are named as in `solve_each`; the weights of an x_i are those of exp((h_j - C_ij)/eps), normalised.
    `values`, m k, are those whose means are wanted; what is None is left out. With eps = 0 there is no mean, and
    the minimum of C_ij - h_j in place of the softmin. h has neither NaN nor +inf. Raises as `solve_each`.
    """
