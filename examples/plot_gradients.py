"""
Gradients through transport
===========================

``ot_value`` is a differentiable function of all that a problem is made of: weights, points, a cost matrix, the
parameters of a cost function, and ``eps``. Nothing is unrolled: by the envelope theorem the potentials and the
plan are the derivatives. Here points flow towards a shape, and weights are fitted.
"""

import math

import matplotlib.pyplot as plt
import torch

import metaot

# %%
# A gradient flow
# ---------------
#
# The points ``x`` follow the negative gradient of the transport value to ``y``. Entropic transport of a measure
# to itself is not free, so the value alone would shrink the cloud: the Sinkhorn divergence takes half of both
# self-terms away, and has its minimum where both measures are equal.

generator = torch.Generator().manual_seed(0)
COUNT = 200
angle = torch.linspace(0, 2 * math.pi, COUNT + 1, dtype=torch.float64)[:-1]
heart = torch.stack(
    [16 * angle.sin() ** 3, 13 * angle.cos() - 5 * (2 * angle).cos() - 2 * (3 * angle).cos() - (4 * angle).cos()],
    -1,
)
y = heart / 34 + 0.5
weights = torch.full((COUNT,), 1 / COUNT, dtype=torch.float64)


def value(x: torch.Tensor, y: torch.Tensor, eps: float) -> torch.Tensor:
    return metaot.ot_value(metaot.Problem(weights, weights, metaot.Points(x, y), eps), tol=1e-4)


def divergence(x: torch.Tensor, y: torch.Tensor, eps: float) -> torch.Tensor:
    """Return the Sinkhorn divergence, but for the self-term of y, which has no derivative in x."""
    return value(x, y, eps) - value(x, x, eps) / 2


EPS, RATE, STEPS = 1e-2, 0.2 * COUNT, 20
begin = 0.12 * torch.randn(COUNT, 2, generator=generator, dtype=torch.float64) + 0.3
shown = {}
for name, loss in (("value", value), ("divergence", divergence)):
    x, path = begin.clone(), []
    for step in range(STEPS + 1):
        if step in (0, 2, 6, STEPS):
            path.append((step, x.clone()))
        x.requires_grad_()
        (slope,) = torch.autograd.grad(loss(x, y, EPS), x)
        x = (x - RATE * slope).detach()
    shown[name] = path

figure, axes = plt.subplots(2, 4, figsize=(10, 5.2), sharex=True, sharey=True, layout="constrained")
for line, (name, path) in zip(axes, shown.items(), strict=True):
    for ax, (step, x) in zip(line, path, strict=True):
        ax.scatter(y[:, 0], y[:, 1], s=2, color="0.7")
        ax.scatter(x[:, 0], x[:, 1], s=5, color="tab:red")
        ax.set(title=f"{name}, step {step}", aspect="equal", xticks=[], yticks=[])
plt.show()

# %%
# Which weights?
# --------------
#
# The derivative in the weights is the potential. Here the mixture of three images that is nearest to a fourth
# one is fitted, with the parameters of a softmax as unknowns.

s = torch.linspace(0, 1, 24, dtype=torch.float64)
squares = (s[:, None] - s) ** 2


def blob(x: float, y: float, width: float = 0.08) -> torch.Tensor:
    image = torch.exp(-((s[:, None] - x) ** 2 + (s - y) ** 2) / (2 * width**2)).flatten()
    return image / image.sum()


parts = torch.stack([blob(0.25, 0.25), blob(0.75, 0.3), blob(0.5, 0.8)])
wanted = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64) @ parts
grid = metaot.Grid(24, 24)
logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
optimizer = torch.optim.Adam([logits], lr=0.1)
history = []
for _ in range(40):
    mixture = logits.softmax(0) @ parts
    loss = metaot.ot_value(metaot.Problem(mixture, wanted, grid, eps=1e-2), tol=1e-6)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    history.append(logits.softmax(0).detach())
print(f"fitted shares {[round(v, 3) for v in history[-1].tolist()]}, wanted 0.2, 0.5 and 0.3")

figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
ax.plot(torch.stack(history), label=["first blob", "second blob", "third blob"])
for k, share in enumerate((0.2, 0.5, 0.3)):
    ax.axhline(share, color=f"C{k}", linewidth=0.8, linestyle=":")
ax.set(xlabel="step of Adam", ylabel="share in the mixture", ylim=(0, 0.75))
ax.legend(loc="upper right", ncols=3)
plt.show()

# %%
# Derivatives are those at the optimum: solve to a ``tol`` that is small beside what you need of them. There are
# first derivatives only.
