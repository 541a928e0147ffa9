"""Train on random images for two minutes, evaluate, solve problems of your own, and again without torch.

Run it with `make demo`. No data is read; everything is written to runs/demo.
"""

import shutil
from pathlib import Path

import torch

import metaot
from metaot.cli import main

FOLDER = Path("runs/demo")


def own_problems() -> metaot.Problem:
    """Make a batch of three problems from arrays, as you would from yours: a ring, a stripe and a disc."""
    t = torch.linspace(0, 1, 28, dtype=torch.float64)
    y, x = torch.meshgrid(t, t, indexing="ij")
    radius = torch.hypot(x - 0.55, y - 0.45)
    shapes = [(radius - 0.32).abs() < 0.08, (y - 0.3 * x - 0.3).abs() < 0.08, radius < 0.3]
    a = torch.stack([shape.double().flatten() / shape.sum() for shape in shapes])
    return metaot.Problem(a, a.roll(-1, 0), metaot.Grid(28, 28), eps=1e-2)


if __name__ == "__main__":
    torch.set_num_threads(1)  # small tensors: a second thread gains little, and loses much on a busy machine
    shutil.rmtree(FOLDER, ignore_errors=True)
    main(["train", "shapes", "--out", str(FOLDER), "--set", "steps=2000"])
    main(["evaluate", str(FOLDER), "--instances", "40", "--seconds", "3"])

    problem = own_problems()
    model = metaot.load(FOLDER)
    cold, warm = metaot.solve(problem, tol=1e-3), metaot.solve(problem, init=model, tol=1e-3)
    steps = f"{cold.steps.tolist()} from zeros, {warm.steps.tolist()} from the model"
    print(f"\nyour own problems, Sinkhorn steps to 1e-3: {steps}")
    print(f"transport costs {[round(cost, 5) for cost in warm.cost().tolist()]}, errors <= {warm.error.max():.1e}")

    main(["export", str(FOLDER), "--out", str(FOLDER / "model.onnx")])
    a, b = problem.a.numpy(), problem.b.numpy()
    served = metaot.OnnxModel(FOLDER / "model.onnx").solve(a, b, eps=1e-2, tol=1e-3)
    steps = f"steps {served.steps.tolist()} after the refinement steps in the file"
    print(f"the same from the exported file: {steps}, errors <= {served.error.max():.1e}")
    print(f"pictures: {FOLDER}/evaluation/*.png; curves: tensorboard --logdir {FOLDER}")
