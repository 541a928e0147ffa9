"""All that a run needs to go on exactly: weights, their running mean, the optimiser, the step."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import nn

from metaot.checkpoint import write_atomically

FILE = "training.pt"


@final
@dataclass
class TrainingState:
    """What changes during a run."""

    model: nn.Module
    average: nn.Module
    """The running mean of the weights: what is validated and saved."""
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0

    def save(self, folder: Path) -> None:
        content = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        write_atomically(folder / FILE, lambda path: torch.save(content, path))

    def load(self, folder: Path) -> None:
        content = torch.load(folder / FILE, map_location="cpu", weights_only=True)
        self.model.load_state_dict(content["model"])
        self.average.load_state_dict(content["average"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step, self.seconds = content["step"], content["seconds"]

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        """Move the mean towards the weights; faster in the beginning, when the mean is of few."""
        decay = min(decay, (1 + self.step) / (10 + self.step))
        pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
        for mean, value in pairs:
            mean.lerp_(value, 1 - decay)


def frozen_copy(model: nn.Module) -> nn.Module:
    """Return a copy that takes no gradients."""
    return copy.deepcopy(model).eval().requires_grad_(False)
