"""The networks of the package in the form that exports to few nodes: the same functions, with constants folded.

Whatever depends on eps alone is one product: all modulations, gains and biases are linear in the same few
polynomials of log eps.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, linear

from metaot.models import GroupedPotential, PotentialMLP, PotentialModel, RefinedPotential, SpectralPotential
from metaot.models.cosines import Cosines
from metaot.models.layers import TEMPERATURES, ModulatedBlock
from metaot.models.refined import Correction
from metaot.onnx.graph.axes import product
from metaot.onnx.graph.grids import Sums

State = tuple[Tensor, ...]
"""What the first half of a network hands to the second; f, float64, is the last of it."""


class Network(nn.Module, ABC):
    """A network in two halves: what it predicts, and what it does with Sinkhorn steps of its own."""

    @abstractmethod
    def start(self, a: Tensor, b: Tensor, eps: Tensor) -> State:
        """Return the state after the first half; weights batch n and batch m, and eps k, all float64."""

    @abstractmethod
    def finish(self, state: State, a: Tensor, b: Tensor, sums: Sums) -> Tensor:
        """Return f in the units of the cost; f and the weights in the shape that sums want."""


def network(model: PotentialModel) -> Network:
    """Return the form of a model that is exported."""
    if isinstance(model, RefinedPotential):
        return Refined(model) if model.passes else Spectral(model.first)
    if isinstance(model, SpectralPotential):
        return Spectral(model)
    if isinstance(model, PotentialMLP):
        return Perceptron(model)
    if isinstance(model, GroupedPotential):
        return Grouped(model)
    raise ValueError(f"a {type(model).__name__} cannot be exported: it is none of the discrete models")


@final
class OfEps(nn.Module):
    """Vectors that are linear in the Chebyshev polynomials of log eps, all in one product."""

    def __init__(self, bounds: tuple[float, float]) -> None:
        super().__init__()
        low, high = math.log(bounds[0]), math.log(bounds[1])
        self.slope = 2 / max(high - low, 1.0)
        self.offset = -(low + high) / max(high - low, 1.0)
        self.sizes: list[int] = []
        self.register_buffer("exponents", torch.arange(TEMPERATURES, dtype=torch.float32))
        self.register_buffer("weight", torch.zeros(0, TEMPERATURES, dtype=torch.float32))
        self.register_buffer("bias", torch.zeros(0, dtype=torch.float32))
        self.exponents: Tensor
        self.weight: Tensor
        self.bias: Tensor

    def add(self, weight: Tensor, bias: Tensor) -> None:
        """Append a vector weight @ polynomials + bias."""
        self.sizes.append(len(weight))
        of_powers = weight.double() @ _chebyshev_in_powers()
        self.weight = torch.cat([self.weight, of_powers.float()])
        self.bias = torch.cat([self.bias, bias.float()])

    def forward(self, eps: Tensor) -> Tensor:
        """Return all vectors, one behind the other, k rows."""
        t = eps.log().float()[:, None] * self.slope + self.offset
        return linear(t**self.exponents, self.weight, self.bias)

    def parts(self, vectors: Tensor) -> list[Tensor]:
        """Take them apart again."""
        return list(vectors.split(self.sizes, -1))


def _chebyshev_in_powers() -> Tensor:
    """Return the coefficients of T_k in powers of t, row by row."""
    rows = torch.zeros(TEMPERATURES, TEMPERATURES, dtype=torch.float64)
    rows[0, 0] = rows[1, 1] = 1
    for k in range(2, TEMPERATURES):
        rows[k, 1:] = 2 * rows[k - 1, :-1]
        rows[k] -= rows[k - 2]
    return rows


@final
class Block(nn.Module):
    """A `ModulatedBlock`; its scale and shift are vectors of eps."""

    def __init__(self, block: ModulatedBlock, of_eps: OfEps) -> None:
        super().__init__()
        scale, shift = block.modulation.weight.chunk(2)
        weight, bias = block.norm.weight, block.norm.bias
        of_eps.add(weight[:, None] * scale, weight)
        of_eps.add(bias[:, None] * scale + shift, bias)
        self.inner, self.outer = block.inner, block.outer

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        gate, value = self.inner(_normal(x) * scale + shift).chunk(2, -1)
        return x + self.outer(gelu(gate) * value)


def _normal(x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[1:])


@final
class Basis(nn.Module):
    """One matrix for each axis; the last one transposed, and times a number."""

    def __init__(self, matrices: Sequence[Tensor], factor: float = 1.0) -> None:
        super().__init__()
        self.count = len(matrices)
        *others, last = matrices
        for axis, matrix in enumerate([*others, last.mT * factor]):
            self.register_buffer(f"axis{axis}", matrix.contiguous())

    def forward(self, values: Tensor) -> Tensor:
        return product([getattr(self, f"axis{axis}") for axis in range(self.count)], values)


def _cosines(cosines: Cosines) -> list[Tensor]:
    return [getattr(cosines, f"basis{axis}") for axis in range(len(cosines.sizes))]


@final
class Decoder(nn.Module):
    """A norm, a linear layer, and a function on the grid of cosine coefficients."""

    def __init__(self, norm: nn.LayerNorm, outputs: nn.Linear, cosines: Cosines, damping: Tensor | None) -> None:
        super().__init__()
        weight = outputs.weight * norm.weight
        bias = outputs.bias + outputs.weight @ norm.bias
        if damping is not None:
            weight, bias = damping[:, None] * weight, damping * bias
        self.register_buffer("weight", weight.contiguous())
        self.register_buffer("bias", bias)
        self.modes = [cosines.modes] * len(cosines.sizes)
        self.synthesis = Basis([basis.mT for basis in _cosines(cosines)])
        self.weight: Tensor
        self.bias: Tensor

    def forward(self, x: Tensor, gain: Tensor) -> Tensor:
        coefficients = linear(_normal(x), self.weight, self.bias) * gain
        return self.synthesis(coefficients.reshape(-1, *self.modes)).double()


@final
class Spectral(Network):
    """A `SpectralPotential`."""

    def __init__(self, model: SpectralPotential) -> None:
        super().__init__()
        self.of_eps = OfEps(model.bounds)
        count = model.analysis.count
        of_moments, of_eps = model.inputs.weight.split([2 * (count - 1), TEMPERATURES], 1)
        weight = of_moments.unflatten(1, (2, count - 1)) / model.spread
        bias = model.inputs.bias - (weight * model.centre).sum((1, 2))
        padded = torch.zeros(len(weight), 2, count, dtype=torch.float32)
        padded[:, :, 1:] = weight
        self.register_buffer("weight", padded.flatten(1))
        self.weight: Tensor
        self.of_eps.add(of_eps, bias)
        self.of_eps.add(model.damping[:, None] * model.gain.weight, model.damping * model.gain.bias)
        self.blocks = nn.ModuleList(Block(block, self.of_eps) for block in _blocks(model))
        self.sizes = model.analysis.sizes
        self.analysis = Basis(_cosines(model.analysis))
        self.decode = Decoder(model.norm, model.outputs, model.synthesis, None)

    def start(self, a: Tensor, b: Tensor, eps: Tensor) -> State:
        return self.encode(a, b, self.of_eps.parts(self.of_eps(eps)))

    def encode(self, a: Tensor, b: Tensor, vectors: list[Tensor]) -> State:
        """Return features and f, by the vectors of eps."""
        bias, gain, *modulation = vectors
        both = torch.cat([a, b], 1).float().reshape(-1, *self.sizes)
        moments = self.analysis(both).reshape(-1, self.weight.shape[1])
        x = linear(moments, self.weight) + bias
        for k, block in enumerate(self.blocks):
            x = block(x, modulation[2 * k], modulation[2 * k + 1])
        return x, self.decode(x, gain)

    def finish(self, state: State, a: Tensor, b: Tensor, sums: Sums) -> Tensor:
        return state[-1] + 0.0


def _blocks(model: SpectralPotential | GroupedPotential) -> list[ModulatedBlock]:
    return [block for block in model.blocks if isinstance(block, ModulatedBlock)]


@final
class Refined(Network):
    """A `RefinedPotential`."""

    def __init__(self, model: RefinedPotential) -> None:
        super().__init__()
        self.passes = model.passes
        self.first = Spectral(model.first)
        self.shared = len(self.first.of_eps.sizes)
        self.correct = Corrected(model.correction, self.first.of_eps)

    def start(self, a: Tensor, b: Tensor, eps: Tensor) -> State:
        vectors = self.first.of_eps(eps)
        x, f = self.first.encode(a, b, self.first.of_eps.parts(vectors)[: self.shared])
        return vectors, x, f

    def finish(self, state: State, a: Tensor, b: Tensor, sums: Sums) -> Tensor:
        packed, x, f = state
        vectors = self.first.of_eps.parts(packed)[self.shared :]
        for _ in range(self.passes):
            f, missing = sums.step(f, a, b)
            f = f + self.correct(x, missing.float(), vectors)
        return f


@final
class Corrected(nn.Module):
    """A `Correction`."""

    def __init__(self, model: Correction, of_eps: OfEps) -> None:
        super().__init__()
        of_eps.add(model.scale.weight, model.scale.bias)
        self.block = Block(model.block, of_eps)
        self.inputs = model.inputs
        self.analysis = Basis(_cosines(model.cosines), 100.0)
        self.decode = Decoder(model.norm, model.outputs, model.cosines, model.damping)

    def forward(self, x: Tensor, missing: Tensor, vectors: list[Tensor]) -> Tensor:
        moments = self.analysis(missing).flatten(1)[:, 1:]
        size = ((moments * moments).mean(-1, keepdim=True) + 1e-6).sqrt()
        x = self.block(self.inputs(moments / size) * vectors[0] + x, *vectors[1:])
        return self.decode(x, size)


@final
class Perceptron(Network):
    """A `PotentialMLP`; its weights are vectors, batch n, whatever the space."""

    def __init__(self, model: PotentialMLP) -> None:
        super().__init__()
        first, *others = [part for part in model.layers.modules() if isinstance(part, nn.Linear)]
        n, m = model.config["n"], model.config["m"]
        of_a, of_b, of_t = first.weight.split([n, m, 1], 1)
        self.register_buffer("weight", torch.cat([of_a * model.scale_a, of_b * model.scale_b], 1))
        self.weight: Tensor
        self.of_eps = OfEps(model.bounds)
        self.of_eps.add(torch.nn.functional.pad(of_t, (1, TEMPERATURES - 2)), first.bias)
        self.others = nn.ModuleList(others)

    def start(self, a: Tensor, b: Tensor, eps: Tensor) -> State:
        x = linear(torch.cat([a, b], 1).float(), self.weight) + self.of_eps(eps)
        for layer in self.others:
            x = layer(x.relu())
        return (x.double(),)

    def finish(self, state: State, a: Tensor, b: Tensor, sums: Sums) -> Tensor:
        return state[-1] + 0.0


@final
class Grouped(Network):
    """A `GroupedPotential` without its Newton steps; sums over groups and the layer behind are one product."""

    def __init__(self, model: GroupedPotential) -> None:
        super().__init__()
        if model.passes > 0:
            raise ValueError(
                f"the {model.passes} Newton steps inside of predictions cannot be exported, ONNX solves no linear "
                "systems: predictor.passes = 0 (--passes 0) gives the network alone, which solvers refine as well"
            )
        weight = model.demand.weight / model.spread
        self.register_buffer("demand", weight[:, model.index].contiguous())
        self.register_buffer("demand_bias", model.demand.bias - weight @ model.centre)
        self.demand: Tensor
        self.demand_bias: Tensor
        self.scale_a = float(model.scale_a)
        self.of_eps = OfEps(model.bounds)
        self.blocks = nn.ModuleList(Block(block, self.of_eps) for block in _blocks(model))
        self.inputs, self.norm = model.inputs, model.norm
        self.register_buffer("weight", model.outputs.weight * model.unit)
        self.register_buffer("bias", model.outputs.bias * model.unit)
        self.weight: Tensor
        self.bias: Tensor

    def start(self, a: Tensor, b: Tensor, eps: Tensor) -> State:
        modulation = self.of_eps.parts(self.of_eps(eps))
        demand = linear(b.float(), self.demand, self.demand_bias)
        x = self.inputs(torch.cat([self.scale_a * a.float(), (a > 0).float(), demand], 1))
        for k, block in enumerate(self.blocks):
            x = block(x, modulation[2 * k], modulation[2 * k + 1])
        return (linear(self.norm(x), self.weight, self.bias).double(),)

    def finish(self, state: State, a: Tensor, b: Tensor, sums: Sums) -> Tensor:
        return state[-1] + 0.0
