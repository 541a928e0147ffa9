"""What a space with a cost is: a few members that define it, and the sums that follow from its costs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from copy import copy
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot import core
from metaot.arrays import ArrayLike
from metaot.geometry.checks import first_place, masses
from metaot.geometry.kernel import Kernel, MatrixKernel

Eps = float | Float[Tensor, "*batch"]
"""A temperature in the units of the cost: one number, or one for each instance of the batch."""

BLOCK = 2**20
"""Entries of a block of (*batch, rows, m), 8 MiB in float64: the allocator maps larger ones anew each time."""

KEEP = 2**24
"""Kernels of up to this many entries (128 MiB in float64) are kept; larger ones are made again by each product."""


Projection = Callable[
    [Float[Tensor, "*batch k m"], Float[Tensor, "*batch k d"], Float[Tensor, "*batch m d"]],
    Float[Tensor, "*batch k d"],
]
"""Weights of the target's atoms for each source point, with sum one; the points; the atoms -> where they go."""


class Geometry(ABC):
    """A source support (n atoms), a target support (m atoms) and the cost C of moving mass between them.

    A geometry is shared by a batch of problems, or it is itself a batch with one space for each instance. An
    entry +inf of C forbids a pair.

    A subclass defines `shape`, `T`, `cost_rows` and `tensors`, and where they apply `with_tensors`, `batch_shape`,
    `points` and `settings`. Everything else follows from these, in blocks of rows; a geometry whose cost has more
    structure may answer faster, as `Grid` does axis by axis. The weights of the sums are
    w_ij = exp((h_j - C_ij)/eps), normalised over j. An atom j with h_j = -inf takes no part.
    """

    kinds: ClassVar[dict[str, type["Geometry"]]] = {}
    """All geometries by the names of their classes, by which checkpoints know them."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        known = cls.kinds.get(cls.__name__)
        if known is not None and known.__module__ != cls.__module__:
            raise TypeError(f"{known.__module__} has a geometry {cls.__name__} already: choose another name")
        cls.kinds[cls.__name__] = cls

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """The numbers (n, m) of source and target atoms."""

    @property
    @abstractmethod
    def T(self) -> "Geometry":
        """The same space with source and target exchanged."""

    @abstractmethod
    def cost_rows(self, rows: slice | Int[Tensor, "r"]) -> Float[Tensor, "..."]:
        """Return the rows of C at a slice or at indices, with one column for each target atom."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that define the space, batch dimensions first."""

    def with_tensors(self, tensors: dict[str, Tensor]) -> "Geometry":
        """Return a space of the same kind, with the same settings; by default tensors are attributes by name."""
        return replaced(self, **tensors)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The batch of spaces that this is; () when one space serves every instance."""
        return ()

    @property
    def points(self) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]] | None:
        """Coordinates (n d, m d) of both supports; None when the space has none."""
        return None

    @property
    def of_each_side(self) -> "tuple[Geometry, Geometry] | None":
        """The spaces of the source and itself, and of the target and itself; None when their costs are unknown."""
        return None

    @property
    def projection(self) -> Projection | None:
        """How points are sent to the target's atoms with weights of these; None: to their mean."""
        return None

    def seen_from(self, x: Float[Tensor, "*batch k d"]) -> "Geometry | None":
        """Return the space of other source points and the same target; None when only the atoms have costs."""
        return None

    @property
    def sizes(self) -> tuple[int, ...]:
        """The numbers of points along the axes of a grid; () for other spaces."""
        return ()

    @property
    def words(self) -> str:
        """The size and the kind of the space in a few words."""
        return "{} x {} {}".format(*self.shape, type(self).__name__)

    @property
    def cost_name(self) -> str | None:
        """The name of the cost; None for a matrix and for a function of the user's."""
        return type(self).__name__

    @property
    def axis_costs(self) -> tuple[Float[Tensor, "_ _"], ...] | None:
        """Costs along the axes of a grid whose sum is C, float64; None for a cost that is no such sum."""
        return None

    @property
    def core_costs(self) -> core.Costs:
        """The costs as the compiled core takes them, float64 on a CPU."""
        return core.Costs.of_matrix(self.cost_rows(slice(None)).detach().numpy())

    def settings(self) -> dict[str, Any]:
        """Return what defines the space beside its tensors; JSON values if it is to be saved."""
        return {}

    @classmethod
    def rebuilt(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> "Geometry":
        """Make a saved space again; by default its constructor takes tensors and settings by their names."""
        return cls(**tensors, **settings)

    def to(self, like: Tensor) -> "Geometry":
        """Return the space in the dtype and on the device of `like`; itself when that is so already."""
        return self._mapped(lambda tensor: tensor.to(like))

    def __getitem__(self, index: object) -> "Geometry":
        """Return the spaces of a part of the batch; itself when it is shared."""
        if not self.batch_shape:
            return self
        return self._mapped(lambda tensor: tensor[index])  # type: ignore[index]

    def flat(self) -> "Geometry":
        """Return it with all batch dimensions merged into one; itself when it is shared."""
        dims = len(self.batch_shape)
        return self._mapped(lambda tensor: tensor.flatten(0, dims - 1)) if dims > 1 else self

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> "Geometry":
        before = self.tensors()
        after = {name: change(tensor) for name, tensor in before.items()}
        return self if all(after[name] is before[name] for name in before) else self.with_tensors(after)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is cached, which pickles and copies make again when it is needed."""
        state, kind = self.__dict__, type(self)
        return {k: v for k, v in state.items() if not isinstance(getattr(kind, k, None), cached_property)}

    def matches(self, other: "Geometry") -> bool:
        """Return whether `other` is the same space: type, cost, and coordinates or matrix to six digits.

        Costs that are functions of the user's are compared by the first row of C.
        """
        if self is other:
            return True
        if type(self) is not type(other) or self.cost_name != other.cost_name:
            return False
        mine, theirs = self.tensors(), other.tensors()
        if mine.keys() != theirs.keys() or not all(_close(mine[k], theirs[k]) for k in mine):
            return False
        if self.cost_name is not None:
            return self.settings() == other.settings()
        return _close(self.cost_rows(slice(0, 1)), other.cost_rows(slice(0, 1)))

    def difference(self, other: "Geometry") -> str:
        """Return what differs from a geometry with the same description, to stand behind that; else nothing."""
        if repr(self) != repr(other):
            return ""
        theirs = other.tensors()
        for name, mine in self.tensors().items():
            one, two = (tensor.detach().double().cpu() for tensor in (mine, theirs[name]))
            if not _close(one, two):
                off = (one - two).abs()
                first = f"{name}{first_place(off > 0, one)}, got {float(two[off > 0][0]):.6g}"
                return f" whose {name} differ by up to {float(off.max()):.3g}, first at {first}"
        return " whose cost is another function"

    def cost_block(
        self, rows: Int[Tensor, "batch k"], columns: Int[Tensor, "batch l"]
    ) -> Float[Tensor, "batch k l"]:
        """Return C at rows and columns that are chosen for each instance; a batched geometry has this batch."""
        pairs = enumerate(zip(rows.unbind(), columns.unbind(), strict=True))
        blocks = [self[k]._part_of_cost(i, j) for k, (i, j) in pairs]
        if not blocks:
            return next(iter(self.tensors().values())).new_zeros(*rows.shape, columns.shape[-1])
        return blocks[0][None] if len(blocks) == 1 else torch.stack(blocks)

    def _part_of_cost(self, rows: Int[Tensor, "k"], columns: Int[Tensor, "l"]) -> Float[Tensor, "k l"]:
        """Return a copy of C at some rows and columns, of a geometry without a batch."""
        C, (_, m) = self.cost_rows(rows), self.shape
        if len(columns) == m and bool((columns == torch.arange(m, device=columns.device)).all()):
            return C
        return C.index_select(1, columns)

    def softmin(self, h: Float[Tensor, "*batch m"], eps: Eps) -> Float[Tensor, "*batch n"]:
        r"""Return $-\epsilon \log \sum_j \exp((h_j - C_{ij}) / \epsilon)$; +inf where no j takes part."""
        parts = [z.logsumexp(-1) for z in self.exponents(h, eps)]
        return -expand_eps(eps, h) * torch.cat(parts, -1)

    def mean(
        self, h: Float[Tensor, "*batch m"], v: Float[Tensor, "*#batch m k"], eps: Eps
    ) -> Float[Tensor, "*batch n k"]:
        r"""Return $\sum_j w_{ij} v_j$, the mean of v under the weights of the softmin; zero without any j."""
        return torch.cat([_weights(z) @ v for z in self.exponents(h, eps)], -2)

    def expected_cost(self, h: Float[Tensor, "*batch m"], eps: Eps) -> Float[Tensor, "*batch n"]:
        r"""Return $\sum_j w_{ij} C_{ij}$, the mean cost under the weights of the softmin."""
        blocks = zip(self._blocks(h), self.exponents(h, eps), strict=True)
        return torch.cat([(_weights(z) * allowed(C)).sum(-1) for C, z in blocks], -1)

    def mean_cost(self, a: ArrayLike | None = None, b: ArrayLike | None = None) -> Float[Tensor, "*batch"]:
        """Return the mean of C between independent atoms of both sides; by default all count alike.

        With weights a, *batch n, and b, *batch m, of any positive masses, that of the plan a b^T. In the units of
        the cost, as eps is: `eps=0.01 * geometry.mean_cost(a, b)`. For squared distances between points, and on
        grids, without any n x m matrix. Raises ValueError for weights that do not fit, are negative or zero.
        """
        return self._cost_moments(*self._masses(a, b))[0]

    def std_cost(self, a: ArrayLike | None = None, b: ArrayLike | None = None) -> Float[Tensor, "*batch"]:
        """Return the standard deviation of C between independent atoms of both sides, as `mean_cost` the mean."""
        return self._cost_moments(*self._masses(a, b))[1].sqrt()

    def _masses(
        self, a: ArrayLike | None, b: ArrayLike | None
    ) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch m"]]:
        """Return weights of mass one on both sides, equal ones by default."""
        like = next(iter(self.tensors().values())).detach()
        like = like if like.is_floating_point() else like.double()
        a, b = (masses(name, w, n, like, self.sizes) for name, w, n in zip("ab", (a, b), self.shape, strict=True))
        batch = np.broadcast_shapes(a.shape[:-1], b.shape[:-1], self.batch_shape)
        return a.expand(*batch, -1), b.expand(*batch, -1)

    def _cost_moments(
        self, a: Float[Tensor, "*batch n"], b: Float[Tensor, "*batch m"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """Return mean and variance of C under the plan a b^T, for masses of one."""
        mean = (a * self.times_cost(b)).sum(-1)
        squares = ((C - mean[..., None, None]).square() for C in self._blocks(b))
        spread = torch.cat([(square @ b[..., None])[..., 0] for square in squares], -1)
        return mean, (a * spread).sum(-1)

    def best_plan(
        self, h: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"], eps: Eps
    ) -> tuple[Float[Tensor, "batch m"], Kernel]:
        r"""Return the softmin g of h over the source, and the plan $b_j \exp((h_i + g_j - C_{ij})/\epsilon)$.

        Its columns have the sums b; a column that no i reaches is zero. The kernel is that matrix, prepared for
        many products.
        """
        if self.axis_costs is not None or h.numel() * b.shape[-1] > KEEP:
            g = reachable(self.T.softmin(h, eps), b)
            return g, self.kernel(h, g + expand_eps(eps, g) * b.log(), eps)
        z = in_units_of(eps, h[:, :, None] - self.cost_rows(slice(None)).to(h), 2)
        top = _finite(z.amax(-2, keepdim=True))
        K = z.sub_(top).exp_()
        total = K.sum(-2)
        g = -(top.squeeze(-2) + total.log()) * expand_eps(eps, total)
        return reachable(g, b), MatrixKernel(K.mul_((b / _nonzero(total))[:, None, :]))

    def kernel(self, f: Float[Tensor, "batch n"], g: Float[Tensor, "batch m"], eps: Eps) -> Kernel:
        r"""Return $\exp((f_i + g_j - C_{ij})/\epsilon)$, prepared for many products without a matrix."""
        return MeanKernel(self, f, g, eps)

    def hardmin(self, h: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch n"]:
        r"""Return $\min_j C_{ij} - h_j$, the softmin's limit as eps falls to zero; +inf if all of h is -inf."""
        return torch.cat([(C - h[..., None, :]).amin(-1) for C in self._blocks(h)], -1)

    def times_cost(self, v: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch n"]:
        """Return C v for v >= 0; +inf where v has mass on a forbidden pair."""
        return torch.cat([_times(C, v) for C in self._blocks(v)], -1)

    def cost_of_a_plan(
        self, a: Float[Tensor, "*batch n"], b: Float[Tensor, "*batch m"]
    ) -> Float[Tensor, "*batch"]:
        """Return <C, P> of a plan with marginals a and b, which have the same mass: by default their product."""
        mass = b.sum(-1, keepdim=True)
        cost = self.times_cost(b / torch.where(mass > 0, mass, 1.0))
        return torch.where(a > 0, a * cost, 0.0).sum(-1)

    def exponents(self, h: Float[Tensor, "*batch m"], eps: Eps) -> Iterator[Float[Tensor, "*batch rows m"]]:
        """Yield (h_j - C_ij)/eps for successive blocks of rows i."""
        for C in self._blocks(h):
            yield in_units_of(eps, h[..., None, :] - C, 2)

    def _blocks(self, h: Float[Tensor, "*batch m"]) -> Iterator[Tensor]:
        """Yield successive rows of C, as many at once as fit into a block for this batch."""
        n = self.shape[0]
        step = max(1, BLOCK // max(1, h.numel()))
        for start in range(0, n, step):
            yield self.cost_rows(slice(start, min(n, start + step))).to(h)


Kind = TypeVar("Kind", bound=Geometry)


def replaced(geometry: Kind, **attributes: Any) -> Kind:
    """Return a copy with other attributes, which are not checked again."""
    changed = copy(geometry)
    vars(changed).update(attributes)
    return changed


class MeanKernel(Kernel):
    """The kernel of potentials whose products are means under the softmin of g: no matrix is kept.

    K v is the mean of v under the weights w of g, times the sums exp((f_i - softmin(g)_i)/eps) of the rows.
    """

    def __init__(
        self, geometry: Geometry, f: Float[Tensor, "batch n"], g: Float[Tensor, "batch m"], eps: Eps
    ) -> None:
        self.geometry, self.f, self.g, self.eps = geometry, f, g, eps

    def times(self, v: Float[Tensor, "batch m"]) -> Float[Tensor, "batch n"]:
        return (self._sums * self.geometry.mean(self.g, v.to(self.g)[..., None], self.eps)[..., 0]).to(v)

    @cached_property
    def _sums(self) -> Float[Tensor, "batch n"]:
        return in_units_of(self.eps, self.f - self.geometry.softmin(self.g, self.eps)).exp()

    @property
    def T(self) -> Kernel:
        return self._transposed

    @cached_property
    def _transposed(self) -> Kernel:
        return self.geometry.T.kernel(self.g, self.f, self.eps)

    def __getitem__(self, index: Tensor) -> Kernel:
        eps = self.eps[index] if isinstance(self.eps, Tensor) else self.eps
        return self.geometry[index].kernel(self.f[index], self.g[index], eps)


def expand_eps(eps: Eps, like: Tensor, dims: int = 1) -> float | Tensor:
    """Return eps so that it broadcasts against a tensor with `dims` dimensions behind the batch."""
    if not isinstance(eps, Tensor):
        return eps
    return eps.to(like).reshape(eps.shape + (1,) * dims)


def in_units_of(eps: Eps, z: Tensor, dims: int = 1) -> Tensor:
    """Return z/eps for a z with `dims` dimensions behind the batch; z itself where eps is the number one."""
    return z if not isinstance(eps, Tensor) and eps == 1.0 else z / expand_eps(eps, z, dims)


def allowed(C: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return C with zeros in place of forbidden pairs, to be multiplied with a plan that is zero there."""
    return torch.where(C.isposinf(), 0.0, C)


def reachable(g: Float[Tensor, "*batch m"], b: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch m"]:
    """Return a potential that is finite on atoms without mass: zero on those that no mass can reach.

    On an atom with mass, +inf shows that there is no plan.
    """
    return torch.where((g == torch.inf) & (b == 0), 0.0, g)


def _weights(z: Float[Tensor, "*batch n m"]) -> Float[Tensor, "*batch n m"]:
    """Return the softmax over the last axis; zeros for a row of -inf."""
    w = (z - _finite(z.detach().amax(-1, keepdim=True))).exp()
    return w / _nonzero(w.sum(-1, keepdim=True))


def _finite(top: Tensor) -> Tensor:
    return torch.where(top == -torch.inf, 0.0, top)


def _nonzero(total: Tensor) -> Tensor:
    return torch.where(total == 0, 1.0, total)


def _times(C: Float[Tensor, "*#batch n m"], v: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch n"]:
    product = (v[..., None, :] @ allowed(C).mT).squeeze(-2)
    forbidden = C.isposinf()
    if not bool(forbidden.any()):
        return product
    lost = ((v != 0).to(v)[..., None, :] @ forbidden.to(v).mT).squeeze(-2)
    return torch.where(lost > 0, torch.inf, product)


def _close(mine: Tensor, theirs: Tensor) -> bool:
    if mine.shape != theirs.shape:
        return False
    return torch.allclose(mine.double().cpu(), theirs.double().cpu(), 1e-6, 1e-6)
