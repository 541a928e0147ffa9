"""Solve problems of your own with the model that `make demo` trained, and with its exported file.

Run `python examples/demo/own_problems.py runs/demo`.
"""

import sys
from pathlib import Path

import torch

import metaot

folder = Path(sys.argv[1])


def own_problems() -> metaot.Problem:
    """Make a batch of three problems from arrays, as you would from yours: a ring, a stripe and a disc."""
    t = torch.linspace(0, 1, 28, dtype=torch.float64)
    y, x = torch.meshgrid(t, t, indexing="ij")
    radius = torch.hypot(x - 0.55, y - 0.45)
    shapes = [(radius - 0.32).abs() < 0.08, (y - 0.3 * x - 0.3).abs() < 0.08, radius < 0.3]
    a = torch.stack([shape.double().flatten() / shape.sum() for shape in shapes])
    return metaot.Problem(a, a.roll(-1, 0), metaot.Grid(28, 28), eps=1e-2)


problem, model = own_problems(), metaot.load(folder)
cold, warm = metaot.solve(problem, tol=1e-3), metaot.solve(problem, init=model, tol=1e-3)
print("your own problems, steps to an L1 error of 1e-3:")
print(f"  from zeros               {cold.steps.tolist()}")
print(f"  from the model           {warm.steps.tolist()}, transport costs {warm.cost().numpy().round(5).tolist()}")

served = metaot.OnnxModel(folder / "model.onnx")
solution = served.solve(problem.a.numpy(), problem.b.numpy(), eps=1e-2, tol=1e-3)
print(f"  from the exported file   {solution.steps.tolist()}, after the refinement steps inside it")
