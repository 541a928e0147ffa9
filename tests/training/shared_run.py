"""What each of several processes runs in a test: `python shared_run.py train FOLDER NAME ...` or `stop FOLDER`."""

import json
import os
import signal
import sys
from pathlib import Path

from small import tiny
from torch import Tensor

from metaot import Problem
from metaot.objectives import scaled_dual_loss
from metaot.training import loop, train

STEPS = 6


def trained(folder: Path, names: list[str]) -> None:
    """Train small recipes, at once and in two parts, and write the losses that this process saw."""
    update, losses = loop._update, []
    loop.write_network = lambda folder, data_dir: None
    for name in names:
        losses.clear()
        loop._update = lambda *given: losses.append(update(*given)) or losses[-1]
        train(tiny(name, STEPS), folder / name, progress=False)
        train(tiny(name, STEPS), folder / f"{name}-parts", stop_at=2, progress=False)
        train(tiny(name, STEPS), folder / f"{name}-parts", resume=True, progress=False)
        loop._update = update
        seen = [each["loss"] for each in losses]
        (folder / f"{name}-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(seen))


def stopped(folder: Path) -> None:
    """Train until the second process receives a signal in its first step."""
    received = []

    def loss(problem: Problem, f: Tensor) -> Tensor:
        if os.environ["RANK"] == "1" and not received:
            received.append(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        return scaled_dual_loss(problem, f)

    sys.stdout.write(f"{train(tiny('shapes', 400, objective=loss), folder, progress=False)}\n")


if __name__ == "__main__":
    action, folder, *names = sys.argv[1:]
    if action == "train":
        trained(Path(folder), names)
    else:
        stopped(Path(folder))
