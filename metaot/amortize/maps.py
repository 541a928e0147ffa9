"""Predictors of transport maps: two clouds of samples in, a pair of convex potentials out."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from metaot.brenier import BrenierPair, BrenierPotential, Frame, Icnn, SampleProblem
from metaot.brenier.problem import require_samples
from metaot.models.base import HyperNetwork

ExportedNetwork = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Samples x, batch n d, and y, batch m d, float32 -> the weights of phi and of psi, batch count."""


class MapPredictor(ABC):
    """Guesses the solution of continuous problems.

    Maps have no geometry but a dimension, and no temperature: `geometry` and `eps` are None.
    """

    geometry: None = None
    eps: None = None

    @abstractmethod
    def predict(self, problem: SampleProblem) -> BrenierPair:
        """Return a guess."""


@final
class AmortizedMap(MapPredictor):
    """A hypernetwork with the frame that it works in: problems in, pairs of convex potentials out.

    `exported` is the network as `metaot.onnx` evaluates it: sooner than torch for one problem on a CPU. It is used
    as long as the weights of `model` are what they were.
    """

    def __init__(self, model: HyperNetwork, exported: ExportedNetwork | None = None) -> None:
        self.model = model
        self._exported = None if exported is None else (exported, _versions(model))

    @property
    def dim(self) -> int:
        """The dimension of the spaces that the model was trained for."""
        return self.model.icnn.dim

    def predict(self, problem: SampleProblem) -> BrenierPair:
        """Return the pair of potentials."""
        self._require_dim(problem)
        exported = self._exported_for(problem)
        if exported is None:
            return self.stages(problem)[-1]
        flat = problem.flat()
        phi, psi = map(torch.from_numpy, exported(*(z.detach().float().numpy() for z in (flat.x, flat.y))))
        return self._pair(phi, psi, Frame.gaussian(flat), problem.batch_shape, flat.x)

    def _exported_for(self, problem: SampleProblem) -> ExportedNetwork | None:
        """Return the exported network for one problem on a CPU; None where derivatives are asked for."""
        if self._exported is None or problem.batch_shape.numel() != 1:
            return None
        tensors = (self.model.base, problem.x, problem.y)
        derived = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        on_cpu = all(tensor.device.type == "cpu" for tensor in tensors)
        exported, versions = self._exported
        return exported if on_cpu and not derived and versions == _versions(self.model) else None

    def stages(self, problem: SampleProblem) -> list[BrenierPair]:
        """Return the pair of every stage of the network, float32 inside, in the dtype of the problem."""
        self._require_dim(problem)
        flat, batch = problem.flat(), problem.batch_shape
        frame = Frame.gaussian(flat)
        u, v = frame.enter(flat.x).float(), frame.T.enter(flat.y).float()
        context = None if flat.context is None else flat.context.float()
        halves = self.model.stages(u, v, context)
        return [self._pair(phi, psi, frame, batch, flat.x) for phi, psi in halves]

    def __repr__(self) -> str:
        return f"AmortizedMap for samples in dimension {self.dim}"

    def _require_dim(self, problem: SampleProblem) -> None:
        if require_samples(problem).dim != self.dim:
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


def _versions(model: nn.Module) -> list[tuple[int, int]]:
    """Return where the weights lie and how often they were changed in place."""
    return [(weight.data_ptr(), weight._version) for weight in model.state_dict().values()]


@final
class BuresStart(MapPredictor):
    """The linear map between the Gaussians with the samples' means and covariances, in closed form."""

    def predict(self, problem: SampleProblem) -> BrenierPair:
        frame = Frame.gaussian(require_samples(problem))
        icnn = Icnn(frame.m.shape[-1], (1,))  # without ridges the map is the linear one of the frame
        weights = icnn.quadratic().to(frame.m).expand((*frame.scale.shape, -1))
        return BrenierPair(BrenierPotential(icnn, weights, frame), BrenierPotential(icnn, weights, frame.T))

    def __repr__(self) -> str:
        return "BuresStart for samples in any dimension"
