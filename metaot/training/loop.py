"""The training loop: minimise the amortised dual objective over sampled problems.

Algorithm 3 of Meta OT (arXiv 2206.05262): no solver runs and nothing is labelled. The problems of a step
depend on the seed and the step only, so that a resumed run is the same as an uninterrupted one.
"""

import copy
import json
import math
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from metaot import __version__
from metaot.checkpoint import load, save, write_network
from metaot.runs import claimed, clear, progress_bar, read_state, require_free, stop_on_signal, write_state
from metaot.settings import require_whole
from metaot.training.processes import Processes, joined
from metaot.training.recipe import Recipe, Task, device_of

_PARTS = ("model", "average", "optimizer")
_MAY_CHANGE = {"steps", "learning_rate", "clip", "log_every", "validate_every", "save_every", "compact", "device"}
"""Settings that --resume accepts with another value."""


@final
@dataclass
class TrainingState:
    """What changes during a run, and all that it needs to continue exactly."""

    model: nn.Module
    average: nn.Module
    """The running mean of the weights: what is validated and saved."""
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0

    def content(self) -> dict[str, Any]:
        """Return all that changes, as tensors and numbers."""
        parts: dict[str, Any] = {name: getattr(self, name).state_dict() for name in _PARTS}
        return parts | {"step": self.step, "seconds": self.seconds}

    def take(self, content: dict[str, Any]) -> None:
        """Become the state with this content."""
        for name in _PARTS:
            getattr(self, name).load_state_dict(content[name])
        self.step, self.seconds = content["step"], content["seconds"]

    def save(self, folder: Path) -> None:
        write_state(folder, self.content())

    def load(self, folder: Path) -> None:
        with read_state(folder) as found:
            self.take(found)

    def begin_from(self, trained: nn.Module) -> None:
        """Take the weights of a trained network; ValueError unless it is built as this one."""
        ours = {name: tuple(value.shape) for name, value in self.model.state_dict().items()}
        theirs = {name: tuple(value.shape) for name, value in trained.state_dict().items()}
        differing = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
        if type(trained) is not type(self.model) or differing:
            name = differing[0] if differing else "model"
            raise ValueError(
                f"the recipe trains a {type(self.model).__name__}, where {name} is {ours.get(name)}; the weights "
                f"to begin from are of a {type(trained).__name__}, where it is {theirs.get(name)}: set the same "
                "model_settings (its model.json has them), or another recipe"
            )
        weights = {name: value for name, value in trained.state_dict().items() if name not in self._measured}
        for model in (self.model, self.average):
            model.load_state_dict(weights, strict=False)

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        """Move the mean towards the weights; faster in the first steps."""
        decay = min(decay, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)
        for name in self._measured:
            getattr(self.average, name).copy_(getattr(self.model, name))

    @property
    def _measured(self) -> tuple[str, ...]:
        return getattr(type(self.model), "of_data", ())


def train(
    recipe: Recipe,
    folder: Path,
    *,
    data_dir: Path | None = None,
    begin_from: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    stop_at: int | None = None,
    progress: bool = True,
) -> int:
    """Train by a recipe into `folder` and return the step that was reached.

    Ctrl-C and SIGTERM save and return early. `begin_from` is a checkpoint (a folder, or the name of one that comes
    with the package): training begins with its weights instead of random ones, to fine-tune a model on problems of
    your own. `resume` continues the run in `folder` exactly where its last save was; `overwrite` replaces a run or
    a checkpoint that is there. `stop_at` ends this call at a step before the recipe's last. The folder gets
    model.safetensors, model.json, training.pt and board/ (TensorBoard), and after the last step the network as
    ONNX, if the extra `export` is installed.
    Processes that `torchrun` started share the problems of each step and make the steps of one process with the
    recipe's batch, to rounding; the first one reads and writes the folder.
    Before it begins, raises ValueError when the folder holds a run or a checkpoint and neither `resume` nor
    `overwrite` is given, or a run by another recipe; when another training writes to it; when the weights to begin
    from are those of another network; when the processes cannot share a batch equally; and when the device is not
    there.
    """
    if stop_at is not None:
        require_whole(1, stop_at=stop_at)
    last = min(recipe.steps, stop_at or recipe.steps)
    processes = joined(recipe)
    if not processes.is_first:
        return _follow(recipe, data_dir, last, processes)
    settings = recipe.to_json()
    require_free(folder, settings, _MAY_CHANGE, resume=resume, overwrite=overwrite)
    with claimed(folder):
        require_free(
            folder, settings, _MAY_CHANGE, resume=resume, overwrite=overwrite
        )  # now that nobody else writes to it
        state, task = _prepared(recipe, folder, data_dir, begin_from, resume)
        processes.require_shares(task.problems.batch)
        if overwrite:
            clear(folder)
        processes.of_first(state.content())
        with progress_bar(recipe.name, recipe.steps, state.step) if progress else tqdm(disable=True) as bar:
            _run(state, task, folder, last, bar, processes=processes)
        if state.step == recipe.steps:
            write_network(folder, data_dir)
    return state.step


def _prepared(
    recipe: Recipe, folder: Path, data_dir: Path | None, begin_from: str | Path | None, resume: bool
) -> "tuple[TrainingState, Task]":
    """Return the state that training begins with, and its task."""
    device = device_of(recipe)
    begun = None if begin_from is None or resume else load(begin_from).model
    task = recipe.task(recipe, data_dir, device)
    state = _new_state(recipe, task, device)
    if resume:
        state.load(folder)
    elif begun is not None:
        state.begin_from(begun)
    return state, task


def _follow(recipe: Recipe, data_dir: Path | None, last: int, processes: Processes) -> int:
    """Make the gradient steps of a process that is not the first, from the first one's state on; write nothing."""
    task = recipe.task(recipe, data_dir, device_of(recipe))
    state = _new_state(recipe, task, device_of(recipe))
    state.take(processes.of_first(None))
    learner = task.predictor(state.model)
    with stop_on_signal() as signals:
        while state.step < last and not processes.any(bool(signals)):
            _update(state, task, learner, processes)
    return state.step


def _run(state: TrainingState, task: Task, folder: Path, last: int, bar: Any, *, processes: Processes) -> None:
    """Make gradient steps until the last one or a signal, and save."""
    recipe = task.recipe
    learner, predictor = task.predictor(state.model), task.predictor(state.average)
    board = SummaryWriter(str(folder / "board"), purge_step=state.step)
    board.add_text("recipe", f"```json\n{json.dumps(recipe.to_json(), indent=2)}\n```", state.step)
    started = time.perf_counter() - state.seconds
    validation: dict[str, float] = {}
    with stop_on_signal() as signals:
        while state.step < last and not processes.any(bool(signals)):
            figures = _update(state, task, learner, processes)
            state.seconds = time.perf_counter() - started
            bar.update()

            if state.step % recipe.validate_every == 0:
                validation = _validate(task, predictor, board, state.step)
            if state.step % recipe.log_every == 0:
                speed = state.step * getattr(recipe.data, "batch", 1) / state.seconds
                for name, value in {**figures, "instances_per_second": speed}.items():
                    board.add_scalar(f"training/{name}", value, state.step)
                shown = {"loss": figures["loss"], **validation}
                bar.set_postfix({name: f"{value:.3g}" for name, value in shown.items()}, refresh=False)
            if state.step % recipe.save_every == 0:
                _save(state, predictor, recipe, validation, folder)
        validation = _validate(task, predictor, board, state.step)
        _save(state, predictor, recipe, validation, folder)
    board.close()


def schedule(step: int, warmup: int, steps: int) -> float:
    """Return the share of the learning rate at a step: a linear rise, then half a cosine down to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def _new_state(recipe: Recipe, task: Task, device: torch.device) -> TrainingState:
    torch.manual_seed(recipe.seed)
    model = task.new_model().to(device)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), fused=True)
    return TrainingState(model, average, optimizer)


def _update(state: TrainingState, task: Task, learner: Any, processes: Processes) -> dict[str, float]:
    """Make one gradient step; return its loss, the norm of the gradient and the learning rate."""
    recipe = task.recipe
    rate = recipe.learning_rate * schedule(state.step, recipe.warmup, recipe.steps)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    loss = task.loss(learner, processes.share(task.problem(state.step)))
    state.optimizer.zero_grad()
    loss.backward()
    loss = processes.average(state.model, loss)
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip).item()
    if not math.isfinite(norm):
        raise FloatingPointError(
            f"the gradient of step {state.step} is not finite: lower learning_rate, and go on from the last save "
            "with --resume, or begin again with --overwrite"
        )
    figures = {"loss": loss.item(), "gradient_norm": norm, "learning_rate": rate}
    state.optimizer.step()
    state.step += 1
    state.update_average(recipe.average)
    return figures


def _validate(task: Task, predictor: Any, board: SummaryWriter, step: int) -> dict[str, float]:
    """Measure the predictor on the fixed problems, show it on the board, and return the figures."""
    figures, pictures = task.measure(predictor)
    for name, value in figures.items():
        board.add_scalar(f"validation/{name}", value, step)
    for title, picture in pictures.items():
        board.add_image(title, picture, step, dataformats="HW" if picture.ndim == 2 else "HWC")
    return figures


def _save(state: TrainingState, predictor: Any, recipe: Recipe, figures: dict[str, float], folder: Path) -> None:
    parameters = list(predictor.model.parameters())
    facts: dict[str, Any] = {
        "recipe": recipe.to_json(),
        "seed": recipe.seed,
        "step": state.step,
        "training_seconds": round(state.seconds, 1),
        "parameters": sum(p.numel() for p in parameters),
        "validation": figures,
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "device": str(parameters[0].device),
        },
        "versions": {"metaot": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    save(predictor, folder, compact=recipe.compact, **facts)
    state.save(folder)
