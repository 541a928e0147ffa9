"""What is exported of a model of maps: the hypernetwork with its frame, and the gradient of a potential."""

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metaot.brenier import Frame, Icnn, SampleProblem
from metaot.models.hyper import HyperNetwork

_CONDITION = 1e10
"""The largest condition number for which the roots converge."""
_STRETCH = 1.65
"""By how much a round stretches a spectrum at most: near 3^1/2 digits of the largest eigenvalue are lost."""


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
    """Points x, batch k d, weights of phi and what is known of the frame, m, n, U, scale -> where phi sends them.

    Those of y go back with the weights of psi and n, m, V, scale.
    """

    def __init__(self, icnn: Icnn) -> None:
        super().__init__()
        self.icnn = icnn

    def forward(  # noqa: PLR0917, the inputs of the graph
        self, x: Tensor, weights: Tensor, m: Tensor, n: Tensor, U: Tensor, scale: Tensor
    ) -> Tensor:
        frame = Frame(m, n, U, U, scale)  # V is not asked for
        slope = self.icnn.gradient(weights, frame.enter(x))
        return frame.T.outside(slope)


def schulz_roots(
    S: Float[Tensor, "*batch d d"],
) -> tuple[Float[Tensor, "*batch d d"], Float[Tensor, "*batch d d"]]:
    """Return the square root of a positive definite matrix and its inverse, by matrix products alone.

    The coupled iteration of Newton and Schulz (Higham, Functions of Matrices, 2008, section 6.3), with the scaling
    of Chen and Chow (ANL/MCS-P5059-0114, 2014).
    """
    size = S.square().sum((-2, -1), keepdim=True).sqrt()
    eye = torch.eye(S.shape[-1]).to(S)
    factor, root, inverse = 1.0, S / size, eye.expand_as(S)  # `inverse` is kept multiplied by `factor`
    for stretch in _stretches():
        wanted = -0.5 * stretch**3
        inverse, factor = inverse if wanted == factor else (wanted / factor) * inverse, wanted
        change = inverse @ root + 1.5 * stretch * eye
        root, inverse = root @ change, change @ inverse
    return root * size.sqrt(), inverse / (factor * size.sqrt())


def _stretches() -> list[float]:
    """Return by how much the spectrum is stretched in each round, until its square root, in [low, 1], is one.

    What follows a stretch s is x -> x (3 - x^2) / 2, which is largest at x = 1: both ends come out equal unless s
    is held back.
    """
    low, stretches = _CONDITION**-0.5, []
    while 1 - low > 1e-15:
        s = min(math.sqrt(3 / (1 + low + low * low)), _STRETCH)
        stretches.append(s)
        low = 0.5 * s * min(low * (3 - (s * low) ** 2), 3 - s * s)
    return stretches
