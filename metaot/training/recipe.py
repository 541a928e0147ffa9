"""The settings of a training run, plain values written beside every checkpoint, and tasks made of them."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from metaot.data import Source
from metaot.models.base import require_settings
from metaot.objectives import Objective, scaled_dual_loss
from metaot.settings import require_positive, require_share, require_whole

_HELD_OUT_SEED = 2**31 - 1
_SEEDS = 2**23
_APART = 2654435761
"""An odd number: multiples of it by different seeds differ in their last 32 bits, and are far apart."""


@final
@dataclass(frozen=True)
class Recipe:
    """What to learn (data), with what (model), by what measure (objective), and for how long."""

    name: str
    """The name of the recipe, and of its folder in runs/."""
    data: Source
    """The distribution of problems."""
    model: Any
    """The class of the network: a `PotentialModel`, or a `HyperNetwork` for continuous problems."""
    task: "Callable[[Recipe, Path | None, torch.device], Task]"
    """The class of the task, such as `DiscreteTask` or `ContinuousTask`."""
    model_settings: dict[str, Any] = field(default_factory=dict)
    """The settings of the network; its own defaults for others."""
    objective: Objective = scaled_dual_loss
    """What is minimised: a function of problems and predicted potentials."""
    steps: int = 20_000
    """Gradient steps."""
    learning_rate: float = 1e-3
    """The learning rate of Adam after the warm-up."""
    warmup: int = 500
    """Steps over which the learning rate rises; afterwards it falls as a cosine, to zero at `steps`."""
    clip: float = 1.0
    """The norm above which a gradient is scaled down."""
    average: float = 0.999
    """The decay of the running mean of the weights that is saved and validated; 0 for none."""
    seed: int = 0
    """Which weights the training begins with and which problems it draws."""
    validation_eps: float | None = None
    """The temperature of the validation problems; null for the middle of the range that is trained."""
    validation_batch: int = 64
    """Problems that the predictions are measured on."""
    log_every: int = 50
    """Steps from one point of the training curves to the next."""
    validate_every: int = 500
    """Steps from one measurement on the validation problems to the next."""
    save_every: int = 1000
    """Steps from one save to the next: what an interruption that cannot be caught loses."""
    compact: bool = False
    """Whether the weights are saved in float16, in half of the bytes."""
    device: str = "auto"
    """Where to train: cpu, cuda, or auto for CUDA when it is there."""

    def __post_init__(self) -> None:
        intervals = {name: getattr(self, name) for name in ("log_every", "validate_every", "save_every")}
        require_whole(1, steps=self.steps, validation_batch=self.validation_batch, **intervals)
        require_whole(0, warmup=self.warmup, seed=self.seed)
        require_positive(learning_rate=self.learning_rate, clip=self.clip)
        require_share(average=self.average)
        if self.average == 1:
            raise ValueError("average must be below 1, got 1: the mean would never change")
        if self.validation_eps is not None:
            require_positive(validation_eps=self.validation_eps)
        if self.seed >= _SEEDS:  # seeds of steps have 64 bits
            raise ValueError(f"seed must be below {_SEEDS}, got {self.seed}")
        require_settings(self.model, self.model_settings)
        require_device(self.device)

    def to_json(self) -> dict[str, Any]:
        """Return all settings as JSON values, to be read by a person and compared on --resume."""
        settings = {**vars(self), "data": {"kind": type(self.data).__name__, **vars(self.data)}}
        return json.loads(json.dumps(settings, default=lambda value: getattr(value, "__name__", repr(value))))


def require_device(name: str) -> None:
    """Raise ValueError unless `name` is "auto" or a kind of device; `device_of` asks whether it is there."""
    try:
        torch.device("cpu" if name == "auto" else name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device is auto, cpu, cuda, cuda:1 ..., got {name!r}") from error


def device_of(recipe: "Recipe") -> torch.device:
    """Return where a recipe trains; ValueError when that device is not there."""
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(automatic if recipe.device == "auto" else recipe.device)
    try:
        torch.ones((), dtype=torch.float64, device=device).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        count = torch.cuda.device_count()
        there = f"{count} CUDA device{'s' * (count > 1)}" if count else "no CUDA device"
        raise ValueError(f"device {recipe.device!r} cannot be used: there is {there} here") from error
    return device


class Task(ABC):
    """A recipe with its data read and its validation problems drawn: what the loop asks of a kind of problems.

    `like` has the dtype and the device of the problems.
    """

    def __init__(self, recipe: Recipe, data_dir: Path | None, like: Tensor, kind: type, learned: str) -> None:
        self.recipe, self.like = recipe, like
        self.problems: Any = recipe.data.split("train", data_dir)
        self.held_out: Any = recipe.data.split("validation", data_dir)
        if not isinstance(self.problems, kind):
            raise ValueError(f"the recipe {recipe.name} learns {learned}: {recipe.data} has none")

    def validation_problems(self, **settings: Any) -> Any:
        """Draw the fixed problems of validation; `settings` replace those of their set."""
        chosen = replace(self.held_out, batch=self.recipe.validation_batch, **settings)
        return chosen.sample(torch.Generator().manual_seed(_HELD_OUT_SEED)).to(self.like)

    def drawn(self, step: int) -> Any:
        """Draw the problems of a step on the CPU: they depend on the seed and the step only."""
        return self.problems.sample(self.generator(step))

    def generator(self, step: int) -> torch.Generator:
        """Return the random numbers of a step; on CPUs torch reads 32 bits of a seed."""
        return torch.Generator().manual_seed((self.recipe.seed * _APART + step) % 2**32)

    def problem(self, step: int) -> Any:
        """Return the problems of a step for training."""
        return self.drawn(step).to(self.like)

    def loss(self, predictor: Any, problem: Any) -> Tensor:
        """Return the number to be minimised: the objective, summed over the stages of the prediction."""
        stages = predictor.stages(problem)
        return torch.stack([self.recipe.objective(problem, stage).mean() for stage in stages]).sum()

    @abstractmethod
    def new_model(self) -> nn.Module:
        """Return the recipe's model, not yet trained, with float32 weights."""

    @abstractmethod
    def predictor(self, model: Any) -> Any:
        """Return what predicts with a model, with its weights as they are at each prediction."""

    @abstractmethod
    def measure(self, predictor: Any) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Return figures on the validation problems, and pictures (height width [3]) by title."""
