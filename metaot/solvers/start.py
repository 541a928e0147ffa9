"""Where a solver starts: potentials in any form, or what predicts them."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.arrays import SupportsArray, described
from metaot.named import named
from metaot.potentials import DualPotentials, PotentialsLike, as_potential, as_potentials
from metaot.problem import Problem


@runtime_checkable
class PotentialPredictor(Protocol):
    """Anything that predicts potentials of a problem."""

    def predict(self, problem: Problem, /) -> DualPotentials:
        """Return a guess of the solution."""
        ...


Start = PotentialsLike | PotentialPredictor | str
"""A start: potentials, a pair (f, g), a solution, what predicts, or the name of a model that is shipped."""

_TAKEN = "potentials, a pair (f, g), a Solution, a predictor or the name of a shipped model"


def guessed(problem: Problem, init: object) -> DualPotentials:
    """Return the potentials of a start; ValueError for those of other sizes, TypeError for what is no start."""
    init = opened(init)
    if isinstance(init, DualPotentials):
        return as_potentials(problem, init, "init")
    if isinstance(init, PotentialPredictor):
        return as_potentials(problem, init.predict(problem.balanced()), "init")
    if hasattr(init, "potentials") or (isinstance(init, tuple | list) and len(init) == 2):
        return as_potentials(problem, init, "init")
    alone = isinstance(init, SupportsArray)
    hint = "; complete f alone by metaot.DualPotentials.from_f(problem, f)" if alone else ""
    raise TypeError(f"init must be {_TAKEN}, got {described(init)}{hint}")


def warm_start(problem: Problem, init: object) -> Float[Tensor, "*batch n"]:
    """Return f of a start, which may be overwritten: of a `metaot.amortize.Predictor` its `warm_start`.

    What predicts is asked for the balanced problem between the same weights.
    """
    init = opened(init)
    if hasattr(init, "warm_start"):
        f = torch.as_tensor(init.warm_start(problem.balanced()))  # type: ignore[union-attr]
        return as_potential("init.f", f, problem.a, problem.geometry.sizes).to(problem.a)
    return guessed(problem, init).f.to(problem.a, copy=True)


def opened(init: object) -> object:
    """Return the model that a name stands for, and all else as it is; TypeError for a class."""
    if isinstance(init, type):
        raise TypeError(f"init must be {_TAKEN}, got {described(init)}")
    return named(init) if isinstance(init, str) else init
