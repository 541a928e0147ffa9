"""A hypernetwork that reads the two clouds of samples, in whatever order, and looks at its own map."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu

from metaot.alone import PaletteAlone
from metaot.alone.palette import USUAL
from metaot.brenier import Icnn
from metaot.models.hyper import Halves, HyperNetwork


@final
class PaletteIcnn(HyperNetwork):
    """Means of ridge functions of both clouds -> a residual network -> weights; then a correction, or several.

    A correction (one for each of `passes`) reads the same means again, of the clouds as the maps predicted so far
    move them: what is still in the wrong place. Untrained, the prediction is nearly the frame's linear map.
    """

    def __init__(
        self,
        dim: int,
        hidden: list[int],
        *,
        activation: str = "squareplus",
        features: int = 256,
        width: int = 384,
        depth: int = 2,
        passes: int = 1,
    ) -> None:
        super().__init__(dim, hidden, activation, features=features, width=width, depth=depth, passes=passes)
        self.encoder = RidgeMeans(dim, features)
        told = 2 * features
        self.first = WeightHead(self.icnn, told, width, depth)
        corrections = [WeightHead(self.icnn, told + 2 * features, width, depth) for _ in range(passes)]
        self.corrections = nn.ModuleList(corrections)

    def stages(
        self,
        u: Float[Tensor, "batch n d"],
        v: Float[Tensor, "batch m d"],
        context: Tensor | None = None,
    ) -> list[Halves]:
        source, target = self.encoder(u), self.encoder(v)
        forth, back = torch.cat([source, target], -1), torch.cat([target, source], -1)
        phi, psi = (self.base + self.first(told) for told in (forth, back))
        stages = [(phi, psi)]
        for head in self.corrections:
            phi, psi = phi.detach(), psi.detach()
            at_target = self.encoder(self._moved(phi, u)) - target
            at_source = self.encoder(self._moved(psi, v)) - source
            phi = phi + head(torch.cat([forth, at_target, at_source], -1))
            psi = psi + head(torch.cat([back, at_source, at_target], -1))
            stages.append((phi, psi))
        return stages

    @torch.no_grad()
    def _moved(self, weights: Tensor, u: Tensor) -> Tensor:
        """Return where the map sends u, in the other side's coordinates."""
        return self.icnn.gradient(weights, u)

    def alone(self) -> PaletteAlone:
        return PaletteAlone(self.config, {name: tensor.numpy() for name, tensor in self.state_dict().items()})

    @torch.no_grad()
    def standardise(self, u: Float[Tensor, "batch n d"]) -> None:
        self.encoder.standardise(u)


@final
class RidgeMeans(nn.Module):
    """The means of fixed functions |<w, u> - b|-like over a cloud: one for each of many random w and b."""

    def __init__(self, dim: int, features: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        directions = torch.randn(features, dim, generator=generator, dtype=torch.float32)
        directions = directions / directions.norm(dim=-1, keepdim=True)
        places = 2 * torch.randn(features, generator=generator, dtype=torch.float32)
        self.register_buffer("directions", 4 * directions)
        self.register_buffer("places", 4 * places.clamp(-2.5, 2.5))
        self.register_buffer("mean", torch.zeros(features, dtype=torch.float32))
        self.register_buffer("scale", torch.ones(features, dtype=torch.float32))
        self.directions: Tensor
        self.places: Tensor
        self.mean: Tensor
        self.scale: Tensor

    def forward(self, u: Float[Tensor, "batch n d"]) -> Float[Tensor, "batch features"]:
        return (self._means(u) - self.mean) * self.scale

    def _means(self, u: Tensor) -> Tensor:
        t = self.directions @ u.mT - self.places[:, None]
        return (t * t + 1).sqrt().mean(-1)  # of what lies together in memory: onnxruntime is slow otherwise

    def standardise(self, u: Tensor) -> None:
        means = self._means(u)
        self.mean.copy_(means.mean(0))
        self.scale.copy_(1 / means.std(0).clamp_min(1e-6))


@final
class WeightHead(nn.Module):
    """A residual network whose last layer gives a change of an ICNN's weights; zero at first."""

    def __init__(self, icnn: Icnn, told: int, width: int, depth: int) -> None:
        super().__init__()
        self.enter = nn.Linear(told, width)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(depth))
        self.leave = nn.Linear(width, icnn.count)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, told: Float[Tensor, "batch told"]) -> Float[Tensor, "batch count"]:
        z = self.enter(_limited(told))
        for block in self.blocks:
            z = block(z)
        return self.leave(gelu(z))


def _limited(told: Float[Tensor, "batch told"]) -> Float[Tensor, "batch told"]:
    """Scale down what is far from everything usual, to a size of about three standard deviations at most."""
    return told * (1 + told.square().mean(-1, keepdim=True) / USUAL**2).rsqrt()


@final
class ResidualBlock(nn.Module):
    """z + W2 gelu(W1 norm(z))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)

    def forward(self, z: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
        return z + self.outer(gelu(self.inner(self.norm(z))))
