"""What is exported of a model of maps: the hypernetwork with its frame, and the gradient of a potential."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metaot.brenier import Frame, Icnn, SampleProblem
from metaot.models.hyper import HyperNetwork

_ROUNDS = 40
"""Enough for condition numbers up to 1e10: an eigenvalue grows by 9/4 in each."""


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

    The coupled iteration of Newton and Schulz (Higham, Functions of Matrices, 2008, section 6.3).
    """
    size = S.square().sum((-2, -1), keepdim=True).sqrt()
    eye = torch.eye(S.shape[-1]).to(S)
    root, minus_half = S / size, (-0.5 * eye).expand_as(S)
    for _ in range(_ROUNDS):
        change = minus_half @ root + 1.5 * eye
        root, minus_half = root @ change, change @ minus_half
    return root * size.sqrt(), minus_half * (-2 / size.sqrt())
