"""What tests share: one space of each kind, random problems on them, and ways to compare."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from metaot.geometry import Dense, Geometry, Grid, Points
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.solvers import Newton, Sinkhorn, Solver

Batch = tuple[int, ...]
BATCHES: list[Batch] = [(), (3,), (2, 3)]

SPACES: dict[str, Callable[[Batch], Geometry]] = {
    "dense": lambda batch: Dense(torch.rand(7, 5)),
    "dense, one each": lambda batch: Dense(torch.rand(*batch, 4, 6)),
    "points": lambda batch: Points(torch.rand(7, 2), torch.rand(5, 2)),
    "points, one each": lambda batch: Points(torch.rand(*batch, 4, 2), torch.rand(*batch, 6, 2)),
    "points, euclidean": lambda batch: Points(torch.rand(7, 3), torch.rand(5, 3), "euclidean"),
    "points, sphere": lambda batch: Points(on_sphere(7), on_sphere(5), "sphere"),
    "points, callable": lambda batch: Points(torch.rand(7, 2), torch.rand(5, 2), drift),
    "grid": lambda batch: Grid(4, 3),
    "grid, 1-D": lambda batch: Grid(torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])),
    "grid, 3-D l1": lambda batch: Grid(2, 3, 2, cost="l1"),
    "grid, callable": lambda batch: Grid(3, 4, cost=skewed),
}
"""Spaces, with costs between 0 and pi, for problems of this batch; a new geometry joins here."""

SOLVERS: dict[str, Solver] = {
    "sinkhorn": Sinkhorn(),
    "sinkhorn, plain": Sinkhorn(accelerated=False),
    "newton": Newton(),
}
"""Solvers of discrete problems; a new one joins here."""

solvers = st.sampled_from(list(SOLVERS.values()))
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
every_batch = pytest.mark.parametrize("batch", BATCHES, ids=str)
both_back_ends = pytest.mark.usefixtures("back_end")
every_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def on_sphere(*shape: int) -> Tensor:
    return normalize(torch.randn(*shape, 3), dim=-1)


def drift(x: Tensor, y: Tensor) -> Tensor:
    """Return a cost that is not symmetric."""
    return (y[..., None, :, :] - x[..., :, None, :] ** 2).square().sum(-1)


def skewed(s: Tensor, t: Tensor) -> Tensor:
    """Return a cost of an axis that is not symmetric."""
    return (t - 0.5 * s).square()


def matrix(geometry: Geometry) -> Tensor:
    """Return the whole of C."""
    return geometry.cost_rows(slice(None))


def weights(*shape: int) -> Tensor:
    """Random weights; the first and about a third of the others zero."""
    w = torch.rand(shape) * (torch.rand(shape) > 1 / 3)
    w[..., 0] = 0
    w[..., -1] += 0.1
    return w / w.sum(-1, keepdim=True)


def temperatures(batch: Batch, highest: float = 1.0, lowest: float = 1e-2) -> Tensor:
    """One eps for each instance."""
    count = torch.Size(batch).numel()
    return highest * torch.linspace(0, 1, count).reshape(batch).mul(-torch.tensor(highest / lowest).log()).exp()


def random_problem(
    space: Callable[[Batch], Geometry] = SPACES["dense"],
    batch: Batch = (),
    eps: float | Tensor = 0.1,
    seed: int = 0,
) -> Problem:
    torch.default_generator.manual_seed(seed)
    geometry = space(batch)
    n, m = geometry.shape
    return Problem(weights(*batch, n), weights(*batch, m), geometry, eps)


def some_potentials(problem: Problem, size: float = 0.1) -> DualPotentials:
    """Return potentials that solve nothing."""
    return DualPotentials(size * torch.randn_like(problem.a), size * torch.randn_like(problem.b))


def given_problems(*, lowest_eps: float = 1e-2, examples: int = 30, **others: st.SearchStrategy) -> Callable:
    """Give a test many problems: on every kind of space, in every batch shape, with weights of zero."""

    def decorate(test: Callable) -> Callable:
        @settings(max_examples=examples)
        @given(
            name=st.sampled_from(list(SPACES)),
            batch=st.sampled_from(BATCHES),
            eps=st.floats(lowest_eps, 10.0),
            seed=st.integers(0, 2**32 - 1),
            **others,
        )
        def with_problems(name: str, batch: Batch, eps: float, seed: int, **drawn: object) -> None:
            test(random_problem(SPACES[name], batch, eps, seed), **drawn)

        with_problems.__name__ = test.__name__
        with_problems.__doc__ = test.__doc__
        return with_problems

    return decorate


@contextmanager
def unchecked() -> Iterator[None]:
    """Without the shape checks that pytest adds, as users see it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def on_mass(problem: Problem, potentials: DualPotentials) -> DualPotentials:
    """Return potentials with zeros where there is no mass, of which solvers know nothing."""
    return DualPotentials(
        torch.where(problem.a > 0, potentials.f, 0.0), torch.where(problem.b > 0, potentials.g, 0.0)
    )


def assert_close(actual: Tensor, expected: Tensor | float, atol: float = 1e-10, rtol: float = 0.0) -> None:
    """Assert equality up to `atol`, whatever the dtypes."""
    expected = torch.as_tensor(expected).double()
    torch.testing.assert_close(actual.double(), expected.expand(actual.shape), atol=atol, rtol=rtol)
