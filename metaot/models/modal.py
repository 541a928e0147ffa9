"""A network for any space that all problems share: it reads and writes in the slow modes of Sinkhorn.

At the mean of the problems, a Sinkhorn step multiplies an error of f by D(a)^-1 P D(b)^-1 P^T. The modes are its
eigenfunctions; where the eigenvalue is near one, Sinkhorn is slow. On a grid they are close to cosines; here they
come from the singular vectors of the plan, so that atoms may lie anywhere, and a matrix of costs will do.
"""

import math
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from metaot.geometry import Geometry
from metaot.models.base import (
    TEMPERATURES,
    ModulatedBlock,
    PotentialModel,
    chebyshev,
    log_unit,
    require_settings,
)
from metaot.potentials import DualPotentials, c_transform, centred, plan, sinkhorn_step
from metaot.problem import Problem

_STEPS = 100
"""Sinkhorn steps towards the solution of the mean problem."""
_FEWEST = 1e-3
"""The part of the mean weights that is spread evenly: places that never had mass have modes too."""
_EXACT = 512
"""Atoms on the smaller side up to which all singular vectors are computed; with more, the leading ones."""


class Modes(NamedTuple):
    """The slow modes at a mean problem: f there, functions on both sides, and their eigenvalues.

    Functions are orthonormal under the mean weights; a Sinkhorn step multiplies an error in a mode by the square
    of its `correlation`.
    """

    f: Float[Tensor, "n"]
    source: Float[Tensor, "n modes"]
    target: Float[Tensor, "m modes"]
    correlation: Float[Tensor, "modes"]


@final
class ModalPotential(PotentialModel):
    """A residual network between modes, and `passes` refinement steps with a learnt correction.

    It reads the moments of a and of b under the `modes` slowest modes of either side, and predicts f as the
    potential of the mean problem and a combination of modes. A refinement step is a Sinkhorn step, which shows
    the missing marginal, and a correction of the slow modes: Newton's step at the mean problem, which a learnt
    matrix adapts to the problem at hand. Untrained, the correction is that Newton step. `passes` may be set to
    another number after training; training makes `unrolled` refinement steps, by default as many.

    Args:
        modes: slow modes of either side that the network reads and corrects.
        width: features of each residual layer.
        hidden: units inside each residual layer.
        depth: residual layers.
        correction: the rank of the learnt matrix.
        passes: refinement steps in a prediction.
        unrolled: refinement steps in training; null for as many as in a prediction.
    """

    refines, corrects = True, True

    def __init__(
        self,
        n: int,
        m: int,
        eps: list[float],
        *,
        modes: int = 64,
        width: int = 256,
        hidden: int = 256,
        depth: int = 2,
        correction: int = 256,
        passes: int = 1,
        unrolled: int | None = None,
    ) -> None:
        super().__init__()
        self.config = {
            "n": n, "m": m, "eps": eps, "modes": modes, "width": width, "hidden": hidden, "depth": depth,
            "correction": correction, "passes": passes, "unrolled": unrolled,
        }  # fmt: skip
        require_settings(type(self), self.config)
        self.config["modes"] = modes = max(1, min(modes, n - 1, m - 1))
        self.bounds, self.sizes = (eps[0], eps[1]), (n, m)
        self.passes, self.unrolled = passes, unrolled
        self.space: Geometry | None = None
        for name, shape in (("mean_f", (n,)), ("source", (n, modes)), ("target", (m, modes))):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float32))
        for name in ("centre", "spread"):
            self.register_buffer(name, torch.ones(2 * modes, dtype=torch.float32))
        self.register_buffer("unit", torch.ones(modes, dtype=torch.float32))
        self.mean_f: Tensor
        self.source: Tensor
        self.target: Tensor
        self.centre: Tensor
        self.spread: Tensor
        self.unit: Tensor
        self.inputs = nn.Linear(2 * modes + TEMPERATURES, width)
        self.blocks = nn.ModuleList(ModulatedBlock(width, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.outputs = nn.Linear(width, modes)
        self.shift = nn.Linear(TEMPERATURES, n, bias=False)
        for parameter in (self.outputs.weight, self.outputs.bias, self.shift.weight):
            nn.init.zeros_(parameter)
        self.correction = ModalCorrection(modes, width, correction, self.bounds)

    @classmethod
    def for_geometry(cls, geometry: Geometry, eps: tuple[float, float], **settings: Any) -> "ModalPotential":
        if geometry.batch_shape:
            raise ValueError(f"modes are of one geometry, got a batch {geometry.batch_shape} of them")
        n, m = geometry.shape
        model = cls(n, m, list(eps), **settings)
        model.space = geometry
        model.find_modes(torch.full((n,), 1 / n), torch.full((m,), 1 / m))
        return model

    def forward(  # type: ignore[override], the inputs by name
        self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"], eps: Float[Tensor, "batch"]
    ) -> tuple[Tensor, ...]:
        """Return f, the features x (batch width) and the polynomials of log eps (batch temperatures)."""
        temperature = chebyshev(log_unit(eps, self.bounds))
        moments = (torch.cat([a @ self.source, b @ self.target], -1) - self.centre) / self.spread
        x = self.inputs(torch.cat([moments, temperature], -1))
        for block in self.blocks:
            x = block(x, temperature)
        x = self.norm(x)
        f = self.mean_f + self.unit.amax(-1) * self.shift(temperature)
        return f + (self.outputs(x) * self.unit) @ self.source.mT, x, temperature

    def correct(self, missing: Tensor, *features: Tensor) -> Tensor:
        return self.correction(missing @ self.source, *features) @ self.source.mT

    @torch.no_grad()
    def find_modes(self, a: Float[Tensor, "n"], b: Float[Tensor, "m"]) -> None:
        """Set the modes to those of the problem between a and b, at the middle of the temperatures."""
        assert self.space is not None, "a trained model keeps its modes"
        eps = math.sqrt(self.bounds[0] * self.bounds[1])
        modes = slow_modes(self.space, a, b, eps, self.config["modes"])
        self.mean_f.copy_(modes.f)
        self.source.copy_(modes.source)
        self.target.copy_(modes.target)
        self.correction.set_newton(modes.correlation, eps)

    @torch.no_grad()
    def standardise(self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"]) -> None:
        """Find the modes at the mean of the sample, and the spread of the moments."""
        if self.space is not None:
            self.find_modes(a.mean(0), b.mean(0))
        moments = torch.cat([a @ self.source, b @ self.target], -1)
        self.centre.copy_(moments.mean(0))
        self.spread.copy_(moments.std(0) + 1e-6)
        of_source, of_target = self.spread.chunk(2)
        self.unit.copy_(self.correction.stiffness * (of_source + of_target))


@final
class ModalCorrection(nn.Module):
    """A linear map from the moments of a missing marginal to a correction, which depends on the problem.

    It is Newton's at the mean problem, eps s^2 / (1 - s^2) for a correlation s, scaled for the temperature, plus a
    learnt matrix of the rank `rank`, whose factors in the middle are read from the features.
    """

    def __init__(self, modes: int, width: int, rank: int, bounds: tuple[float, float]) -> None:
        super().__init__()
        self.half_width = max(math.log(bounds[1] / bounds[0]), 1.0) / 2
        self.register_buffer("stiffness", torch.ones(modes, dtype=torch.float32))
        self.register_buffer("newton", torch.ones(modes, dtype=torch.float32))
        self.stiffness: Tensor
        self.newton: Tensor
        self.gain = nn.Linear(TEMPERATURES, modes, bias=False)
        self.enter = nn.Linear(modes, rank, bias=False)
        self.gates = nn.Linear(width, rank)
        self.leave = nn.Linear(rank, modes, bias=False)
        for layer in (self.gain, self.leave):
            nn.init.zeros_(layer.weight)

    @torch.no_grad()
    def set_newton(self, correlation: Float[Tensor, "modes"], eps: float) -> None:
        """Set the map at the mean problem: what is left of an error after the Sinkhorn step that shows it."""
        square = correlation.square().clamp(1e-6, 1 - 1e-6)
        self.stiffness.copy_(eps / (1 - square))
        self.newton.copy_(eps * square / (1 - square))

    def forward(
        self,
        moments: Float[Tensor, "batch modes"],
        x: Float[Tensor, "batch width"],
        temperature: Float[Tensor, "batch temperatures"],
    ) -> Float[Tensor, "batch modes"]:
        """Return the coefficients of the correction."""
        root = self.newton.sqrt()
        scaled = moments * root * (self.half_width * temperature[:, 1:2]).exp()
        learnt = self.leave(self.enter(scaled) * self.gates(x))
        return root * (scaled * (1 + self.gain(temperature)) + learnt)


def slow_modes(geometry: Geometry, a: Float[Tensor, "n"], b: Float[Tensor, "m"], eps: float, count: int) -> Modes:
    """Return the slow modes of the problem between a and b, float64, after a number of Sinkhorn steps.

    Where there are fewer than `count`, the others are zero. Raises ValueError where there is no plan.
    """
    sides = (w.detach().double().cpu() for w in (a, b))
    a, b = (_FEWEST / len(w) + (1 - _FEWEST) * w / w.sum() for w in sides)
    problem = Problem(a[None], b[None], geometry.to(a), eps)
    f = torch.zeros_like(problem.a)
    for _ in range(_STEPS):
        f = sinkhorn_step(problem, f)[0]
    f = centred(problem.a, f)
    P = plan(problem, DualPotentials(f, c_transform(problem, f)))[0]
    A = P / a.sqrt()[:, None] / b.sqrt()
    if not bool(A.isfinite().all()):
        raise ValueError(f"no plan between the mean weights has a finite cost on {geometry}: allow more pairs")
    if min(A.shape) <= _EXACT:
        U, correlation, Vh = torch.linalg.svd(A, full_matrices=False)
        V = Vh.mT
    else:
        U, correlation, V = torch.svd_lowrank(A, q=min(*A.shape, count + 17), niter=8)
    found = slice(1, count + 1)  # the first mode is constant
    source, target = U[:, found] / a.sqrt()[:, None], V[:, found] / b.sqrt()[:, None]
    missing = count - source.shape[1]
    return Modes(f[0], *(pad(part, (0, missing)) for part in (source, target, correlation[found])))
