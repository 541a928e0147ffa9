r"""How far what a data set receives is from its weights: chi-squared, on fresh samples, with an error bar.

chi^2 = sum_j (nu_j - b_j)^2 / b_j, nu_j the mass that y_j receives (equation 3.5 of arXiv 2509.25519). From
samples in K blocks with means nu^1 ... nu^K it is the mean over pairs of different blocks of
sum_j nu^k_j nu^l_j / b_j - 1, which has no bias; the variance of such a mean over pairs is Hoeffding's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

BLOCKS = 32
"""Blocks of samples."""


@final
@dataclass(frozen=True)
class MarginalError:
    """The chi-squared error of a marginal, estimated without bias from `samples`; `std` is its standard error."""

    chi2: float
    std: float
    samples: int

    def is_within(self, tol: float) -> bool:
        """Return whether the error is below `tol` by its standard error, which must itself be smaller."""
        return self.std <= tol and self.chi2 + self.std <= tol

    def __repr__(self) -> str:
        return f"MarginalError(chi2 {self.chi2:.2e} +- {self.std:.1e}, from {self.samples} samples)"


def marginal_error(
    b: Float[Tensor, "m"],
    points: Callable[[int, int], Float[Tensor, "k d"]],
    received: Callable[[Float[Tensor, "k d"]], Float[Tensor, "m"]],
    samples: int,
) -> MarginalError:
    """Measure what is received of fresh points; `points(count, number)` are others for each number."""
    size = max(1, -(-samples // BLOCKS))
    scale = b.sqrt().where(b > 0, torch.inf)
    means = torch.stack([received(points(size, k)) / size / scale for k in range(BLOCKS)]).double()
    T = means @ means.mT - 1
    pairs = BLOCKS * (BLOCKS - 1)
    chi2 = (T.sum() - T.trace()) / pairs
    off = (T - chi2).fill_diagonal_(0)
    square = off.square().sum() / pairs
    both = (off.sum(1).square().sum() - off.square().sum()) / (pairs * (BLOCKS - 2))
    variance = (4 * (BLOCKS - 2) * both.clamp_min(0) + 2 * square) / pairs
    return MarginalError(float(chi2), math.sqrt(float(variance)), BLOCKS * size)


def samples_for(std: float, count: int) -> int:
    """Return the samples with which the error of `count` points, without a potential's, is known to `std`.

    Where all points receive what they should, the estimate's deviation is at most sqrt(2 count) over the samples.
    """
    return math.ceil(math.sqrt(2 * count) / std)
