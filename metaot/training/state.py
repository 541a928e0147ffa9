"""All that a run needs to continue exactly: weights, their running mean, the optimiser, the step."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import nn

from metaot.folders import write_atomically

FILE = "training.pt"
_PARTS = ("model", "average", "optimizer")


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
        content = {name: getattr(self, name).state_dict() for name in _PARTS}
        content |= {"step": self.step, "seconds": self.seconds}
        write_atomically(folder / FILE, lambda path: torch.save(content, path))

    def load(self, folder: Path) -> None:
        content = torch.load(folder / FILE, map_location="cpu", weights_only=True)
        for name in _PARTS:
            getattr(self, name).load_state_dict(content[name])
        self.step, self.seconds = content["step"], content["seconds"]

    def begin_from(self, trained: nn.Module) -> None:
        """Take the weights of a trained network; ValueError unless it is built as this one."""
        ours, theirs = (
            {name: tuple(value.shape) for name, value in model.state_dict().items()}
            for model in (self.model, trained)
        )
        differing = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
        if type(trained) is not type(self.model) or differing:
            name = differing[0] if differing else "model"
            raise ValueError(
                f"the recipe trains a {type(self.model).__name__}, where {name} is {ours.get(name)}; the weights "
                f"to begin from are of a {type(trained).__name__}, where it is {theirs.get(name)}: set the same "
                "model_settings (its model.json has them), or another recipe"
            )
        for model in (self.model, self.average):
            model.load_state_dict(trained.state_dict())

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        """Move the mean towards the weights; faster in the beginning, when the mean is of few."""
        decay = min(decay, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)
