"""A hypernetwork that reads two clouds of samples, in any order, and corrects its own map."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu

from metaot.brenier import Icnn
from metaot.models.base import Halves, HyperNetwork

_LARGEST = 3.0
"""Features are scaled down so that their root mean square, in standard deviations, stays below it."""


@final
class PaletteIcnn(HyperNetwork):
    """Means of ridge functions of both clouds -> a residual network -> weights -> corrections of the weights.

    Each of `passes` corrections reads the means again, of the clouds as the predicted maps move them: they show
    where the moved clouds still differ. Untrained, the prediction is nearly the frame's linear map.

    Args:
        hidden: units of each hidden layer of the convex networks.
        activation: of the convex networks: squareplus, softplus or leaky_relu.
        features: ridge functions whose means are read of each cloud.
        width: units of each layer of the networks that predict weights.
        depth: residual layers of these networks.
        passes: corrections after the first prediction.
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
        self.first = WeightHead(self.icnn, 2 * features, width, depth)
        corrections = [WeightHead(self.icnn, 4 * features, width, depth) for _ in range(passes)]
        self.corrections = nn.ModuleList(corrections)

    def stages(
        self, u: Float[Tensor, "batch n d"], v: Float[Tensor, "batch m d"], context: Tensor | None = None
    ) -> list[Halves]:
        source, target = self.encoder(u), self.encoder(v)
        features = _both_ways(source, target)
        phi, psi = _halves(self.base + self.first(features))
        stages = [(phi, psi)]
        for head in self.corrections:
            with torch.no_grad():
                there, back = self.icnn.gradient(phi, u), self.icnn.gradient(psi, v)
            at_target, at_source = self.encoder(there) - target, self.encoder(back) - source
            change = head(torch.cat([features, _both_ways(at_target, at_source)], -1))
            phi, psi = _halves(torch.cat([phi, psi]).detach() + change)
            stages.append((phi, psi))
        return stages

    @torch.no_grad()
    def standardise(self, u: Float[Tensor, "batch n d"]) -> None:
        self.encoder.standardise(u)


def _both_ways(source: Float[Tensor, "batch k"], target: Float[Tensor, "batch k"]) -> Float[Tensor, "rows both"]:
    """Return the features that phi is predicted from, a row an instance, and below them those of psi."""
    return torch.cat([torch.cat([source, target], -1), torch.cat([target, source], -1)])


def _halves(weights: Float[Tensor, "rows count"]) -> Halves:
    phi, psi = weights.unflatten(0, (2, -1)).unbind()
    return phi, psi


@final
class RidgeMeans(nn.Module):
    """The means over a cloud of fixed functions |<w, u> - b|, smoothed, for many random w and b."""

    def __init__(self, dim: int, features: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        directions = torch.randn(features, dim, generator=generator, dtype=torch.float32)
        directions = directions / directions.norm(dim=-1, keepdim=True)
        offsets = 2 * torch.randn(features, generator=generator, dtype=torch.float32)
        self.register_buffer("directions", 4 * directions)
        self.register_buffer("places", 4 * offsets.clamp(-2.5, 2.5))  # b; its name is a key of checkpoints
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
        return (t * t + 1).sqrt().mean(-1)  # over adjacent numbers: onnxruntime is slow otherwise

    def standardise(self, u: Tensor) -> None:
        means = self._means(u)
        self.mean.copy_(means.mean(0))
        self.scale.copy_(1 / means.std(0).clamp_min(1e-6))


@final
class WeightHead(nn.Module):
    """A residual network whose last layer gives a change of an ICNN's weights; zero at first."""

    def __init__(self, icnn: Icnn, inputs: int, width: int, depth: int) -> None:
        super().__init__()
        self.enter = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(depth))
        self.leave = nn.Linear(width, icnn.count)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, features: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch count"]:
        size = 1 + features.square().mean(-1, keepdim=True) / _LARGEST**2
        z = self.enter(features * size.rsqrt())
        for block in self.blocks:
            z = block(z)
        return self.leave(gelu(z))


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
