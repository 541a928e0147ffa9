"""What TensorBoard shows of a run."""

import json
from pathlib import Path
from typing import Any, final

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter


@final
class Board:
    """Curves, pictures and the configuration of a run, in `folder`/board."""

    def __init__(self, folder: Path, start: int, settings: dict[str, Any]) -> None:
        self._writer = SummaryWriter(str(folder / "board"), purge_step=start)
        self._writer.add_text("recipe", f"```json\n{json.dumps(settings, indent=2)}\n```", start)

    def scalars(self, group: str, figures: dict[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)

    def pictures(self, pictures: dict[str, Tensor], step: int) -> None:
        """Show pictures in [0, 1], grey (height width) or in colours (height width 3)."""
        for title, picture in pictures.items():
            self._writer.add_image(title, picture, step, dataformats="HW" if picture.ndim == 2 else "HWC")

    def close(self) -> None:
        self._writer.close()
