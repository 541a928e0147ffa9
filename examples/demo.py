"""Train on random images for two minutes, see what the predictions save, then solve problems of your own.

Run it with `make demo`. No data is read; everything is written to runs/demo.
"""

import shutil
from pathlib import Path

import torch

import metaot
from metaot.cli import main

FOLDER = Path("runs/demo")


def own_problems() -> metaot.Problem:
    """Make a batch of three problems from arrays, as you would from yours: two bumps against one."""
    x = torch.linspace(0, 1, 28, dtype=torch.float64)
    bump = torch.exp(-((x - 0.5) ** 2) / 0.02)
    wide = torch.exp(-((x - 0.3) ** 2) / 0.005) + torch.exp(-((x - 0.8) ** 2) / 0.01)
    images = [(p[:, None] * q).flatten() for p, q in ((bump, wide), (wide, bump), (wide, wide))]
    a = torch.stack(images)
    b = a.roll(1, 0)
    mass = a.sum(-1, keepdim=True), b.sum(-1, keepdim=True)
    return metaot.Problem(a / mass[0], b / mass[1], metaot.Grid(28, 28), eps=1e-2)


if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    main(["train", "shapes", "--out", str(FOLDER), "--set", "steps=4000"])
    main(["evaluate", str(FOLDER), "--instances", "50"])

    problem = own_problems()
    model = metaot.load(FOLDER)
    cold, warm = metaot.solve(problem, tol=1e-4), metaot.solve(problem, init=model, tol=1e-4)
    steps = f"{cold.steps.tolist()} from zeros, {warm.steps.tolist()} from the model"
    print(f"\nyour own problems, Sinkhorn steps to 1e-4: {steps}")
    print(f"transport costs {[round(cost, 5) for cost in warm.cost().tolist()]}, errors <= {warm.error.max():.1e}")
    print(f"pictures: {FOLDER}/evaluation/*.png; curves: tensorboard --logdir {FOLDER}")
