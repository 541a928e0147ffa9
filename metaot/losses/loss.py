"""`SinkhornLoss`: the Sinkhorn divergence of two point clouds as a module, which remembers where it was.

Its value is the operator `metaot::sinkhorn_divergence` of torch, with an operator for its derivatives, so that
`torch.compile` takes it as it is.
"""

from collections.abc import Sequence
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metaot.arrays import ArrayLike, require_limits, wrong
from metaot.geometry import Points
from metaot.geometry.checks import given, together
from metaot.geometry.costs import wrong_cost
from metaot.losses.divergence import (
    DivergenceSolution,
    self_spaces,
    solve_divergence,
    to_itself,
    weight_slopes,
)
from metaot.marginals import KL, TV
from metaot.objectives.plan_cost import SMOOTH, point_slopes
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.solvers import Solution, Symmetric

Parts = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Of a call: potentials between both clouds and of each to itself, and the clouds."""


@final
class SinkhornLoss(nn.Module):
    """The Sinkhorn divergence of two clouds, to be minimised: `loss(x, y)`, or `loss(a, x, b, y)` with weights.

    Clouds are *batch n d and *batch m d, weights *batch n and *batch m with masses of one (without them, equal
    weights); the value has the shape of the batch, and the dtype of x. `eps` is in the units of the cost,
    "sqeuclidean" (|x - y|^2) or "euclidean". For `geomloss.SamplesLoss("sinkhorn", p=2, blur=s)`, whose cost is
    |x - y|^2/2, take eps = 2 s^2 and half of the value, and for `reach=r` marginals=metaot.KL(2 r^2).

    `marginals` is None, or `metaot.KL(rho)` or `metaot.TV(rho)` for both clouds with a number rho, in the units of
    the cost; weights may have any masses then.

    Potentials are kept from call to call: where the clouds have the shapes of the last call, as in a training, the
    next solve starts from them; if the points go on as they went before, so do the potentials of the start. They
    belong to the points in their order: for batches that are drawn anew in each call, set `remembers=False`.
    `forget()` empties the memory. Solved in float64, with the L1 marginal errors at most `tol`, in at most
    `max_steps` steps.
    """

    def __init__(
        self,
        eps: float,
        cost: str = "sqeuclidean",
        *,
        marginals: KL | TV | None = None,
        tol: float = 1e-3,
        max_steps: int = 1000,
        remembers: bool = True,
    ) -> None:
        super().__init__()
        if cost not in SMOOTH:
            raise wrong_cost(cost, dict.fromkeys(SMOOTH), "metaot.losses.sinkhorn_divergence for any other one")
        if isinstance(eps, bool) or not isinstance(eps, float | int):
            raise wrong("eps", "a number", eps)
        if not 0 < eps < float("inf"):
            raise ValueError(f"eps must be positive and finite, got {eps}")
        if not (marginals is None or (isinstance(marginals, KL | TV) and isinstance(marginals.rho, float))):
            raise wrong("marginals", "None, metaot.KL(rho) or metaot.TV(rho) with a number rho", marginals)
        self.marginals = marginals
        self.eps, self.cost, self.remembers = float(eps), cost, remembers
        self.tol, self.max_steps = require_limits(tol, max_steps)
        self._last: Parts | None = None
        self._before: Parts | None = None

    def forward(self, *clouds: ArrayLike) -> Float[Tensor, "*batch"]:
        """Return the divergence of `(x, y)` or `(a, x, b, y)`."""
        a, x, b, y = _given(clouds)
        f, f_self, g_self = self._start(a, x, b, y)
        code, rho = (self.marginals.code, self.marginals.rho) if self.marginals else (0, 0.0)
        settings = (self.eps, self.cost, code, rho, self.tol, self.max_steps)
        value, f, _, f_self, g_self = _divergence(a, x, b, y, f, f_self, g_self, *settings)
        if self.remembers:
            f, f_self, g_self = (z.detach() for z in (f, f_self, g_self))
            points = x.detach().clone(), y.detach().clone()  # an optimiser moves them in place
            self._before, self._last = self._last, (f, f_self, g_self, *points)
        return value

    def forget(self) -> None:
        """Have the next call start without the last one's potentials."""
        self._last = self._before = None

    def _start(
        self, a: Tensor, x: Tensor, b: Tensor, y: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the last potentials, or where they lead to if the points move as they did before."""
        if self._last is None or not (self.remembers and _fits(self._last, a, x, b, y)):
            self._last = self._before = None
            return None, None, None
        f, f_self, g_self, *last = self._last
        if self._before is None or not _fits(self._before, a, x, b, y):
            return f, f_self, g_self
        with torch.no_grad():
            share = _going_on((x, y), last, self._before[3:])[..., None]
            f, f_self, g_self = (
                h + share * (h - before) for h, before in zip(self._last[:3], self._before[:3], strict=True)
            )
        return f, f_self, g_self

    def extra_repr(self) -> str:
        sides = "" if self.marginals is None else f", marginals={self.marginals}"
        return f"eps={self.eps:g}, cost={self.cost!r}{sides}, tol={self.tol:g}, max_steps={self.max_steps}"


def _given(clouds: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return weights and clouds; equal weights where none are given."""
    if len(clouds) not in (2, 4):
        raise TypeError(f"a loss takes (x, y) or (a, x, b, y), got {len(clouds)} arguments")
    if not all(isinstance(cloud, Tensor) for cloud in clouds):
        names = ("x", "y") if len(clouds) == 2 else ("a", "x", "b", "y")
        clouds = tuple(together(*(given(name, cloud) for name, cloud in zip(names, clouds, strict=True))))
    if len(clouds) == 4:
        return clouds  # type: ignore[return-value]
    x, y = clouds
    if x.ndim < 2 or y.ndim < 2:
        raise ValueError(
            f"clouds must have the shape (*batch, points, d), got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    a, b = (z.new_full(z.shape[:-1], 1 / z.shape[-2]) for z in (x, y))
    return a, x, b, y


def _going_on(now: Sequence[Tensor], last: Sequence[Tensor], before: Sequence[Tensor]) -> Float[Tensor, "*batch"]:
    """Return how much of the move between two calls is made again, from none to all."""
    along, length = torch.zeros_like(now[0][..., 0, 0]), torch.zeros_like(now[0][..., 0, 0])
    for at, then, earlier in zip(now, last, before, strict=True):
        along += ((at - then) * (then - earlier)).sum((-2, -1))
        length += (then - earlier).square().sum((-2, -1))
    return torch.where(length > 0, along / length, 0.0).clamp(0, 1)


def _fits(known: Parts, a: Tensor, x: Tensor, b: Tensor, y: Tensor) -> bool:
    """Return whether potentials and clouds of an earlier call are of these shapes."""
    f, _, g, *clouds = known
    shapes = [z.shape for z in (f, g, *clouds)]
    return shapes == [z.shape for z in (a, b, x, y)] and f.device == a.device


def _problem(a: Tensor, x: Tensor, b: Tensor, y: Tensor, settings: tuple[float, str, int, float]) -> Problem:
    eps, cost, code, rho = settings
    marginals = None if code == 0 else (KL if code == KL.code else TV)(rho)
    return Problem(a.detach(), b.detach(), Points(x.detach(), y.detach(), cost), eps, marginals)


@torch.library.custom_op("metaot::sinkhorn_divergence", mutates_args=())
def _divergence(  # noqa: PLR0917, an operator has its settings beside its tensors
    a: Tensor,
    x: Tensor,
    b: Tensor,
    y: Tensor,
    f: Tensor | None,
    f_self: Tensor | None,
    g_self: Tensor | None,
    eps: float,
    cost: str,
    price: int,
    rho: float,
    tol: float,
    max_steps: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the value, the potentials between both clouds, and those of each cloud to itself, from a start."""
    problem = _problem(a, x, b, y, (eps, cost, price, rho))
    init = None
    if f is not None and f_self is not None and g_self is not None:
        init = _solution(problem, DualPotentials(f, torch.zeros_like(b).to(f)), (f_self, g_self))
    found = solve_divergence(problem, init=init, tol=tol, max_steps=max_steps)
    own = found.self_potentials
    f, g = found.potentials.f, found.potentials.g
    return found.value.to(x), f.clone(), g.clone(), own.f.clone(), own.g.clone()


def _solution(problem: Problem, between: DualPotentials, own: tuple[Tensor, Tensor]) -> DivergenceSolution:
    """Return potentials of an earlier call as a solution."""
    zero = torch.zeros_like(problem.a[..., 0])

    def of(problem: Problem, potentials: DualPotentials) -> Solution:
        return Solution(problem, potentials, zero, zero == 0, zero.long(), (Symmetric(),))

    sides = zip((problem.a, problem.b), self_spaces(problem, None), own, strict=True)
    selves = (of(to_itself(problem, w, space), DualPotentials(h, h)) for w, space, h in sides)
    return DivergenceSolution(of(problem, between), *selves)


@_divergence.register_fake
def _(a: Tensor, x: Tensor, b: Tensor, y: Tensor, *_: Any) -> tuple[Tensor, ...]:
    f, g = (torch.empty_like(w, dtype=torch.float64) for w in (a, b))
    return x.new_empty(x.shape[:-2]), f, g, torch.empty_like(f), torch.empty_like(g)


@torch.library.custom_op("metaot::sinkhorn_divergence_slopes", mutates_args=())
def _slopes(  # noqa: PLR0917, as above
    v: Tensor,
    a: Tensor,
    x: Tensor,
    b: Tensor,
    y: Tensor,
    f: Tensor,
    g: Tensor,
    f_self: Tensor,
    g_self: Tensor,
    eps: float,
    cost: str,
    price: int,
    rho: float,
    in_y: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return v times the derivatives of the divergence in a, x, b and, if asked for, y."""
    exact = _problem(a, x, b, y, (eps, cost, price, rho)).normalised()
    v = v.to(exact.a)
    found = _solution(exact, DualPotentials(f, g), (f_self, g_self))
    towards_x, towards_y = point_slopes(exact, found.potentials, v, both=in_y)
    own, shared = found.of_source.problem, DualPotentials(f_self, f_self)
    slope_x = towards_x - point_slopes(own, shared, v, both=False)[0]
    slope_y = torch.zeros_like(y, dtype=torch.float64)
    if in_y and towards_y is not None:
        own, shared = found.of_target.problem, DualPotentials(g_self, g_self)
        slope_y = towards_y - point_slopes(own, shared, v, both=False)[0]
    slope_a, slope_b = (slope * v[..., None] for slope in weight_slopes(found))
    if exact.is_balanced:
        slope_a, slope_b = (
            slope - (slope * w).sum(-1, keepdim=True) for slope, w in ((slope_a, exact.a), (slope_b, exact.b))
        )
    return slope_a.to(a), slope_x.to(x), slope_b.to(b), slope_y.to(y)


@_slopes.register_fake
def _(v: Tensor, a: Tensor, x: Tensor, b: Tensor, y: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return torch.empty_like(a), torch.empty_like(x), torch.empty_like(b), torch.empty_like(y)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    a, x, b, y, _, _, _, eps, cost, price, rho, _, _ = inputs
    ctx.save_for_backward(a, x, b, y, *output[1:])
    ctx.settings = eps, cost, price, rho
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, v: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    others = (None,) * 9
    if v is None:
        return (None,) * 4 + others
    a, x, b, y, *potentials = ctx.saved_tensors
    wanted = ctx.needs_input_grad[:4]
    slopes = _slopes(v, a, x, b, y, *potentials, *ctx.settings, wanted[3])
    return *(slope if needed else None for slope, needed in zip(slopes, wanted, strict=True)), *others


_divergence.register_autograd(_backward, setup_context=_setup)
