"""The run of a fit against a data set: steps, measurements, the progress bar, TensorBoard, and what is saved."""

import json
import platform
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from metaot import __version__, digest
from metaot.arrays import as_count, require_limits
from metaot.folders import FORMAT
from metaot.geometry.costs import name_of_cost
from metaot.maps.ascent import NEWTON, State, newton, started, stochastic
from metaot.maps.marginal_error import MarginalError, marginal_error, samples_for
from metaot.maps.samplers import Stream
from metaot.models.data_set import ENTRIES, ROWS, DataSetPotential
from metaot.runs import (
    claimed,
    clear,
    progress_bar,
    read_state,
    require_free,
    stop_on_signal,
    write_state,
)
from metaot.settings import require_whole
from metaot.stored import write_checkpoint

_MAY_CHANGE = {"tol", "max_samples", "save_every"}
"""Settings that another call may have when it resumes."""

_BATCH = 4096
"""Most samples of a stochastic step."""

_RESOLVED = 4
"""The error is measured to its tolerance over this."""


@final
@dataclass(frozen=True)
class Fit:
    """What to fit, to which error, and how often to save."""

    model: DataSetPotential
    stream: Stream
    tol: float
    max_samples: int
    save_every: int

    def __post_init__(self) -> None:
        require_limits(self.tol, 0)
        require_whole(1, max_samples=as_count("max_samples", self.max_samples), save_every=self.save_every)
        require_whole(0, seed=self.stream.seed)

    @property
    def settings(self) -> dict[str, Any]:
        """What a run is compared by when it is resumed."""
        model = self.model
        arrays = {name: getattr(model, name).cpu().numpy() for name in ("y", "centre", "b")}
        return {
            "name": "semidiscrete", "sampler": repr(self.stream.sampler) if self.stream.is_even else "a function",
            "points": digest.of_arrays(arrays), "cost": name_of_cost(model.cost), "eps": model.eps,
            "seed": self.stream.seed, "tol": self.tol, "max_samples": self.max_samples,
            "save_every": self.save_every,
        }  # fmt: skip

    def run(
        self, g: Float[Tensor, "m"] | None, folder: Path | None, *, resume: bool, overwrite: bool, progress: bool
    ) -> tuple[State, MarginalError | None]:
        """Fit from a potential, or from that of a smaller problem; return where it ended and the error there.

        After a signal it is the last error that was measured, or None.
        """
        if folder is None:
            if resume or overwrite:
                raise ValueError("resume and overwrite are about the run in a folder: name it, folder=...")
            return self._steps(self._first(g), _Record(self, None), progress=progress)
        described(self.model)  # before anything is done: it may be none to save
        settings = self.settings
        require_free(folder, settings, _MAY_CHANGE, resume=resume, overwrite=overwrite)
        with claimed(folder):  # again, now that nobody else writes to it
            require_free(folder, settings, _MAY_CHANGE, resume=resume, overwrite=overwrite)
            if overwrite:
                clear(folder)
            seconds, state = _read(folder, self.model) if resume else (0.0, self._first(g))
            with _Record.in_folder(self, folder, settings, seconds, state) as record:
                return self._steps(state, record, progress=progress)

    def _first(self, g: Float[Tensor, "m"] | None) -> State:
        if g is not None:
            return State(g, g, count=1024)
        return started(self.model, self.stream, torch.Generator().manual_seed(self.stream.seed))

    def _steps(self, state: State, record: "_Record", *, progress: bool) -> tuple[State, MarginalError | None]:
        """Make steps until the error is small enough, the samples are used up, or a signal comes."""
        model, is_small = self.model, len(self.model.y) <= NEWTON
        batch = max(ROWS, min(_BATCH, ENTRIES // len(model.y)))
        step = (
            newton(model, self.stream, self.max_samples, self.tol)
            if is_small
            else stochastic(model, self.stream, batch, self.tol)
        )
        error, measured = None, -1
        name = f"{len(model.y)} data"
        shown = progress_bar(name, self.max_samples, state.samples, "sample") if progress else tqdm(disable=True)
        with stop_on_signal() as signals, shown as bar:
            while not (signals or (state.samples >= self.max_samples and (state.settled or not is_small))):
                before, state = state, step(state)
                if not bool(state.g.isfinite().all()):
                    raise FloatingPointError(
                        f"the potential is not finite after step {state.step}: scale the data"
                    )
                bar.update(state.samples - before.samples)
                if state.settled:
                    error, measured = self._measured(state), state.step
                    record.measured(state, error)
                    bar.set_postfix(chi2=f"{error.chi2:.2e}", refresh=False)
                    if error.is_within(self.tol):
                        break
                if state.step % self.save_every == 0:
                    record.save(state, error)
        record.save(state, error)
        if measured != state.step and not signals:
            error = self._measured(state)
            record.measured(state, error)
            record.save(state, error)
        model.g = state.mean
        return state, error

    def _measured(self, state: State) -> MarginalError:
        """Measure the error of the mean potential on fresh samples, other ones each time."""
        model = self.model
        model.g = state.mean
        count = min(self.max_samples, samples_for(self.tol / _RESOLVED, len(model.y)))
        number = state.step * 2**10
        return marginal_error(model.b, lambda size, k: self.stream.fresh(size, number + k), model.received, count)


@final
@dataclass
class _Record:
    """Where a fit is written down; nowhere without a folder."""

    fit: Fit
    folder: Path | None
    settings: dict[str, Any] | None = None
    board: SummaryWriter | None = None
    started: float = 0.0

    @classmethod
    @contextmanager
    def in_folder(
        cls, fit: Fit, folder: Path, settings: dict[str, Any], seconds: float, state: State
    ) -> Generator["_Record"]:
        """Write to a folder while the block runs; so far it took some seconds."""
        board = SummaryWriter(str(folder / "board"), purge_step=state.step)
        board.add_text("recipe", f"```json\n{json.dumps(settings, indent=2)}\n```", state.step)
        try:
            yield cls(fit, folder, settings, board, time.perf_counter() - seconds)
        finally:
            board.close()

    def measured(self, state: State, error: MarginalError) -> None:
        """Show an error on the board."""
        if self.board is None:
            return
        figures = {
            "validation/chi2": error.chi2,
            "validation/std": error.std,
            "training/samples": state.samples,
            "training/spread": state.spread,
            "training/samples_per_second": state.samples / (time.perf_counter() - self.started),
        }
        for name, value in figures.items():
            self.board.add_scalar(name, value, state.step)

    def save(self, state: State, error: MarginalError | None) -> None:
        """Write the checkpoint with the mean potential, and the state from which a run goes on."""
        if self.folder is None:
            return
        model, seconds = self.fit.model, time.perf_counter() - self.started
        model.g = state.mean
        facts: dict[str, Any] = {
            "recipe": self.settings,
            "seed": self.fit.stream.seed,
            "step": state.step,
            "samples": state.samples,
            "training_seconds": round(seconds, 1),
            "validation": None if error is None else vars(error),
            "versions": {"metaot": __version__, "torch": torch.__version__, "python": platform.python_version()},
        }
        write_checkpoint(self.folder, *described(model), facts)
        write_state(self.folder, {"state": vars(state), "seconds": seconds})


def described(model: DataSetPotential) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what a checkpoint says of a data set with its potential: the entries of its card, and tensors.

    Raises ValueError for a cost that is a function.
    """
    if callable(model.cost):
        raise ValueError(
            "a cost function of your own cannot be saved: name one of those that `metaot.Points` knows"
        )
    kind = {"kind": type(model).__name__, "config": model.config}
    settings = {"format": FORMAT, "model": kind, "geometry": None, "dim": model.y.shape[1], "cost": model.cost}
    return settings, {f"model.{name}": value for name, value in model.state_dict().items()}


def _read(folder: Path, model: DataSetPotential) -> tuple[float, State]:
    """Return the seconds that a run took, and the state that it goes on from."""
    with read_state(folder) as found:
        state = State(**found["state"])
        if state.g.shape != model.g.shape:
            raise ValueError(f"it has a potential on {len(state.g)} data")
        return found["seconds"], replace(state, g=state.g.to(model.g), mean=state.mean.to(model.g))
