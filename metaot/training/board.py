"""What TensorBoard shows of a run."""

import json
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from metaot.geometry import Grid
from metaot.potentials import DualPotentials
from metaot.tools.interpolation import displacement_interpolation
from metaot.training.validation import Validation

_PAIRS = 4


@final
class Board:
    """Curves, pictures and the configuration of a run, in `folder`/board."""

    def __init__(self, folder: Path, start: int, settings: dict[str, Any]) -> None:
        self._writer = SummaryWriter(str(folder / "board"), purge_step=start)
        self._writer.add_text("recipe", f"```json\n{json.dumps(settings, indent=2)}\n```", start)

    def scalars(self, group: str, figures: dict[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)

    def pictures(self, validation: Validation, guess: DualPotentials, step: int) -> None:
        """Show pairs of images with predicted and exact potential and the mass that both move halfway."""
        grid = validation.problem.geometry
        if not isinstance(grid, Grid) or len(grid.sizes) != 2:
            return
        problem, exact, guess = validation.problem[:_PAIRS], validation.exact[:_PAIRS], guess[:_PAIRS]
        centred = [f - (f * problem.a).sum(-1, keepdim=True) for f in (guess.f, exact.f)]
        low, high = centred[1].amin(-1, keepdim=True), centred[1].amax(-1, keepdim=True)
        halves = [displacement_interpolation(problem, potentials, 0.5) for potentials in (guess, exact)]
        columns = [_ink(problem.a), _ink(problem.b), *((f - low) / (high - low) for f in centred)]
        columns += [_ink(half) for half in halves]
        picture = _tiled(torch.stack(columns, 1).clamp(0, 1), grid.sizes)
        self._writer.add_image(
            "a, b | f predicted, f exact | halfway: predicted, exact", picture, step, dataformats="HW"
        )

    def close(self) -> None:
        self._writer.close()


def _ink(weights: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
    return 1 - weights / weights.amax(-1, keepdim=True)


def _tiled(images: Float[Tensor, "rows columns n"], sizes: tuple[int, ...]) -> Float[Tensor, "height width"]:
    """Lay images out in rows, three times their size, with a grey line between them."""
    images = images.reshape(*images.shape[:2], *sizes).repeat_interleave(3, 2).repeat_interleave(3, 3)
    images = torch.nn.functional.pad(images, (1, 1, 1, 1), value=0.5)
    return images.movedim(1, 2).flatten(2, 3).flatten(0, 1).float().cpu()
