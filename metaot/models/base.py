"""The interfaces of networks, rebuilt from JSON values, to potentials or to the weights of convex networks.

And the layers that know the temperature.
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu

from metaot.brenier import Icnn
from metaot.geometry import Geometry
from metaot.potentials import sinkhorn_step
from metaot.problem import Problem
from metaot.settings import require_whole, unknown

_CHEBYSHEV = [
    [1.0, 0.0, -1.0, 0.0, 1.0],
    [0.0, 1.0, 0.0, -3.0, 0.0],
    [0.0, 0.0, 2.0, 0.0, -8.0],
    [0.0, 0.0, 0.0, 4.0, 0.0],
    [0.0, 0.0, 0.0, 0.0, 8.0],
]
"""The coefficients of the powers (rows) in the first Chebyshev polynomials (columns)."""

TEMPERATURES = len(_CHEBYSHEV)
"""The number of Chebyshev polynomials of log eps that networks read."""

FEATURES = 3
"""Of the outputs of a network that corrects: the first prediction and the two features that `correct` reads."""

Halves = tuple[Float[Tensor, "batch count"], Float[Tensor, "batch count"]]
"""The weights of phi, and those of psi."""


class Network(ABC):
    """The two functions of a discrete network, computed by torch or by onnxruntime.

    A call returns the first prediction, and of a network that corrects the features that `correct` reads. That
    maps a missing marginal and these features to a correction.
    """

    @abstractmethod
    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        """Return the first prediction, and features."""

    def correct(self, missing: Any, *features: Any) -> Any:
        """Return the correction for a missing marginal."""
        raise ValueError(f"a {type(self).__name__} has no corrected refinement steps")


class Exportable(nn.Module, Network):
    """A network whose two functions can be written as ONNX graphs, for batches of any size."""

    config: dict[str, Any]
    """The arguments of the constructor, JSON values."""
    passes: int = 0
    """The number of refinement steps in a prediction."""
    unrolled: int | None = None
    """The number of refinement steps in training; None for `passes`."""
    refines: bool = False
    """Whether `passes` may be set to another number."""
    corrects: bool = False
    """Whether refinement steps use `correct`."""

    @property
    def refinements(self) -> int:
        """The number of refinement steps that are made now."""
        return self.unrolled if self.training and self.unrolled is not None else self.passes

    @abstractmethod
    def example(self, batch: int) -> tuple[Tensor, ...]:
        """Return inputs of `forward` for a batch of problems, to trace it with."""

    @abstractmethod
    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the first prediction and the features of the problems; no branches on values."""


class PotentialModel(Exportable):
    """A network that maps weights a and b and a temperature to the potential f, float32, on one geometry."""

    bounds: tuple[float, float]
    """The lowest and the highest eps of the training."""
    sizes: tuple[int, int]
    """The numbers of weights that `forward` reads of the source and of the target."""

    @classmethod
    @abstractmethod
    def for_geometry(cls, geometry: Geometry, eps: tuple[float, float], **settings: Any) -> "PotentialModel":
        """Return a new model for problems on `geometry` with eps in a range."""

    def example(self, batch: int) -> tuple[Tensor, ...]:
        n, m = self.sizes
        parts = ((batch, n), 1 / n), ((batch, m), 1 / m), ((batch,), self.bounds[1])
        return tuple(torch.full(shape, value, dtype=torch.float32) for shape, value in parts)

    def read(
        self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"], eps: Float[Tensor, "batch"]
    ) -> tuple[Tensor, ...]:
        """Return the inputs of `forward`, for float32 weights and temperatures."""
        return a, b, eps

    def stages(self, problem: Problem, network: Network) -> Iterator[Float[Tensor, "batch n"]]:
        """Yield the first prediction of f and f after each refinement step, computed on demand.

        A refinement step is a Sinkhorn step and a correction of the missing marginal that the step shows. The
        problem has one batch dimension; `network` is this module or its ONNX form. Training scores every
        prediction; no gradient flows from one to another.
        """
        f, *features = network(*self.inputs_of(problem))
        yield f
        for _ in range(self.refinements if self.corrects else 0):
            stepped, missing, _ = sinkhorn_step(problem, f)
            f = stepped.to(f) + network.correct(missing.float(), *features)
            yield f

    def smaller(self, problem: Problem) -> Problem | None:
        """Return problems with fewer atoms and nearly the same f, if a prediction solves them to refine its own.

        `passes` is then the largest number of their solver's steps.
        """

    def inputs_of(self, problem: Problem) -> tuple[Tensor, ...]:
        """Return the inputs of `forward` for the problems of a flat batch."""
        eps = torch.as_tensor(problem.eps, dtype=torch.float32, device=problem.a.device)
        return self.read(problem.a.float(), problem.b.float(), eps.expand(len(problem.a)))

    @abstractmethod
    def standardise(self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"]) -> None:
        """Set the scale of the inputs from a sample of problems; called once, before training."""


class HyperNetwork(nn.Module, ABC):
    """A network that maps two measures to the weights of phi and of psi, float32.

    Exchanging the measures exchanges phi and psi, by construction. The constructor takes JSON values only, and
    keeps them in `config`; nothing branches on values, so that it exports.
    """

    def __init__(self, dim: int, hidden: list[int], activation: str, **settings: Any) -> None:
        """Keep the settings. The network predicts a change of `base`, which is learnt as well."""
        super().__init__()
        require_settings(type(self), {"hidden": hidden, **settings})
        self.config = {"dim": dim, "hidden": list(hidden), "activation": activation, **settings}
        self.icnn = Icnn(dim, tuple(hidden), activation)
        self.base = nn.Parameter(self.icnn.weights(torch.Generator().manual_seed(0)))

    @classmethod
    def for_dim(cls, dim: int, **settings: Any) -> "HyperNetwork":
        """Return a new model for measures on R^dim; with 64 hidden units unless `hidden` says otherwise."""
        return cls(dim, settings.pop("hidden", [64]), **settings)

    @abstractmethod
    def stages(
        self, u: Float[Tensor, "batch n d"], v: Float[Tensor, "batch m d"], context: Tensor | None
    ) -> list[Halves]:
        """Return the first prediction and each correction of it; no gradient flows from one to another.

        u and v are samples in the coordinates of a `Frame`.
        """

    def forward(self, u: Tensor, v: Tensor, context: Tensor | None = None) -> Halves:
        return self.stages(u, v, context)[-1]

    @abstractmethod
    def standardise(self, u: Float[Tensor, "batch n d"]) -> None:
        """Set the scale of the inputs from samples of many measures; called once, before training."""


_OF_THE_DATA = ("n", "m", "sizes", "eps", "dim")
"""Arguments of constructors that are no settings: they follow from the problems."""
_MAY_BE_ZERO = ("depth", "passes", "unrolled")


def model_settings(kind: type) -> dict[str, inspect.Parameter]:
    """Return the settings of a network: arguments of its constructor that do not follow from the problems."""
    arguments = inspect.signature(kind).parameters.values()
    return {
        each.name: each for each in arguments if each.name not in _OF_THE_DATA and each.kind != each.VAR_KEYWORD
    }


def require_settings(kind: type, settings: dict[str, Any]) -> None:
    """Raise ValueError for a setting that a network does not have, and for a number that it cannot have.

    Whole numbers are at least 1, but for the numbers of layers and of refinement steps, which may be 0.
    """
    known = model_settings(kind)
    for name, value in settings.items():
        if name in _OF_THE_DATA:
            continue
        if name not in known:
            raise ValueError(f"a {kind.__name__} has {unknown(name, known)}")
        wanted = known[name].annotation
        if wanted is int or (wanted == int | None and value is not None):
            require_whole(0 if name in _MAY_BE_ZERO else 1, **{name: value})
        elif wanted == list[int]:
            if not isinstance(value, list | tuple) or not value:
                raise ValueError(f"{name} must be a list of whole numbers, got {value!r}")
            for k, entry in enumerate(value):
                require_whole(1, **{f"{name}[{k}]": entry})
        elif wanted is str and not isinstance(value, str):
            raise ValueError(f"{name} must be a word, got {value!r}")
        elif wanted == dict[str, Any] | None and not isinstance(value, dict | None):
            raise ValueError(f"{name} has settings of its own, such as {name}.width, got {value!r}")


def single(model: nn.Module) -> Any:
    """Give a new model float32 weights, whatever torch's default dtype is; buffers keep their own."""
    for parameter in model.parameters():
        parameter.data = parameter.data.float()
    return model


def log_unit(eps: Float[Tensor, "k"], bounds: tuple[float, float]) -> Float[Tensor, "k"]:
    """Map eps to [-1, 1], evenly in its logarithm; to 0 when the range is one number."""
    low, high = math.log(bounds[0]), math.log(bounds[1])
    width = max(high - low, 1.0)
    return eps.log() * (2 / width) - (low + high) / width


def chebyshev(t: Float[Tensor, "k"]) -> Float[Tensor, "k temperatures"]:
    """Return the first Chebyshev polynomials at t in [-1, 1]."""
    powers = t[:, None] ** torch.arange(TEMPERATURES, dtype=t.dtype, device=t.device)
    return powers @ torch.tensor(_CHEBYSHEV, dtype=t.dtype, device=t.device)


@final
class ModulatedBlock(nn.Module):
    """A residual gated layer (GEGLU, Shazeer, arXiv 2002.05202) with its input scaled by the temperature."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.modulation = nn.Linear(TEMPERATURES, 2 * width, bias=False)
        self.inner = nn.Linear(width, 2 * hidden)
        self.outer = nn.Linear(hidden, width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.outer.bias)
        with torch.no_grad():
            self.outer.weight.mul_(0.5)

    def forward(
        self, x: Float[Tensor, "batch width"], temperature: Float[Tensor, "batch temperatures"]
    ) -> Float[Tensor, "batch width"]:
        scale, shift = self.modulation(temperature).chunk(2, -1)
        gate, value = self.inner(self.norm(x) * (1 + scale) + shift).chunk(2, -1)
        return x + self.outer(gelu(gate) * value)
