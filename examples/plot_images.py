"""
Images and interpolation
========================

Two images are two ways to spread the same mass over a grid of pixels. Optimal transport finds the cheapest way
to turn one into the other. This page solves one such problem from a prediction, reads off what a solution has
to say, and moves one image into the other.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

import metaot
from metaot.tools import displacement_interpolation

# %%
# The images
# ----------
#
# Any two nonnegative arrays of one shape will do. Weights must sum to one: dividing by the sum is up to you,
# because only you know whether a difference in mass means something.

SIZE = 64
FONT = ImageFont.truetype(findfont("DejaVu Sans:bold"), 56)


def letter(text: str) -> np.ndarray:
    """Draw a letter, white on black, with mass one."""
    image = Image.new("L", (SIZE, SIZE))
    ImageDraw.Draw(image).text((SIZE / 2, SIZE / 2), text, 255, FONT, anchor="mm")
    pixels = np.asarray(image, dtype=np.float64)
    return pixels / pixels.sum()


source, target = letter("O"), letter("T")

# %%
# The problem
# -----------
#
# ``Grid(64, 64)`` is the unit square with 64 x 64 points, and the cost of moving mass from x to y is :math:`|x
# - y|^2`. ``eps`` is the temperature: how much the plan is smoothed, in the units of the cost. Here
# :math:`\sqrt{\epsilon}` is about three percent of the side of the picture, or two pixels. Images are taken as
# they are.

problem = metaot.Problem(source, target, metaot.Grid(SIZE, SIZE), eps=1e-3)

# %%
# A prediction, and the solution
# ------------------------------
#
# The universal model was trained on drawn images, none of which were letters. It predicts the dual potential in
# one pass; ``solve`` starts there and stops when the marginals of the plan are off by at most ``tol``.

model = metaot.load("universal")
guess = model.predict(problem)
solution = metaot.solve(problem, init=model, tol=1e-6)
cold = metaot.solve(problem, tol=1e-6)

print(f"steps from the model {int(solution.steps)}, from zeros {int(cold.steps)}")
print(f"L1 error of the marginals {float(solution.error):.1e}, converged: {bool(solution.converged)}")
print(f"transport cost <C, P> {float(solution.cost()):.6f}")

# %%
# Bounds
# ------
#
# The plan of entropic transport is blurred, so its cost is a little too high. ``bounds`` says between which two
# numbers the cost without any blur lies. They hold for every solution, also for one that has not converged: see
# :doc:`plot_bounds`.

bounds = solution.bounds()
print(f"the cheapest plan without entropy costs between {float(bounds.lower):.6f} and {float(bounds.upper):.6f}")

# %%
# From one image to the other
# ---------------------------
#
# A plan says how much mass goes from each pixel to each other pixel. Moved only a part of the way, that mass
# makes an image in between: McCann's displacement interpolation. Beside it, what an average of the pixels
# makes, and what the bare prediction makes, without a solver.

times = np.linspace(0, 1, 7)
rows = {
    "average of pixels": [(1 - t) * source + t * target for t in times],
    "predicted": [displacement_interpolation(problem, guess, float(t)) for t in times],
    "solved": [displacement_interpolation(problem, solution.potentials, float(t)) for t in times],
}

figure, axes = plt.subplots(len(rows), len(times), figsize=(10, 4.6), layout="constrained")
for line, (name, images) in zip(axes, rows.items(), strict=True):
    line[0].set_ylabel(name)
    for ax, t, image in zip(line, times, images, strict=True):
        ax.imshow(np.asarray(image).reshape(SIZE, SIZE), cmap="magma", vmin=0, vmax=source.max())
        ax.set(xticks=[], yticks=[])
        if line is axes[0]:
            ax.set_title(f"t = {t:.2f}")
plt.show()

# %%
# Where the mass goes
# -------------------
#
# ``transport`` gives the mean place to which each pixel sends its mass: the barycentric map. An arrow for each
# pixel would be too many, so only some with mass are drawn.

places = problem.geometry.points[0]
goals = solution.transport()
drawn = torch.multinomial(problem.a, 160, generator=torch.Generator().manual_seed(0))
start, move = places[drawn], goals[drawn] - places[drawn]

figure, ax = plt.subplots(figsize=(5, 5), layout="constrained")
ax.imshow(source + target, cmap="Greys", extent=(0, 1, 1, 0), alpha=0.5)
ax.quiver(
    start[:, 1], start[:, 0], move[:, 1], move[:, 0],
    angles="xy", scale_units="xy", scale=1, width=0.004, color="tab:red",
)  # fmt: skip
ax.set(xlabel="second axis of the grid", ylabel="first axis of the grid", title="from O to T")
plt.show()
