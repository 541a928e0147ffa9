"""Predictors of transport maps: two clouds of samples in, a pair of convex potentials out."""

import math
from abc import ABC, abstractmethod
from typing import final

import numpy as np
import torch
from torch import Tensor

from metaot.alone.frame import FrameAlone
from metaot.brenier import BrenierPair, BrenierPotential, Frame, Icnn, SampleProblem
from metaot.models.hyper import HyperNetwork


class MapPredictor(ABC):
    """Anything that guesses the solution of continuous problems."""

    @abstractmethod
    def predict(self, problem: SampleProblem) -> BrenierPair:
        """Return a guess."""


@final
class AmortizedMap(MapPredictor):
    """A hypernetwork with the frame that it works in: problems in, pairs of convex potentials out."""

    def __init__(self, model: HyperNetwork) -> None:
        self.model = model

    @property
    def dim(self) -> int:
        """The dimension of the spaces that the model was trained for."""
        return self.model.icnn.dim

    def predict(self, problem: SampleProblem) -> BrenierPair:
        """Return the pair; one problem on a CPU, of which nobody takes derivatives, is predicted in numpy."""
        self._require_dim(problem)
        flat, alone = problem.flat(), self.model.alone() if self._is_alone(problem) else None
        if alone is None:
            return self.stages(problem)[-1]
        x, y = (z[0].detach().numpy() for z in (flat.x, flat.y))
        found = FrameAlone.gaussian(x, y)
        phi, psi = torch.from_numpy(alone(found.enter(x), found.T.enter(y)))[:, None]
        parts = (found.m, found.n, found.U, found.V, found.scale)
        frame = Frame(*(torch.from_numpy(np.asarray(part, dtype=x.dtype)[None]) for part in parts))
        return self._pair(phi, psi, frame, problem.batch_shape, flat.x)

    def _is_alone(self, problem: SampleProblem) -> bool:
        weight = self.model.base
        tensors = (weight, problem.x, problem.y)
        derived = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        on_cpu = all(tensor.device.type == "cpu" for tensor in tensors)
        plain = weight.dtype == torch.float32 and problem.x.dtype in (torch.float32, torch.float64)
        return math.prod(problem.batch_shape) == 1 and on_cpu and plain and not derived

    def stages(self, problem: SampleProblem) -> list[BrenierPair]:
        """Return the pair of every stage of the network, float32 inside, in the dtype of the problem."""
        self._require_dim(problem)
        flat, batch = problem.flat(), problem.batch_shape
        frame = Frame.gaussian(flat)
        u, v = frame.enter(flat.x).float(), frame.T.enter(flat.y).float()
        context = None if flat.context is None else flat.context.float()
        halves = self.model.stages(u, v, context)
        return [self._pair(phi, psi, frame, batch, flat.x) for phi, psi in halves]

    def _require_dim(self, problem: SampleProblem) -> None:
        if problem.dim != self.dim:
            raise ValueError(
                f"the model was trained for dimension {self.dim}, got samples of dimension {problem.dim}: "
                "train one for yours"
            )

    def _pair(self, phi: Tensor, psi: Tensor, frame: Frame, batch: torch.Size, like: Tensor) -> BrenierPair:
        pair = BrenierPair(
            BrenierPotential(self.model.icnn, phi.to(like), frame),
            BrenierPotential(self.model.icnn, psi.to(like), frame.T),
        )
        return pair.reshaped(batch)


@final
class BuresStart(MapPredictor):
    """The linear map between the Gaussians with the samples' means and covariances, in closed form."""

    def predict(self, problem: SampleProblem) -> BrenierPair:
        return _linear_pair(Frame.gaussian(problem))


@final
class IdentityStart(MapPredictor):
    """The map that moves nothing."""

    def predict(self, problem: SampleProblem) -> BrenierPair:
        return _linear_pair(Frame.identity(problem))


def _linear_pair(frame: Frame) -> BrenierPair:
    """Return networks without ridges: exactly the linear map of the frame."""
    icnn = Icnn(frame.m.shape[-1], (1,))
    weights = icnn.quadratic().to(frame.m).expand((*frame.scale.shape, -1))
    return BrenierPair(BrenierPotential(icnn, weights, frame), BrenierPotential(icnn, weights, frame.T))
