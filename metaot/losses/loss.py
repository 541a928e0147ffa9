"""`SinkhornLoss`: the Sinkhorn divergence of two point clouds as a module, which remembers where it was.

Its value is the operator `metaot::sinkhorn_divergence` of torch, with an operator for its derivatives, so that
`torch.compile` takes it as it is.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metaot.arrays import ArrayLike, as_positive, require_limits, wrong
from metaot.geometry import Points
from metaot.geometry.checks import given, is_floating, together
from metaot.geometry.costs import wrong_cost
from metaot.losses.divergence import self_spaces, solve_divergence, to_itself, weight_slopes
from metaot.losses.divergence_solution import DivergenceSolution
from metaot.marginals import KL, TV
from metaot.objectives.plan_cost import SMOOTH, FirstOnly, point_slopes
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.solvers import Solution, Symmetric

Parts = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""Of a call: potentials between both clouds and of each to itself, and the clouds."""

_LIBRARY = torch.library.Library("metaot", "FRAGMENT")

_KEPT, _FARTHEST, _ALIKE = 3, 3.0, 1e-12
"""Calls that are kept; how much of an earlier move is made again at most; squares of moves that count as one."""


@final
class SinkhornLoss(nn.Module):
    """The Sinkhorn divergence of two clouds, to be minimised: `loss(x, y)`, or `loss(a, x, b, y)` with weights.

    Clouds are *batch n d and *batch m d, weights *batch n and *batch m with masses of one (without them, equal
    weights); the value has the shape of the batch, and the dtype of x. `eps` is in the units of the cost,
    "sqeuclidean" (|x - y|^2) or "euclidean" (Feydy et al., arXiv 1810.08278, equation 3). For
    `geomloss.SamplesLoss("sinkhorn", p=2, blur=s)`, whose cost is |x - y|^2/2, take eps = 2 s^2 and half of the
    value, and for `reach=r` marginals=metaot.KL(2 r^2).

    `marginals` is None, or `metaot.KL(rho)` or `metaot.TV(rho)` for both clouds with a number rho, in the units of
    the cost; weights may have any masses then.

    Potentials and points of the last three calls are kept: where the clouds have the shapes of the last call, as
    in a training, the next solve starts from its potentials, on the side of the cloud that moved less; if the
    points go on as in the calls before, so do the potentials of the start. They belong to the points in their
    order: for batches that are drawn anew in each call, set `remembers=False`. `forget()` empties the memory.
    Solved in float64, with the L1 marginal errors at most `tol`, in at most `max_steps` steps: what has not
    converged by then has the value and slopes of its potentials.

    Raises ValueError for clouds and weights that are not finite, negative weights, a mass that is not one and
    shapes that do not fit; TypeError for what holds no numbers.

        loss = metaot.losses.SinkhornLoss(eps=0.05)
        loss(model(noise), data).backward()
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
        if not (marginals is None or (isinstance(marginals, KL | TV) and isinstance(marginals.rho, float))):
            raise wrong("marginals", "None, metaot.KL(rho) or metaot.TV(rho) with a number rho", marginals)
        self.marginals = marginals
        self.eps, self.cost, self.remembers = as_positive("eps", eps), cost, remembers
        self.tol, self.max_steps = require_limits(tol, max_steps)
        self._past: tuple[Parts, ...] = ()

    def forward(self, *clouds: ArrayLike) -> Float[Tensor, "*batch"]:
        """Return the divergence of `(x, y)` or `(a, x, b, y)`."""
        a, x, b, y = _given(clouds)
        start = self._start(a, x, b, y)
        code, rho = (self.marginals.code, self.marginals.rho) if self.marginals else (0, 0.0)
        settings = (self.eps, self.cost, code, rho, self.tol, self.max_steps)
        value, *potentials = _divergence(a, x, b, y, *start, *settings)
        if self.remembers:
            points = x.detach().clone(), y.detach().clone()  # an optimiser moves them in place
            f, g, f_self, g_self = (z.detach() for z in potentials)
            self._past = (f, g, f_self, g_self, *points), *self._past[: _KEPT - 1]
        return value

    def forget(self) -> None:
        """Have the next call start without the last one's potentials."""
        self._past = ()

    @torch.no_grad()
    def _start(self, *clouds: Tensor) -> tuple[Tensor | None, ...]:
        """Return where the last potentials lead to if the points go on as before, and whether x moved the most."""
        if not (self.remembers and self._past and _fits(self._past[0], *clouds)):
            self._past = ()
            return (None,) * 5
        last, *_ = self._past
        now = (*last[:4], clouds[1], clouds[3])
        moves = [
            [after - before for after, before in zip(*pair, strict=True)] for pair in pairwise((now, *self._past))
        ]
        along_x, along_y = (move.square().sum() for move in moves[0][4:])
        start = list(last[:4])
        for share, move in zip(_made_again([move[4:] for move in moves]), moves[1:], strict=True):
            start = [z + share[..., None] * step for z, step in zip(start, move[:4], strict=True)]
        return *start, along_x > along_y

    def extra_repr(self) -> str:
        sides = "" if self.marginals is None else f", marginals={self.marginals}"
        return f"eps={self.eps:g}, cost={self.cost!r}{sides}, tol={self.tol:g}, max_steps={self.max_steps}"


def _given(clouds: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return weights and clouds; equal weights where none are given."""
    if len(clouds) not in (2, 4):
        raise TypeError(f"a loss takes (x, y) or (a, x, b, y), got {len(clouds)} arguments")
    if not all(isinstance(cloud, Tensor) and is_floating(cloud) for cloud in clouds):
        names = ("x", "y") if len(clouds) == 2 else ("a", "x", "b", "y")
        clouds = tuple(together(*(given(name, cloud) for name, cloud in zip(names, clouds, strict=True))))
    if len(clouds) == 4:
        return clouds  # type: ignore[return-value]
    x, y = clouds
    if x.ndim < 2 or y.ndim < 2 or 0 in (*x.shape[-2:], *y.shape[-2:]):
        raise ValueError(
            f"clouds must have the shape (*batch, points, d), got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    a, b = (z.new_full(z.shape[:-1], 1 / z.shape[-2]) for z in (x, y))
    return a, x, b, y


def _made_again(moves: list[list[Tensor]]) -> list[Float[Tensor, "*batch"]]:
    """Return how much of each move before is made again in the first one, by least squares."""
    now, *before = ([z.double() for z in move] for move in moves)

    def product(left: list[Tensor], right: list[Tensor]) -> Tensor:
        x, y = ((one * other).sum((-2, -1)) for one, other in zip(left, right, strict=True))
        return x + y

    if not before:
        return []
    if len(before) == 1:
        length = product(before[0], before[0])
        return [torch.where(length > 0, product(now, before[0]) / length, 0.0).clamp(0, 1)]
    (p, q), (r, s) = before, (product(now, move) for move in before)
    pp, pq, qq = product(p, p) * (1 + _ALIKE), product(p, q), product(q, q) * (1 + _ALIKE)
    area = pp * qq - pq.square()
    shares = (qq * r - pq * s) / area, (pp * s - pq * r) / area
    return [torch.where(area > 0, share, 0.0).clamp(-_FARTHEST, _FARTHEST) for share in shares]


def _fits(known: Parts, a: Tensor, x: Tensor, b: Tensor, y: Tensor) -> bool:
    """Return whether potentials and clouds of an earlier call are of these shapes."""
    f, g, _, _, *clouds = known
    shapes = [z.shape for z in (f, g, *clouds)]
    return shapes == [z.shape for z in (a, b, x, y)] and f.device == a.device


def _problem(a: Tensor, x: Tensor, b: Tensor, y: Tensor, settings: tuple[float, str, int, float]) -> Problem:
    eps, cost, code, rho = settings
    marginals = None if code == 0 else (KL if code == KL.code else TV)(rho)
    return Problem(a.detach(), b.detach(), Points(x.detach(), y.detach(), cost), eps, marginals)


def _operator(name: str, arguments: str, results: int, work: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Return a new operator of torch; that of `custom_op` imports the compiler of torch at its first call."""
    _LIBRARY.define(f"{name}({arguments}) -> ({', '.join(['Tensor'] * results)})")
    _LIBRARY.impl(name, work, "CompositeExplicitAutograd")
    torch.library.register_fake(f"metaot::{name}", fake, lib=_LIBRARY)
    return getattr(torch.ops.metaot, name).default


def _divergence_of(  # noqa: PLR0917, an operator has its settings beside its tensors
    a: Tensor,
    x: Tensor,
    b: Tensor,
    y: Tensor,
    f: Tensor | None,
    g: Tensor | None,
    f_self: Tensor | None,
    g_self: Tensor | None,
    turned: Tensor | None,
    eps: float,
    cost: str,
    price: int,
    rho: float,
    tol: float,
    max_steps: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the value, the potentials between both clouds, and those of each cloud to itself, from a start.

    Where it is `turned`, the start is g.
    """
    problem, init = _problem(a, x, b, y, (eps, cost, price, rho)), None
    if f is not None and g is not None and f_self is not None and g_self is not None and turned is not None:
        init = _solution(problem, DualPotentials(f, g), (f_self, g_self))
    is_turned = init is not None and bool(turned)
    if is_turned:
        problem, init = problem.T, _turned(init)
    found = solve_divergence(problem, init=init, tol=tol, max_steps=max_steps)
    if is_turned:
        found = _turned(found)
    f, g, f_self, g_self = (
        z.clone() for part in (found.potentials, found.self_potentials) for z in (part.f, part.g)
    )
    return found.value.to(x), f, g, f_self, g_self


def _turned(found: DivergenceSolution) -> DivergenceSolution:
    """Exchange source and target."""
    between = replace(found.between, problem=found.between.problem.T, potentials=found.potentials.T)
    return DivergenceSolution(between, found.of_target, found.of_source)


def _solution(problem: Problem, between: DualPotentials, own: tuple[Tensor, Tensor]) -> DivergenceSolution:
    """Return potentials of an earlier call as a solution."""
    zero = torch.zeros_like(problem.a[..., 0])

    def of(problem: Problem, potentials: DualPotentials) -> Solution:
        return Solution(problem, potentials, zero, zero == 0, zero.long(), (Symmetric(),))

    sides = zip((problem.a, problem.b), self_spaces(problem, None), own, strict=True)
    selves = (of(to_itself(problem, w, space), DualPotentials(h, h)) for w, space, h in sides)
    return DivergenceSolution(of(problem, between), *selves)


def _fake_divergence(a: Tensor, x: Tensor, b: Tensor, y: Tensor, *_: Any) -> tuple[Tensor, ...]:
    f, g = (torch.empty_like(w, dtype=torch.float64) for w in (a, b))
    return x.new_empty(x.shape[:-2]), f, g, torch.empty_like(f), torch.empty_like(g)


def _slopes_of(  # noqa: PLR0917, as above
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


def _fake_slopes(v: Tensor, a: Tensor, x: Tensor, b: Tensor, y: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return torch.empty_like(a), torch.empty_like(x), torch.empty_like(b), torch.empty_like(y)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    a, x, b, y, _, _, _, _, _, eps, cost, price, rho, _, _ = inputs
    ctx.save_for_backward(a, x, b, y, *output[1:])
    ctx.settings = eps, cost, price, rho
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, v: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    others = (None,) * 11
    if v is None:
        return (None,) * 4 + others
    a, x, b, y, *potentials = ctx.saved_tensors
    wanted = ctx.needs_input_grad[:4]
    slopes = _slopes(v, a, x, b, y, *potentials, *ctx.settings, wanted[3])
    return *(slope if needed else None for slope, needed in zip(slopes, wanted, strict=True)), *others


_CLOUDS = "Tensor a, Tensor x, Tensor b, Tensor y"
_START = "Tensor? f, Tensor? g, Tensor? f_self, Tensor? g_self, Tensor? turned"
_WHAT, _LIMITS = "float eps, str cost, int price, float rho", "float tol, int max_steps"
_divergence = _operator(
    "sinkhorn_divergence", f"{_CLOUDS}, {_START}, {_WHAT}, {_LIMITS}", 5, _divergence_of, _fake_divergence
)
_POTENTIALS = "Tensor f, Tensor g, Tensor f_self, Tensor g_self"
_slopes = _operator(
    "sinkhorn_divergence_slopes",
    f"Tensor v, {_CLOUDS}, {_POTENTIALS}, {_WHAT}, bool in_y",
    4,
    _slopes_of,
    _fake_slopes,
)
torch.library.register_autograd("metaot::sinkhorn_divergence", _backward, setup_context=_setup, lib=_LIBRARY)
torch.library.register_autograd("metaot::sinkhorn_divergence_slopes", FirstOnly.backward, lib=_LIBRARY)
