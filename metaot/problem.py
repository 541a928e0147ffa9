"""Entropic transport problems: two vectors of weights, a geometry and a temperature; always a batch."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metaot import core
from metaot.arrays import ArrayLike, is_truth, wrong
from metaot.core.method import suits_compiled_code
from metaot.geometry import Dense, Eps, Geometry
from metaot.geometry.checks import are_alike, first_place, given, require_weights, tensor, together
from metaot.marginals import BALANCED, Marginal, Marginals, as_marginals

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_SIGNATURE = "Problem(a, b, geometry, eps)"
_WEIGHTS = f"weights (a tensor, an array or a list) in {_SIGNATURE}"


@final
@dataclass(frozen=True, init=False)
class Problem:
    """A batch of entropic transport problems between weights a and b.

    min <C, P> + eps KL(P | a b^T) over plans P with marginals a and b. `marginals` says what else is allowed, at a
    price that is added: None (balanced, nothing else), `KL(rho)`, `TV(rho)`, or a pair of these for source and
    target. Masses of sides with a price need not be one. `eps` is in the units of the cost: one
    number, or one for each instance. The geometry is brought to the dtype and device of the weights; a matrix is
    taken as `Dense(C)`. Weights of zero are normal.

    Numbers are tensors, arrays of numpy and other libraries, tables or lists. float32 stays float32; lists and
    integers become float64, or what the other weights are; of float32 beside float64 the first become float64,
    with a mass of one to its precision. On a grid weights may be images, *batch height width: `a` and `b` are then
    their vectors, *batch n, and so are potentials.

    Raises ValueError, naming the first offending entry, for weights that are NaN, negative, of another mass than
    one (of mass zero on a side with a price) or in another dtype, for sizes that do not fit, and for eps that is
    not positive; TypeError for what holds no numbers.
    """

    a: Float[Tensor, "*batch n"]
    b: Float[Tensor, "*batch m"]
    geometry: Geometry
    eps: Eps
    marginals: Marginals

    def __init__(
        self,
        a: ArrayLike,
        b: ArrayLike,
        geometry: Geometry | ArrayLike,
        eps: ArrayLike,
        marginals: Marginal | tuple[Marginal | None, Marginal | None] | Marginals | None = None,
    ) -> None:
        sides = marginals if isinstance(marginals, Marginals) else as_marginals(marginals)
        space = geometry if isinstance(geometry, Geometry) else _space(geometry, a)
        source, target = _weights_on(space, a, b, sides)
        batch = source.shape[:-1]
        if batch != target.shape[:-1]:
            raise ValueError(
                f"a of shape {tuple(source.shape)} and b of {tuple(target.shape)} differ in their batch"
            )
        if space.batch_shape not in ((), batch):
            raise ValueError(
                f"a batch {tuple(batch)} of weights does not fit a batch {space.batch_shape} of geometries"
            )
        temperature = _temperature(eps, source)
        _require_prices(sides, batch)
        vars(self).update(
            a=source, b=target, geometry=space.to(source), eps=temperature, marginals=sides.to(source)
        )

    @classmethod
    def trusted(
        cls, a: Tensor, b: Tensor, geometry: Geometry, eps: Eps, marginals: Marginals = BALANCED
    ) -> "Problem":
        """Make a problem of parts that were checked before, without waiting for the device."""
        problem = object.__new__(cls)
        vars(problem).update(a=a, b=b, geometry=geometry, eps=eps, marginals=marginals)
        return problem

    def __repr__(self) -> str:
        batch, eps = tuple(self.batch_shape), self.eps
        count = f"{math.prod(batch)} instances, batch {batch}," if batch else "one instance"
        words = f"of shape {tuple(eps.shape)}" if isinstance(eps, Tensor) else f"{eps:g}"
        dtype = str(self.a.dtype).removeprefix("torch.")
        sides = "" if self.is_balanced else f", marginals ({self.marginals.source}, {self.marginals.target})"
        return f"Problem of {count} on {self.geometry}, eps {words}{sides}, {dtype} on {self.a.device}"

    @property
    def T(self) -> "Problem":
        """The same problem with source and target exchanged."""
        return Problem.trusted(self.b, self.a, self.geometry.T, self.eps, self.marginals.T)

    @property
    def is_balanced(self) -> bool:
        """Whether the marginals of the plan must be the weights."""
        return self.marginals.are_exact

    def balanced(self) -> "Problem":
        """Return the balanced problem between the same weights, with masses of one."""
        if self.is_balanced:
            return self
        a, b = (weights / weights.sum(-1, keepdim=True) for weights in (self.a, self.b))
        return Problem.trusted(a, b, self.geometry, self.eps)

    @property
    def batch_shape(self) -> torch.Size:
        """The shape of the batch; () for a single problem."""
        return self.a.shape[:-1]

    def __getitem__(self, index: object) -> "Problem":
        """Return a part of the batch; `index` is anything that indexes the batch dimensions of a tensor."""
        eps = self.eps[index] if isinstance(self.eps, Tensor) else self.eps  # type: ignore[index]
        a, b = self.a[index], self.b[index]  # type: ignore[index]
        return Problem.trusted(a, b, self.geometry[index], eps, self.marginals[index])

    def flat(self) -> "Problem":
        """Return the same problems with exactly one batch dimension."""
        if self.a.ndim == 2:
            return self
        n, m = self.geometry.shape
        eps = self.eps.reshape(-1) if isinstance(self.eps, Tensor) else self.eps
        a, marginals = self.a.reshape(-1, n), self.marginals.flat()
        b = a if self.b is self.a else self.b.reshape(-1, m)
        return Problem.trusted(a, b, self.geometry.flat(), eps, marginals)

    def to(self, like: Tensor, geometry: Geometry | None = None) -> "Problem":
        """Return the problems in the dtype and on the device of `like`.

        `geometry` is their space, if it has been moved already.
        """
        if geometry is None and self.a.dtype == like.dtype and self.a.device == like.device:
            return self
        eps = self.eps.to(like) if isinstance(self.eps, Tensor) else self.eps
        a, b, marginals = self.a.to(like), self.b.to(like), self.marginals.to(like)
        return Problem.trusted(a, b, geometry or self.geometry.to(like), eps, marginals)

    @property
    def has_axes(self) -> bool:
        """Whether the atoms are those of a grid with several axes."""
        costs = self.geometry.axis_costs
        return costs is not None and len(costs) > 1

    @property
    def suits_core(self) -> bool:
        """Whether compiled code solves these problems, and sooner than torch."""
        if not (core.COMPILED and self.a.is_cpu and self.a.dtype == torch.float64):
            return False
        is_cloud = self.geometry.axis_costs is None and self.geometry.cost_name in core.POINT_COSTS
        needs_matrix = not (self.has_axes or is_cloud)
        return suits_compiled_code(self.geometry.shape, has_axes=self.has_axes, needs_matrix=needs_matrix)

    def arrays(self) -> tuple[core.Costs, np.ndarray, np.ndarray, np.ndarray]:
        """Return costs, weights and temperatures of a flat batch as the compiled core takes them."""
        return self.geometry.core_costs, *self.measures()

    def measures(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return weights and temperatures of a flat batch as arrays."""
        a = self.a.detach().numpy()
        b = a if self.b is self.a else self.b.detach().numpy()
        eps = self.eps.detach().numpy() if isinstance(self.eps, Tensor) else np.full(len(a), self.eps)
        return a, b, eps

    def prices(self) -> np.ndarray | None:
        """Return the prices of marginals of a flat batch as compiled code takes them; None for a balanced one."""
        if self.is_balanced:
            return None
        columns = []
        for side in (self.marginals.source, self.marginals.target):
            rho = side.rho.detach().numpy() if isinstance(side.rho, Tensor) else np.full(len(self.a), side.rho)
            columns += [np.full(len(self.a), float(side.code)), rho]
        return np.stack(columns, -1)

    def normalised(self) -> "Problem":
        """Return the problems in float64, with masses that are one to its precision on balanced sides.

        Between masses that differ there is no plan, and no solver reaches an error below their difference. A cost
        with a name is evaluated again in float64. A matrix stays as it is, and so does a function of the user's,
        which may work in its own dtype only; their costs are converted.
        """
        double = self.to(self.a.double(), None if self.geometry.cost_name else self.geometry)
        sides = (double.a, self.marginals.source), (double.b, self.marginals.target)
        a, b = (w / w.sum(-1, keepdim=True) if side.is_exact else w for w, side in sides)
        return Problem.trusted(a, b, double.geometry, double.eps, double.marginals)


def require_problem(problem: object) -> Problem:
    """Return a problem; TypeError for everything else."""
    if not isinstance(problem, Problem):
        raise wrong("problem", f"a metaot.{_SIGNATURE}", problem)
    return problem


def require_balanced(problem: Problem, what: str) -> Problem:
    """Return a balanced problem; ValueError for another one, which `what` does not take."""
    if not require_problem(problem).is_balanced:
        sides = f"({problem.marginals.source}, {problem.marginals.target})"
        raise ValueError(
            f"{what} takes balanced problems, got marginals {sides}: problem.balanced() has the same weights with "
            "masses of one"
        )
    return problem


def one_problem(call: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Have a function of one problem say so when it is given weights and a cost one after the other."""

    @wraps(call)
    def door(*arguments: Arguments.args, **settings: Arguments.kwargs) -> Result:
        if len(arguments) > 1:
            raise TypeError(
                f"{call.__name__} takes one problem, {call.__name__}(metaot.{_SIGNATURE}, ...), and settings by "
                f"their names, got {len(arguments)} arguments without a name"
            )
        return call(*arguments, **settings)

    return door


def _space(geometry: object, a: object) -> Geometry:
    """Return the space of a cost matrix; TypeError for all else, also where it was given in place of weights."""
    if isinstance(a, Geometry):
        raise wrong("a", _WEIGHTS, a)
    taken = "a Geometry, such as Grid(28, 28) or Points(x, y), or a cost matrix"
    if isinstance(geometry, int | float | str | type | None) or getattr(geometry, "shape", None) == ():
        raise wrong("geometry", f"{taken}, in the order {_SIGNATURE}", geometry)
    return Dense(tensor("geometry", geometry, taken=taken))


def as_vectors(values: Tensor, n: int, sizes: tuple[int, ...]) -> Tensor:
    """Return values on n atoms as *batch n: images on a grid of these sizes become vectors, in C order.

    What is a vector already stays so, in case of doubt; so does what is neither.
    """
    dims = len(sizes)
    if dims < 2 or values.shape[-1:] == (n,) or values.shape[-dims:] != sizes:
        return values
    return values.flatten(-dims)


def _weights_on(geometry: Geometry, a: object, b: object, sides: Marginals) -> tuple[Tensor, Tensor]:
    """Return weights as vectors that were checked, in one dtype and on one device."""
    parts = None if are_alike(a, b) else [given(name, w, _WEIGHTS) for name, w in (("a", a), ("b", b))]
    if parts is not None:
        a, b = (part.tensor for part in parts)
    assert isinstance(a, Tensor)
    assert isinstance(b, Tensor)
    (n, m), sizes = geometry.shape, geometry.sizes
    source, target = as_vectors(a, n, sizes), as_vectors(b, m, sizes)
    if source.shape[-1:] != (n,) or target.shape[-1:] != (m,):
        raise ValueError(_misfit(geometry, source, target))
    require_weights("a", source, a, mass_is_one=sides.source.is_exact)
    require_weights("b", target, b, mass_is_one=sides.target.is_exact)
    if parts is None:
        return source, target
    parts = [part._replace(tensor=w) for part, w in zip(parts, (source, target), strict=True)]
    source, target = (
        w if not side.is_exact or w.dtype in (part.tensor.dtype, torch.float32) else w / w.sum(-1, keepdim=True)
        for part, w, side in zip(parts, together(*parts), (sides.source, sides.target), strict=True)
    )
    return source, target


def _misfit(geometry: Geometry, a: Tensor, b: Tensor) -> str:
    """Return the words for weights that are not those of the geometry's atoms."""
    for name, w in (("a", a), ("b", b)):
        if w.ndim == 0 or w.shape[-1] == 0:
            return f"{name} must have the shape (*batch, atoms), got {tuple(w.shape)}"
    found = (a.shape[-1], b.shape[-1])
    words = f"weights of sizes {found} do not fit the geometry of sizes {geometry.shape}"
    if found == geometry.shape[::-1]:
        return f"{words}: exchange a and b, or take geometry.T"
    for name, w, n in zip("ab", (a, b), geometry.shape, strict=True):
        if w.shape[-1] == n:
            continue
        shape, sizes = tuple(w.shape), geometry.sizes
        if shape[-2:] == (n, 1):
            return f"{words}: {name} of shape {shape} is a column, take {name}[..., 0]"
        if len(sizes) > 1:
            wanted = f"(*batch, {n}) or (*batch, {', '.join(map(str, sizes))})"
            return f"{words}: {name} has the shape {shape}, the weights of {geometry} have {wanted}"
        if len(shape) > 1 and shape[-2] * shape[-1] == n:
            return f"{words}: {name} of shape {shape} are images, take {name}.flatten(-2) (numpy: .reshape)"
    return words


def _require_prices(sides: Marginals, batch: torch.Size) -> None:
    """Raise unless the prices of marginals are numbers or have the shape of the batch."""
    for side in (sides.source, sides.target):
        if isinstance(side.rho, Tensor) and side.rho.shape != batch:
            raise ValueError(
                f"rho must be a number or of the batch's shape {tuple(batch)}, got {tuple(side.rho.shape)}"
            )


def _temperature(eps: object, a: Tensor) -> Eps:
    """Return eps as a number or as one for each instance, in the dtype of the weights."""
    if not isinstance(eps, float | Tensor) or is_truth(eps):
        taken = "a number, or one for each problem"
        if is_truth(eps) or isinstance(eps, str):
            raise wrong("eps", taken, eps)
        eps = tensor("eps", eps, like=a, taken=taken)
        eps = eps if eps.ndim else float(eps)
    batch = a.shape[:-1]
    if isinstance(eps, Tensor):
        eps = tensor("eps", eps)
        if eps.ndim == 0 and batch:
            eps = eps.expand(batch) if eps.requires_grad else float(eps)
    if not isinstance(eps, Tensor):
        if not 0 < eps < math.inf:
            raise ValueError(f"eps must be positive and finite, got {eps}")
        return float(eps)
    if eps.shape != batch:
        raise ValueError(f"eps must be a number or of the batch's shape {tuple(batch)}, got {tuple(eps.shape)}")
    bad = ~(torch.isfinite(eps) & (eps > 0))
    if bad.any():
        raise ValueError(f"eps must be positive and finite, got eps{first_place(bad, eps)}")
    return eps.to(a)
