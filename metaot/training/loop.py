"""The training loop: minimise the amortised dual objective over sampled problems.

Algorithm 3 of Meta OT (arXiv 2206.05262): no solver runs and nothing is labelled. The problems of a step
depend on the seed and the step only, so that a resumed run goes on exactly.
"""

import math
import platform
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from metaot import __version__
from metaot.checkpoint import load, read_card, save, write_network
from metaot.training.board import Board
from metaot.training.recipe import Recipe
from metaot.training.signals import stop_on_signal
from metaot.training.state import FILE, TrainingState, frozen_copy
from metaot.training.task import Task

_MAY_CHANGE = {"steps", "log_every", "validate_every", "save_every", "compact", "device"}
"""Settings that --resume accepts with another value."""


def train(
    recipe: Recipe,
    folder: Path,
    *,
    data_dir: Path | None = None,
    begin_from: str | Path | None = None,
    resume: bool = False,
    stop_at: int | None = None,
    progress: bool = True,
) -> int:
    """Train by a recipe into `folder` and return the step that was reached.

    Ctrl-C and SIGTERM save and return early. `begin_from` is a checkpoint (a folder, or the name of one that comes
    with the package): training begins with its weights instead of random ones, to fine-tune a model on problems of
    your own. `resume` continues the run in `folder` exactly where its last save was. `stop_at` ends this call at
    a step before the recipe's last. The folder gets model.pt, model.json, training.pt and board/, and after the
    last step the network as ONNX, where the extra `export` is installed.
    Raises ValueError when the folder holds a run and `resume` is not given, or one by another recipe, and when the
    weights to begin from are those of another network.
    """
    _check_folder(recipe, folder, resume)
    device = _device(recipe.device)
    task = recipe.task(recipe, data_dir, device)
    state = _new_state(recipe, task, device)
    if resume:
        state.load(folder)
    elif begin_from is not None:
        state.begin_from(load(begin_from).model)
    folder.mkdir(parents=True, exist_ok=True)
    learner, predictor = task.predictor(state.model), task.predictor(state.average)
    board = Board(folder, state.step, recipe.to_json())
    last = min(recipe.steps, stop_at or recipe.steps)
    bar = tqdm(total=recipe.steps, initial=state.step, desc=recipe.name, disable=not progress, unit="step")
    started = time.perf_counter() - state.seconds
    figures: dict[str, float] = {}
    with stop_on_signal() as request, bar:
        while state.step < last and not request.asked:
            loss, norm = _update(state, recipe, task, learner)
            state.seconds = time.perf_counter() - started
            bar.update()

            if state.step % recipe.validate_every == 0:
                figures = _validate(task, predictor, board, state.step)
            if state.step % recipe.log_every == 0:
                board.scalars("training", _progress(state, recipe, loss, norm), state.step)
                bar.set_postfix(_short({"loss": loss.item(), **figures}))
            if state.step % recipe.save_every == 0:
                _save(state, predictor, recipe, figures, folder)
        figures = _validate(task, predictor, board, state.step)
        _save(state, predictor, recipe, figures, folder)
    if state.step == recipe.steps:
        write_network(folder, data_dir)
    board.close()
    return state.step


def _update(state: TrainingState, recipe: Recipe, task: Task, learner: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Make one gradient step; return the loss and the norm of its gradient."""
    rate = recipe.learning_rate * schedule(state.step, recipe.warmup, recipe.steps)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    loss = task.loss(learner, task.problem(state.step))
    state.optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip)
    if not bool(norm.isfinite()):
        raise FloatingPointError(
            f"the gradient of step {state.step} is not finite: lower learning_rate, then go on from the last "
            "save with --resume"
        )
    state.optimizer.step()
    state.step += 1
    state.update_average(recipe.average)
    return loss.detach(), norm


def _validate(task: Task, predictor: Any, board: Board, step: int) -> dict[str, float]:
    """Measure the predictor on the fixed problems, show it on the board, and return the figures."""
    figures, pictures = task.measure(predictor)
    board.scalars("validation", figures, step)
    board.pictures(pictures, step)
    return figures


def schedule(step: int, warmup: int, steps: int) -> float:
    """Return the share of the learning rate at a step: a linear rise, then half a cosine down to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def _new_state(recipe: Recipe, task: Task, device: torch.device) -> TrainingState:
    torch.manual_seed(recipe.seed)
    model = task.new_model().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), fused=True)
    return TrainingState(model, frozen_copy(model), optimizer)


def _check_folder(recipe: Recipe, folder: Path, resume: bool) -> None:
    begun = (folder / FILE).exists()
    if begun and not resume:
        raise ValueError(f"{folder} holds a run already: go on with --resume, or name another folder with --out")
    if resume and not begun:
        raise ValueError(f"{folder} holds no run to resume: leave --resume away to begin one")
    if resume:
        old, new = read_card(folder)["recipe"], recipe.to_json()
        changed = [key for key in new if key not in _MAY_CHANGE and old.get(key) != new[key]]
        if changed:
            key = changed[0]
            raise ValueError(
                f"{folder} was started with {key} = {old.get(key)!r}, not {new[key]!r}: give the same settings"
            )


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _progress(state: TrainingState, recipe: Recipe, loss: torch.Tensor, norm: torch.Tensor) -> dict[str, float]:
    batch = getattr(recipe.data, "batch", 1)
    return {
        "loss": loss.item(),
        "gradient_norm": norm.item(),
        "learning_rate": state.optimizer.param_groups[0]["lr"],
        "instances_per_second": state.step * batch / max(state.seconds, 1e-9),
    }


def _short(figures: dict[str, float]) -> dict[str, str]:
    return {name: f"{value:.3g}" for name, value in figures.items()}


def _save(
    state: TrainingState,
    predictor: Any,
    recipe: Recipe,
    figures: dict[str, float],
    folder: Path,
) -> None:
    facts: dict[str, Any] = {
        "recipe": recipe.to_json(),
        "seed": recipe.seed,
        "step": state.step,
        "training_seconds": round(state.seconds, 1),
        "parameters": sum(p.numel() for p in predictor.model.parameters()),
        "validation": figures,
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "device": str(next(predictor.model.parameters()).device),
        },
        "versions": {"metaot": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    save(predictor, folder, compact=recipe.compact, **facts)
    state.save(folder)
