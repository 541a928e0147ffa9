"""One network for all pairs of measures on the plane, of any resolution and at any temperature."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metaot.models.alone import array, layer
from metaot.models.layers import TEMPERATURES, chebyshev
from metaot.models.universal.alone import UniversalAlone
from metaot.models.universal.compiled import COMPILED, UniversalCompiled
from metaot.models.universal.frame import Moments, between_gaussians, width
from metaot.models.universal.parity import CLASSES, ParityBlock, ParityLinear, normal
from metaot.models.universal.places import Bases, Place, places
from metaot.models.universal.step import sinkhorn_step
from metaot.problem import Problem

_COVARIANCES = 5
"""What each class is told beside the cosine moments."""

Step = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From f to the next f, and the marginal that the plan of f misses, float32."""

_WARMEST, _COLDEST = 3.0, 0.01
"""The range of temperatures, in squared widths, that the network tells apart."""


@final
class UniversalNetwork(nn.Module):
    """A network between functions: moments of two measures in, a potential that has a value at every atom out.

    Both measures are seen in their own frames: centred, and of unit width together. f is the closed form between
    Gaussians of the same means and covariances, and what the network adds to it: `modes` cosines of each axis.
    Then it makes `passes` Sinkhorn steps, as `RefinedPotential` does, each followed by a correction that sees the
    missing marginal. Reflections, translations and scalings of the problem are exact symmetries of the answer.
    """

    refines = True

    def __init__(
        self,
        *,
        modes: int = 20,
        width: int = 192,
        hidden: int = 256,
        depth: int = 3,
        correction: int = 160,
        passes: int = 1,
        unrolled: int | None = None,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "modes": modes, "width": width, "hidden": hidden, "depth": depth,
            "correction": correction, "passes": passes, "unrolled": unrolled,
        }  # fmt: skip
        if modes % 2:
            raise ValueError(f"modes must be even, as many even as odd ones, got {modes}")
        self.modes, self.passes, self.unrolled = modes, passes, unrolled
        count = (modes // 2) ** 2
        frequencies = torch.arange(modes, dtype=torch.float32).square()
        smooth = by_parity(1 + frequencies[:, None] + frequencies)[:, None]
        self.register_buffer("emphasis", smooth**0.35, persistent=False)
        damping = 1 / smooth
        damping[0, 0, 0] = 0  # a constant in f means nothing: it is not learnt, and would be noise
        self.register_buffer("damping", damping, persistent=False)
        self.emphasis: Tensor
        self.damping: Tensor
        self.inputs = ParityLinear(2 * count + _COVARIANCES, width)
        self.of_eps = nn.Linear(TEMPERATURES, width, dtype=torch.float32)
        self.blocks = nn.ModuleList(ParityBlock(width, hidden) for _ in range(depth))
        self.outputs = ParityLinear(width, count, gain=0.3)
        self.gain = nn.Linear(TEMPERATURES, count, dtype=torch.float32)
        nn.init.zeros_(self.gain.weight)
        nn.init.ones_(self.gain.bias)
        self.missing = ParityLinear(count + 1, width)
        self.corrector = ParityBlock(width, correction)
        self.correction = ParityLinear(width, count, gain=0.05)

    def stages(self, problem: Problem) -> Iterator[Float[Tensor, "batch n"]]:
        """Give f, float32, as it is refined; a flat batch of problems, ValueError unless they are on the plane.

        No gradient flows from one stage to another. Each is computed when it is asked for.
        """
        sides = places(problem.geometry)
        weights = problem.a.float(), problem.b.float()
        eps = torch.as_tensor(problem.eps, dtype=torch.float32, device=problem.a.device).expand(len(problem.a))
        return self.refined(self.look(sides, weights, eps), partial(sinkhorn_step, problem))

    def refined(self, seen: "Seen", step: Step) -> Iterator[Float[Tensor, "batch n"]]:
        """Give the stages for what was read of a batch, and what makes a Sinkhorn step there."""
        f = self._first(seen)
        yield f
        passes = self.unrolled if self.training and self.unrolled is not None else self.passes
        for _ in range(passes):
            with torch.no_grad():
                stepped, missing = step(f)
            f = stepped + self._correction(seen, missing)
            yield f

    def alone(self) -> UniversalCompiled | UniversalAlone:
        """Return the same without torch, for images, or in numpy for one pair; float32 on a CPU.

        It holds views of the weights.
        """
        return self._compiled() if COMPILED else self._in_numpy()

    def _compiled(self) -> UniversalCompiled:
        blocks = [block for block in self.blocks if isinstance(block, ParityBlock)]
        of_eps, gain = (layer((part.weight, part.bias)) for part in (self.of_eps, self.gain))
        smooth = array(self.emphasis), array(self.damping)
        network = *self.inputs.arrays, *of_eps, *smooth, *self.outputs.arrays, *gain
        return UniversalCompiled(
            modes=self.modes,
            width=len(of_eps[1]),
            terms=TEMPERATURES,
            temperatures=(_COLDEST, _WARMEST),
            network=(*network, *chain.from_iterable(block.arrays for block in blocks)),
            correction=(*self.missing.arrays, *smooth, *self.correction.arrays, *self.corrector.arrays),
        )

    def _in_numpy(self) -> UniversalAlone:
        return UniversalAlone(
            modes=self.modes,
            temperatures=(_COLDEST, _WARMEST),
            emphasis=array(self.emphasis)[:, 0],
            damping=array(self.damping)[:, 0],
            inputs=self.inputs.alone(),
            of_eps=layer((self.of_eps.weight, self.of_eps.bias)),
            blocks=[block.alone() for block in self.blocks if isinstance(block, ParityBlock)],
            outputs=self.outputs.alone(),
            gain=layer((self.gain.weight, self.gain.bias)),
            missing=self.missing.alone(),
            corrector=self.corrector.alone(),
            correction=self.correction.alone(),
        )

    def look(
        self, sides: tuple[Place, Place], weights: tuple[Tensor, Tensor], eps: Float[Tensor, "batch"]
    ) -> "Seen":
        """Bring both measures into their frame and read them."""
        source, target = sides
        a, b = source.moments(weights[0]), target.moments(weights[1])
        unit = width(a, b)
        bases = source.bases(a.mean, unit, self.modes)
        others = target.bases(b.mean, unit, self.modes)
        temperature = chebyshev(_log_unit(eps / unit.square()))
        moments = [
            by_parity(source.analysis(bases, weights[0])),
            by_parity(target.analysis(others, weights[1])),
        ]
        read = torch.cat([*(self.emphasis * m for m in moments), _covariances(a, b, unit)], -1)
        x = self.inputs(read)
        x = torch.cat([x[:1] + self.of_eps(temperature), x[1:]])
        for block in self.blocks:
            x = block(x, temperature)
        return Seen(source, bases, (a, b), eps, unit, temperature, x)

    def _first(self, seen: "Seen") -> Float[Tensor, "batch n"]:
        """Return the potential between Gaussians and what the network adds."""
        coefficients = self.outputs(normal(seen.x)) * (self.damping * self.gain(seen.temperature))
        a, b = seen.moments
        slope = b.mean[0] - a.mean[0], b.mean[1] - a.mean[1]
        F = between_gaussians(a.covariance64, b.covariance64, seen.eps.double())
        xx, yy, xy = (value.float() for value in F)
        return seen.function(coefficients) + seen.place.quadratic(a.mean, slope, (xx, yy, xy))

    def _correction(self, seen: "Seen", missing: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """Return what to add to f, from the missing marginal; nothing is missing, nothing is added."""
        moments = by_parity(seen.place.analysis(seen.bases, missing)) * (100 * self.emphasis)
        size = (moments.square().mean((0, 2), keepdim=True) + 1e-6).sqrt()
        much = torch.cat([size.log(), torch.zeros_like(size).expand(CLASSES - 1, -1, 1)])
        x = seen.x + self.missing(torch.cat([moments / size, much], -1))
        x = self.corrector(x, seen.temperature)
        return seen.function(self.correction(normal(x)) * self.damping * size)


@final
@dataclass(frozen=True)
class Seen:
    """A batch of problems as the network sees it."""

    place: Place
    bases: Bases
    moments: tuple[Moments, Moments]
    eps: Float[Tensor, "batch"]
    width: Float[Tensor, "batch"]
    temperature: Float[Tensor, "batch temperatures"]
    x: Float[Tensor, "4 batch width"]

    def function(self, coefficients: Float[Tensor, "4 batch count"]) -> Float[Tensor, "batch n"]:
        """Return the function of these coefficients at the source atoms, in the units of the cost."""
        return self.place.synthesis(self.bases, from_parity(coefficients)) * self.width.square()[:, None]


def by_parity(table: Float[Tensor, "*batch modes modes"]) -> Float[Tensor, "4 *batch count"]:
    """Sort coefficients into classes."""
    parts = [table[..., p::2, q::2] for p in (0, 1) for q in (0, 1)]
    return torch.stack(parts).flatten(-2)


def from_parity(coefficients: Float[Tensor, "4 batch count"]) -> Float[Tensor, "batch modes modes"]:
    """Undo `by_parity`."""
    half = math.isqrt(coefficients.shape[-1])
    table = coefficients.reshape(2, 2, -1, half, half).permute(2, 3, 0, 4, 1)
    return table.reshape(-1, 2 * half, 2 * half)


def _covariances(a: Moments, b: Moments, unit: Float[Tensor, "batch"]) -> Float[Tensor, "4 batch 5"]:
    """Return second moments in squared widths: of xx and yy for the even class, of xy for the odd one."""
    (axx, ayy, axy), (bxx, byy, bxy) = (
        [value / unit.square() for value in moments.covariance] for moments in (a, b)
    )
    zero = torch.zeros_like(axx)
    even, odd = torch.stack([axx, ayy, bxx, byy, zero], -1), torch.stack([zero, zero, zero, axy, bxy], -1)
    none = torch.zeros_like(even)
    return torch.stack([even, none, none, odd])


def _log_unit(eps: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """Map the logarithms of temperatures in squared widths to [-1, 1]."""
    low, high = math.log(_COLDEST), math.log(_WARMEST)
    return ((2 * eps.log() - low - high) / (high - low)).clamp(-1, 1)
