"""The networks of Meta OT (arXiv 2206.05262): a perceptron for potentials, a ResNet-18 for weights of ICNNs.

ResNet: He et al., arXiv 1512.03385; with group instead of batch normalisation (Wu and He, arXiv 1803.08494), so
that a prediction depends on its own pictures only, in training as well.
"""

from itertools import chain, pairwise
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, max_pool2d, relu

from metaot.geometry import Geometry
from metaot.models.base import Halves, HyperNetwork, PotentialModel, log_unit, require_settings

_CHANNELS = (64, 128, 256, 512)
_GROUPS = 32


@final
class PotentialMLP(PotentialModel):
    """A fully connected network with ReLU (section 3.1), for any geometry that all problems share: the baseline.

    Beside the paper's inputs it reads log eps, which is constant when the model is trained at one eps. Other
    networks need fewer weights and predict better: `ModalPotential` for any geometry.

    Args:
        width: units of each hidden layer.
        depth: hidden layers.
    """

    def __init__(self, n: int, m: int, eps: list[float], width: int = 1024, depth: int = 3) -> None:
        super().__init__()
        self.config = {"n": n, "m": m, "eps": eps, "width": width, "depth": depth}
        require_settings(type(self), self.config)
        self.bounds, self.sizes = (eps[0], eps[1]), (n, m)
        sizes = [n + m + 1, *[width] * depth]
        layers = [nn.Sequential(nn.Linear(i, o), nn.ReLU()) for i, o in pairwise(sizes)]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], n))
        self.register_buffer("scale_a", torch.tensor(float(n), dtype=torch.float32))
        self.register_buffer("scale_b", torch.tensor(float(m), dtype=torch.float32))
        self.scale_a: Tensor
        self.scale_b: Tensor

    @classmethod
    def for_geometry(cls, geometry: Geometry, eps: tuple[float, float], **settings: Any) -> "PotentialMLP":
        n, m = geometry.shape
        return cls(n=n, m=m, eps=list(eps), **settings)

    def forward(  # type: ignore[override], the inputs by name
        self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"], eps: Float[Tensor, "batch"]
    ) -> tuple[Tensor, ...]:
        t = log_unit(eps, self.bounds)[:, None]
        return (self.layers(torch.cat([a * self.scale_a, b * self.scale_b, t], -1)),)

    @torch.no_grad()
    def standardise(self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"]) -> None:
        self.scale_a.copy_(1 / a.std())
        self.scale_b.copy_(1 / b.std())


@final
class ResNetIcnn(HyperNetwork):
    """Pictures as context -> features -> weights of phi; of psi with the pictures exchanged (figure 3).

    It does not read the samples. Untrained, the prediction is nearly the frame's linear map.

    Args:
        hidden: units of each hidden layer of the convex networks.
        activation: of the convex networks: squareplus, softplus or leaky_relu.
        width: units of the layers between the features of the pictures and the weights.
    """

    def __init__(self, dim: int, hidden: list[int], *, activation: str = "squareplus", width: int = 512) -> None:
        super().__init__(dim, hidden, activation, width=width)
        self.eye = ResNet18()
        self.decoder = nn.Sequential(
            nn.Linear(2 * _CHANNELS[-1], width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.leave = nn.Linear(width, self.icnn.count)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def stages(
        self, u: Float[Tensor, "batch n d"], v: Float[Tensor, "batch m d"], context: Tensor | None = None
    ) -> list[Halves]:
        if context is None or context.ndim != 5:
            raise ValueError(
                "this model reads pictures: give them as the problem's context, of shape "
                f"(batch, 2, 3, height, width), got {None if context is None else tuple(context.shape)}"
            )
        features = self.eye(context.flatten(0, 1)).unflatten(0, context.shape[:2])
        forth, back = features.flatten(1), features.flip(1).flatten(1)
        phi, psi = (self.base + self.leave(self.decoder(z)) for z in (forth, back))
        return [(phi, psi)]

    def standardise(self, u: Float[Tensor, "batch n d"]) -> None:
        """Do nothing: pictures are between zero and one."""


@final
class ResNet18(nn.Module):
    """Pictures in [0, 1] to 512 features."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.norm = nn.GroupNorm(_GROUPS, 64)
        pairs = pairwise((64, *_CHANNELS))
        blocks = [(BasicBlock(before, after), BasicBlock(after, after)) for before, after in pairs]
        self.blocks = nn.Sequential(*chain(*blocks))

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 512"]:
        z = max_pool2d(relu(self.norm(self.first(4 * images - 2))), 3, stride=2, padding=1)
        return adaptive_avg_pool2d(self.blocks(z), 1).flatten(1)


@final
class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions, to whose output the input is added; more channels halve the resolution."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        stride = 1 if before == after else 2
        self.first = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.GroupNorm(_GROUPS, after) for _ in range(2))
        self.around = nn.Identity()
        if before != after:
            self.around = nn.Conv2d(before, after, 1, stride=stride, bias=False)

    def forward(self, z: Float[Tensor, "batch before height width"]) -> Float[Tensor, "batch after h w"]:
        inner = self.second(relu(self.norms[0](self.first(z))))
        return relu(self.around(z) + self.norms[1](inner))
