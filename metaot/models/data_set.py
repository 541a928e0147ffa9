"""A data set with a potential: scores of its points, seen from others, in blocks that fit into memory.

The score of y_j seen from x is h_j - c(x, y_j), with h = g + eps log b. At a temperature x goes to y_j with the
probability exp(score/eps), normalised over j; without one, to the best score.
"""

from collections.abc import Callable, Iterator
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from metaot.geometry.costs import COSTS, Cost, matrix_of_costs
from metaot.geometry.projections import projection_of

PRODUCTS = {"sqeuclidean": 2.0, "dot": 1.0}
"""Costs that are a function of x and one of y, less so many times their product."""

ENTRIES, ROWS = 2**24, 256
"""Scores that are made at once, 64 MiB in float32; and the points that see as many of the data as that allows."""

_FAR = 100.0
"""Data are far from the origin where the square of their mean is so many times their variance."""

Parts = Callable[[], Iterator[tuple[slice, Float[Tensor, "k part"]]]]
"""Successive parts of a data set with their scores, in units of eps if there is one."""


@final
class DataSetPotential(nn.Module):
    """Points y, m d, with weights b and a potential g, for one cost and one temperature, which may be zero.

    For squared distances, data that are far from the origin are kept without their mean.

    Args:
        cost: the name of the cost, or a function of points.
        eps: the temperature, in the units of the cost; 0 for none.
        dtype: the precision of the data: float32 or float64.
    """

    y: Tensor
    centre: Tensor
    b: Tensor
    g: Tensor

    def __init__(
        self, points: int, dim: int, *, cost: str | Cost = "sqeuclidean", eps: float = 0.0, dtype: str = "float32"
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"points": points, "dim": dim, "cost": cost, "eps": eps, "dtype": dtype}
        self.cost, self.eps, kind = cost, eps, getattr(torch, dtype)
        self.register_buffer("y", torch.zeros(points, dim, dtype=kind))
        self.register_buffer("centre", torch.zeros(dim, dtype=kind))
        self.register_buffer("b", torch.full((points,), 1 / points, dtype=kind))
        self.register_buffer("g", torch.zeros(points, dtype=kind))
        self._squares: Tensor | None = None
        self._rounded: Tensor | None = None

    @classmethod
    def of(
        cls, y: Float[Tensor, "m d"], b: Float[Tensor, "m"], cost: str | Cost, eps: float
    ) -> "DataSetPotential":
        """Return a data set with the potential zero, which holds y itself, or y without its mean."""
        model = cls(*y.shape, cost=cost, eps=eps, dtype=str(y.dtype).removeprefix("torch.")).to(y.device)
        mean = y.mean(0)
        far = cost == "sqeuclidean" and bool(mean.square().sum() > _FAR * (y - mean).square().sum(1).mean())
        model.y, model.centre, model.b = (y - mean, mean, b) if far else (y, torch.zeros_like(mean), b)
        return model

    @property
    def data(self) -> Float[Tensor, "m d"]:
        """The points of the data set as they were given."""
        return self.y + self.centre if bool(self.centre.any()) else self.y

    @property
    def h(self) -> Float[Tensor, "m"]:
        """What a softmin takes: g + eps log b, and -inf where there is no mass."""
        return self.g + self.eps * self.b.log() if self.eps else torch.where(self.b > 0, self.g, -torch.inf)

    def blocks(self, x: Float[Tensor, "k d"]) -> tuple[Tensor, ...]:
        """Split points, so that a block and all data, or a part of them, have as many scores as fit."""
        return x.split(max(ROWS, ENTRIES // len(self.y)))

    def scores(self, x: Float[Tensor, "k d"], part: slice = slice(None)) -> Float[Tensor, "k part"]:
        """Return the scores of a part of the data, less what depends on x only: |x|^2 for squared distances."""
        if self.cost in PRODUCTS:
            return torch.addmm(self._offsets[part], x - self.centre, self.y[part].mT, alpha=PRODUCTS[self.cost])
        return self.h[part] - self._costs(x, self.y[part])

    def rounded_scores(self, x: Float[Tensor, "k d"], part: slice = slice(None)) -> Float[Tensor, "k part"]:
        """Return scores from products of numbers in bfloat16, for which processors have instructions of their own.

        Only for costs in `PRODUCTS`.
        """
        if self._rounded is None:
            self._rounded = self.y.bfloat16()
        products = (x - self.centre).bfloat16() @ self._rounded[part].mT
        return torch.add(self._offsets[part], products, alpha=PRODUCTS[self.cost])  # type: ignore[index]

    @property
    def _offsets(self) -> Float[Tensor, "m"]:
        if self.cost != "sqeuclidean":
            return self.h
        if self._squares is None or self._squares.device != self.y.device:
            self._squares = torch.linalg.vector_norm(self.y, dim=1).square()
        return self.h - self._squares

    def _costs(self, x: Tensor, y: Tensor) -> Tensor:
        if callable(self.cost):
            return matrix_of_costs("cost(x, y)", self.cost(x, y), x, len(y))
        return COSTS[self.cost](x, y)

    def parts(self, x: Float[Tensor, "k d"], scores: Callable[..., Tensor] | None = None) -> Parts:
        """Return the scores from a block, part by part; a single part is made once, and may be changed."""
        make, width, unit = scores or self.scores, max(1, ENTRIES // len(x)), self.eps or 1.0

        def made() -> Iterator[tuple[slice, Tensor]]:
            for start in range(0, len(self.y), width):
                part = slice(start, start + width)
                S = make(x, part)
                yield part, S if unit == 1.0 else S.div_(unit)

        if width < len(self.y):
            return made
        kept = list(made())
        return lambda: iter(kept)

    def best(self, x: Float[Tensor, "k d"]) -> tuple[Float[Tensor, "k"], Int[Tensor, "k"]]:
        """Return the best scores seen from a block, in units of eps if there is one, and whose they are."""
        return _best(self.parts(x))

    def log_sums(self, parts: Parts, power: float = 1.0) -> Float[Tensor, "k"]:
        """Return log sum_j exp(power score_j), with scores in units of eps."""
        return torch.stack([(S if power == 1 else power * S).logsumexp(1) for _, S in parts()]).logsumexp(0)

    def potential(self, x: Float[Tensor, "k d"]) -> Float[Tensor, "k"]:
        r"""Return f(x) = $\min_j c(x, y_j) - g_j$, or its softmin at the temperature."""
        found = []
        for rows in self.blocks(x):
            own = (rows - self.centre).square().sum(1) if self.cost == "sqeuclidean" else 0.0
            parts = self.parts(rows)
            found.append(own - (self.eps * self.log_sums(parts) if self.eps else _best(parts)[0]))
        return torch.cat(found)

    def received(self, x: Float[Tensor, "k d"], scores: Callable[..., Tensor] | None = None) -> Float[Tensor, "m"]:
        """Return what each of the data gets of points of mass one, in all."""
        total = torch.zeros_like(self.g)
        for rows in self.blocks(x):
            parts = self.parts(rows, scores)
            if not self.eps:
                total += torch.bincount(_best(parts)[1], minlength=len(total))
                continue
            sums = self.log_sums(parts)[:, None] if len(self.y) > ENTRIES // len(rows) else None
            for part, S in parts():
                total[part] += (S.softmax(1) if sums is None else S.sub_(sums).exp_()).sum(0)
        return total

    def assigned(self, x: Float[Tensor, "k d"], generator: torch.Generator | None) -> Int[Tensor, "k"]:
        """Return for each point one of the data: the best, or at a temperature one by its probability."""
        return torch.cat(
            [self._drawn(rows, generator) if self.eps else self.best(rows)[1] for rows in self.blocks(x)]
        )

    def _drawn(self, x: Float[Tensor, "k d"], generator: torch.Generator | None) -> Int[Tensor, "k"]:
        """Draw a part of the data by its mass, and then one of its points: few random numbers for many data."""
        parts = self.parts(x)
        masses = torch.stack([S.logsumexp(1) for _, S in parts()], 1).softmax(1)
        chosen = _by_mass(masses, generator)
        index = torch.zeros_like(chosen)
        for k, (part, S) in enumerate(parts()):
            rows = (chosen == k).nonzero()[:, 0]
            if len(rows):
                index[rows] = part.start + _by_mass(S[rows].softmax(1), generator)
        return index

    def conditional(self, x: Float[Tensor, "k d"]) -> Float[Tensor, "k m"]:
        """Return the probabilities with which points go to the data: a matrix."""
        if not self.eps:
            return torch.nn.functional.one_hot(self.assigned(x, None), len(self.y)).to(self.y)
        return torch.cat([self.scores(rows).div_(self.eps).softmax(1) for rows in self._few(x)])

    def sent(self, x: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
        """Return where points are sent: to the best of the data, or to their mean as the cost understands it."""
        if not self.eps:
            return self.y[self.assigned(x, None)] + self.centre
        send = projection_of(self.cost)
        if send is not None:
            return torch.cat([send(self.conditional(rows), rows, self.y) for rows in self._few(x)])
        found = []
        for rows in self.blocks(x):
            parts = self.parts(rows)
            sums = self.log_sums(parts)[:, None]
            found.append(sum(((S - sums).exp() @ self.y[part] for part, S in parts()), self.centre))
        return torch.cat(found)

    def _few(self, x: Float[Tensor, "k d"]) -> tuple[Tensor, ...]:
        """Split points, so that all data fit beside a block."""
        return x.split(max(1, ENTRIES // len(self.y)))


def _best(parts: Parts) -> tuple[Float[Tensor, "k"], Int[Tensor, "k"]]:
    found = [(*S.max(1), part.start) for part, S in parts()]
    value, which = torch.stack([value for value, _, _ in found]).max(0)
    index = torch.stack([index + start for _, index, start in found])
    return value, index.gather(0, which[None])[0]


def _by_mass(p: Float[Tensor, "k n"], generator: torch.Generator | None) -> Int[Tensor, "k"]:
    """Draw a column for each row, by the row's masses."""
    ends = p.cumsum(1)
    device = p.device if generator is None else generator.device
    u = torch.rand(len(p), 1, generator=generator, device=device, dtype=p.dtype).to(p.device)
    return torch.searchsorted(ends, u * ends[:, -1:], right=True)[:, 0].clamp_max(p.shape[1] - 1)
