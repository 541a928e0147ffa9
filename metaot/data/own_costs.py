"""The user's own problems with a cost each: a matrix for each, or parameters and a function of the user's."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.arrays import described
from metaot.data.base import ProblemSet
from metaot.geometry import Dense
from metaot.geometry.checks import require_costs, tensor
from metaot.problem import Problem

CostFunction = Callable[[np.ndarray], Any]
"""The parameters of a problem, p, float64 -> its cost matrix, n m."""
Matrices = Callable[[Int[Tensor, "k"]], Float[Tensor, "k n m"]]
"""The numbers of problems -> their cost matrices, float64."""


@final
@dataclass(frozen=True)
class StoredCosts(ProblemSet):
    """Given (a, b, C), drawn at random with replacement; the three stay together."""

    a: Float[Tensor, "count n"]
    b: Float[Tensor, "count m"]
    matrices: Matrices

    @property
    def geometry(self) -> None:
        return None

    def weights(self, generator: torch.Generator) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch m"]]:
        rows = self._rows(generator)
        return self.a[rows], self.b[rows]

    def sample(self, generator: torch.Generator) -> Problem:
        rows = self._rows(generator)
        geometry = Dense.trusted(self.matrices(rows))
        return Problem(self.a[rows], self.b[rows], geometry, self.temperatures(self.batch, generator))

    def _rows(self, generator: torch.Generator) -> Int[Tensor, "batch"]:
        return torch.randint(len(self.a), (self.batch,), generator=generator)


def stored_matrices(column: Any, places: Int[Tensor, "count"], shape: tuple[int, int]) -> Matrices:
    """Return what reads the matrices of some rows of a data set, whose column C holds them flat."""

    def read(rows: Int[Tensor, "k"]) -> Float[Tensor, "k n m"]:
        flat = column[places[rows].tolist()]["C"]
        return torch.as_tensor(flat).double().reshape(len(rows), *shape)

    return read


def computed_matrices(
    function: CostFunction, parameters: Float[np.ndarray, "count p"], shape: tuple[int, int]
) -> Matrices:
    """Return what computes the matrices of some problems from their parameters."""

    def compute(rows: Int[Tensor, "k"]) -> Float[Tensor, "k n m"]:
        return torch.stack([matrix_at(function, parameters[row], shape) for row in rows.tolist()])

    return compute


def matrix_at(function: CostFunction, row: Float[np.ndarray, "p"], shape: tuple[int, int]) -> Float[Tensor, "n m"]:
    """Return the matrix that a function of the user's makes of the parameters of a problem, float64, checked."""
    name = f"{function_name(function)}({np.array2string(row, precision=4, threshold=6)})"
    C = tensor(name, function(row.copy()), taken="a cost matrix").double()
    require_matrix(name, C, shape)
    return C


def require_matrix(name: str, C: Tensor, shape: tuple[int, int]) -> None:
    """Raise ValueError unless C has this shape, is finite or +inf, and leaves each atom a pair that is allowed."""
    if tuple(C.shape) != shape:
        raise ValueError(f"{name} must be a cost matrix of shape (n, m) = {shape}, got {tuple(C.shape)}")
    require_costs(name, C)
    if bool(C.amax() < torch.inf):
        return
    for words, dim in (("row", -1), ("column", -2)):
        blocked = C.isposinf().all(dim)
        if blocked.any():
            which = int(blocked.nonzero()[0])
            raise ValueError(
                f"{name} must have a finite cost in each {words}, got only +inf in {words} {which}: allow a pair "
                "of that atom, and give it no mass where nothing may move"
            )


def function_name(function: Any) -> str:
    """Return "module:function"; ValueError for a function that is not found by its name."""
    module, name = (str(getattr(function, key, None)) for key in ("__module__", "__qualname__"))
    try:
        if module == "__main__" or attrgetter(name)(import_module(module)) != function:
            raise AttributeError(name)
    except (ImportError, AttributeError):
        raise ValueError(
            "cost must be a function that is read again by the name of its module, got "
            f"{'a lambda' if name.endswith('<lambda>') else described(function)}"
            f"{' of a script' if module == '__main__' else ''}: define it in a file, such as costs.py, and import "
            "it from there"
        ) from None
    return f"{module}:{name}"


def named_function(name: str) -> CostFunction:
    """Return the function "module:function"; ImportError says what to do where it is not found."""
    module, _, function = name.partition(":")
    try:
        return attrgetter(function)(import_module(module))
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"the costs of these problems are computed by {name}, which is not found ({error}): add the folder of "
            "its module to PYTHONPATH"
        ) from error
