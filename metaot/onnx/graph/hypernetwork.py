"""What is exported of a model of maps: the hypernetwork with its frame, and the gradient of a potential."""

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metaot.brenier import Frame, Icnn, SampleProblem
from metaot.models.base import HyperNetwork

_CONDITION = 1e10
"""The largest condition number for which the roots converge."""
_STRETCH = 1.65
"""The largest stretch of a spectrum in one step; nearer to 3^1/2, the largest eigenvalue loses digits."""


@final
class PredictedMaps(nn.Module):
    """Samples x, batch n d, and y, batch m d -> the weights of phi and psi, and the frame: m, n, U, V, scale."""

    def __init__(self, model: HyperNetwork) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        frame = Frame.gaussian(SampleProblem.trusted(x, y, None), schulz_roots)
        phi, psi = self.model(frame.enter(x), frame.T.enter(y))
        return phi, psi, frame.m, frame.n, frame.U, frame.V, frame.scale


@final
class PushedPoints(nn.Module):
    """Points x, batch k d, the weights of phi and m, n, U, scale of the frame -> where phi sends the points.

    With points y, the weights of psi and n, m, V, scale: where psi sends them back.
    """

    def __init__(self, icnn: Icnn) -> None:
        super().__init__()
        self.icnn = icnn

    def forward(  # noqa: PLR0917, the inputs of the graph
        self, x: Tensor, weights: Tensor, m: Tensor, n: Tensor, U: Tensor, scale: Tensor
    ) -> Tensor:
        frame = Frame(m, n, U, U, scale)  # V is not used
        slope = self.icnn.gradient(weights, frame.enter(x))
        return frame.T.outside(slope)


def schulz_roots(S: Float[Tensor, "batch d d"]) -> tuple[Float[Tensor, "batch d d"], Float[Tensor, "batch d d"]]:
    """Return the square root of a positive definite matrix, float64, and its inverse, by matrix products.

    The coupled iteration of Newton and Schulz (Higham, Functions of Matrices, 2008, section 6.3), with the scaling
    of Chen and Chow (ANL/MCS-P5059-0114, 2014). A step maps each eigenvalue x of the normalised root, in [low, 1],
    to sx (3 - (sx)^2) / 2, largest at sx = 1: both ends of the spectrum become equal unless s is held back.
    """
    size = S.square().sum((-2, -1), keepdim=True).sqrt()
    eye = torch.eye(S.shape[-1]).to(S)
    low, root, inverse = _CONDITION**-0.5, S / size, eye.expand_as(S)
    while low < 1 - 1e-15:  # the same steps for all matrices
        s = min(math.sqrt(3 / (1 + low + low * low)), _STRETCH)
        change = torch.baddbmm(eye, inverse, root, beta=1.5 * s, alpha=-0.5 * s**3)
        root, inverse = torch.bmm(root, change), torch.bmm(change, inverse)
        end = s * low
        low = 0.5 * min(end * (3 - end * end), s * (3 - s * s))
    return root * size.sqrt(), inverse / size.sqrt()
