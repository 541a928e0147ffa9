"""Problems as arrays, and what plans follow from potentials, in the log domain on the whole matrix. No torch."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from metaot import core

Array = np.ndarray


@dataclass(frozen=True)
class Space:
    """Costs as the core takes them, and as a matrix, n m or batch n m."""

    costs: core.Costs
    C: Array


def axes(*sizes: tuple[int, int]) -> Callable[[np.random.Generator, int], Space]:
    """Return a maker of grids with these numbers of source and target points along each axis."""
    return lambda generator, batch: on_axes(*(generator.random(size) for size in sizes))


def on_axes(*costs: Array) -> Space:
    """Return the grid with these costs along its axes."""
    C = np.zeros((1, 1))
    for cost in costs:
        C = (C[:, None, :, None] + cost[None, :, None, :]).reshape(len(C) * len(cost), -1)
    return Space(core.Costs.on_axes(costs), C)


def matrices(n: int, m: int, *, each: bool) -> Callable[[np.random.Generator, int], Space]:
    """Return a maker of matrices, one for all problems or one for each."""

    def make(generator: np.random.Generator, batch: int) -> Space:
        C = generator.random((batch, n, m) if each else (n, m))
        return Space(core.Costs.of_matrix(C), C)

    return make


def clouds(cost: str, dim: int, *, each: bool = False) -> Callable[[np.random.Generator, int], Space]:
    """Return a maker of clouds: the first points coincide, the last ones are opposite."""

    def make(generator: np.random.Generator, batch: int) -> Space:
        x, y = (generator.normal(size=((batch,) if each else ()) + (n, dim)) / (2 * dim) ** 0.5 for n in (12, 17))
        y[..., 0, :], y[..., -1, :] = x[..., 0, :], -x[..., -1, :]
        if cost == "sphere":
            x, y = (z / np.linalg.norm(z, axis=-1, keepdims=True) for z in (x, y))
        return between(x, y, cost)

    return make


def between(x: Array, y: Array, cost: str) -> Space:
    """Return the clouds, with the matrix of costs from differences of points."""
    C = ((x[..., :, None, :] - y[..., None, :, :]) ** 2).sum(-1)
    if cost == "sphere":
        C = 2 * np.arctan2(np.sqrt(C), np.sqrt(((x[..., :, None, :] + y[..., None, :, :]) ** 2).sum(-1)))
    elif cost == "euclidean":
        C = np.sqrt(C)
    return Space(core.Costs.between_points(x, y, cost), C)


CLOUDS = {f"{cost}, {d}-D": clouds(cost, d) for cost in core.POINT_COSTS for d in (1, 2, 12, 64)}
SPACES: dict[str, Callable[[np.random.Generator, int], Space]] = {
    "one axis": axes((13, 13)),
    "one rectangular axis": axes((9, 21)),
    "two axes": axes((5, 5), (4, 4)),
    "two rectangular axes": axes((3, 8), (7, 2)),
    "three axes": axes((3, 3), (2, 2), (4, 4)),
    "three rectangular axes": axes((3, 1), (2, 5), (2, 3)),
    "long axes": axes((33, 9), (17, 40)),
    "matrix": matrices(14, 11, each=False),
    "matrices": matrices(6, 19, each=True),
    "clouds": clouds("sqeuclidean", 3, each=True),
    **CLOUDS,
}


def weights(generator: np.random.Generator, *shape: int, empty: float = 0.3) -> Array:
    """Return weights of which a part is zero."""
    w = generator.random(shape) * (generator.random(shape) > empty)
    w[..., -1] += 0.1
    return w / w.sum(-1, keepdims=True)


@dataclass(frozen=True)
class Problems:
    """A batch: costs, weights, temperatures."""

    space: Space
    a: Array
    b: Array
    eps: Array

    def solve(
        self, method: str, start: Array | None = None, *, tol: float = 1e-9, max_steps: int = 5000, threads=1
    ):
        """Run one of `METHODS`."""
        back_end = core.Compiled(self.space.costs, self.a, self.b, self.eps, threads=threads)
        limits = core.Limits(tol, max_steps)
        if method == "newton":
            return back_end.newton(core.EVERY, start, limits)
        settings = {"accelerated": method != "plain", "on_support": method == "by matrix"}
        return back_end.sinkhorn(core.EVERY, start, limits, **settings)

    def exponents(self, f: Array, g: Array) -> Array:
        """Return (f + g - C)/eps."""
        return (f[:, :, None] + g[:, None, :] - self.space.C) / self.eps[:, None, None]

    def plans(self, f: Array, g: Array) -> Array:
        """Return the plans, in which atoms without mass have no part."""
        weights = self.a[:, :, None] * self.b[:, None, :]
        return weights * np.exp(np.where(weights > 0, self.exponents(f, g), -np.inf))

    def true_error(self, f: Array, g: Array) -> Array:
        """Return the L1 error of both marginals."""
        P = self.plans(f, g)
        return np.abs(P.sum(2) - self.a).sum(1) + np.abs(P.sum(1) - self.b).sum(1)

    def best_g(self, f: Array) -> Array:
        """Return -eps log sum_i a_i exp((f_i - C_ij)/eps)."""
        with np.errstate(divide="ignore"):
            z = self.exponents(f, np.zeros_like(self.b)) + np.log(self.a)[:, :, None]
        top = z.max(1, keepdims=True)
        return -self.eps[:, None] * (top[:, 0] + np.log(np.exp(z - top).sum(1)))

    def best_f(self, g: Array) -> Array:
        """Return the best f for g."""
        C = self.space.C
        mirrored = Problems(Space(self.space.costs, np.swapaxes(C, -1, -2)), self.b, self.a, self.eps)
        return mirrored.best_g(g)

    def value(self, f: Array, g: Array) -> Array:
        """Return <f, a> + <g, b>."""
        return (f * self.a).sum(1) + (g * self.b).sum(1)


METHODS = ["accelerated", "plain", "by matrix", "newton"]


def problems(kind: str | Callable, batch: int = 3, eps: float = 0.1, seed: int = 0) -> Problems:
    """Return random problems on a space, each one at a lower temperature than the one before."""
    generator = np.random.default_rng(seed)
    space = (SPACES[kind] if isinstance(kind, str) else kind)(generator, batch)
    n, m = space.C.shape[-2:]
    return Problems(
        space, weights(generator, batch, n), weights(generator, batch, m), eps * 0.5 ** np.arange(batch)
    )


def of_matrix(C, a, b, eps: float) -> Problems:
    """Return one problem with a matrix."""
    C, a, b = (np.asarray(part, dtype=float) for part in (C, a, b))
    return Problems(Space(core.Costs.of_matrix(C), C), a[None], b[None], np.array([float(eps)]))
