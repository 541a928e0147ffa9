"""The settings of a training run, plain values written beside every checkpoint, and tasks made of them."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, final

import torch
from torch import Tensor, nn

from metaot.data import Source
from metaot.objectives import Objective, scaled_dual_loss

T = TypeVar("T")
_HELD_OUT_SEED = 2**31 - 1


@final
@dataclass(frozen=True)
class Recipe:
    """What to learn (data), with what (model), by what measure (objective), and for how long."""

    name: str
    data: Source
    model: Any
    """The class of the network: a `PotentialModel`, or a `HyperNetwork` for continuous problems."""
    task: "Callable[[Recipe, Path | None, torch.device], Task]"
    """The class of the task, such as `DiscreteTask` or `ContinuousTask`."""
    model_settings: dict[str, Any] = field(default_factory=dict)
    objective: Objective = scaled_dual_loss
    steps: int = 20_000
    learning_rate: float = 1e-3
    warmup: int = 500
    """Steps over which the learning rate rises; afterwards it falls as a cosine, to zero at `steps`."""
    clip: float = 1.0
    """The norm above which a gradient is scaled down."""
    average: float = 0.999
    """The decay of the running mean of the weights that is saved and validated; 0 for none."""
    seed: int = 0
    validation_eps: float | None = None
    """The temperature of the validation problems; None for the middle of the range that is trained."""
    validation_batch: int = 64
    log_every: int = 50
    validate_every: int = 500
    save_every: int = 1000
    compact: bool = False
    """Whether the weights are saved in float16, in half of the bytes."""
    device: str = "auto"
    """Where to train: "cpu", "cuda", or "auto" for CUDA when it is there."""

    def to_json(self) -> dict[str, Any]:
        """Return all settings as JSON values, to be read by a person and compared on --resume."""
        settings = {**vars(self), "data": {"kind": type(self.data).__name__, **vars(self.data)}}
        return json.loads(json.dumps(settings, default=lambda value: getattr(value, "__name__", repr(value))))


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
        return self.problems.sample(torch.Generator().manual_seed(self.recipe.seed * 2**40 + step))

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


def override(settings: T, assignments: list[str]) -> T:
    """Return `settings` with "key=value" assignments made; "data.batch=64" reaches inside.

    A value has the type of the one that it replaces; ValueError says what was expected, or which keys exist.
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set wants key=value, got {assignment!r}")
        settings = _assign(settings, key.split("."), text, key)
    return settings


def _assign(settings: Any, path: list[str], text: str, key: str) -> Any:
    known = settings if isinstance(settings, dict) else vars(settings) if is_dataclass(settings) else {}
    name, *rest = path
    if name not in known and (rest or not isinstance(settings, dict)):
        raise ValueError(f"--set {key}: no setting {name!r}; there are {sorted(known)}")
    value = _assign(known[name], rest, text, key) if rest else _parse(text, known.get(name), key)
    changed = {**known, name: value}
    return changed if isinstance(settings, dict) else type(settings)(**changed)


def _parse(text: str, old: Any, key: str) -> Any:
    """Read `text` as a value of the type of `old`; of any JSON type where there was none."""
    if isinstance(old, str):
        return text
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    wanted = f"a value of type {type(old).__name__}"
    if isinstance(old, tuple):
        wanted = f"a list of {len(old)} numbers"
        numbers = value if isinstance(value, list) else [value, value]
        if len(numbers) == len(old) and all(isinstance(v, int | float) for v in numbers):
            return tuple(float(v) for v in numbers)
    elif old is None or type(value) is type(old):
        return value
    elif isinstance(old, float) and type(value) is int:
        return float(value)
    raise ValueError(f"--set {key}: wanted {wanted} (now {old!r}), got {text!r}")
