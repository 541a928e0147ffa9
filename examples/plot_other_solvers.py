"""
Starts for POT, OTT and GeomLoss
================================

If a solver of another library is in place already, keep it, and give it a better start. The adapters translate:
they know what each library calls a start, in which units and for which convention, and what it does with atoms
that have no mass. POT runs on this page; OTT-JAX and GeomLoss do if they are installed where the page is built.
"""

from importlib.util import find_spec

import matplotlib.pyplot as plt
import numpy as np
import ot
import torch
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

import metaot
from metaot.adapters import pot

SIZE, COUNT = 28, 4
FONT = ImageFont.truetype(findfont("DejaVu Sans:bold"), 24)


def letter(text: str) -> np.ndarray:
    """Draw a letter, white on black, with mass one."""
    image = Image.new("L", (SIZE, SIZE))
    ImageDraw.Draw(image).text((SIZE / 2, SIZE / 2), text, 255, FONT, anchor="mm")
    pixels = np.asarray(image, dtype=np.float64)
    return pixels / pixels.sum()


letters = torch.from_numpy(np.stack([letter(text).flatten() for text in "ABCDE"]))
problem = metaot.Problem(letters[:COUNT], letters[1:], metaot.Grid(SIZE, SIZE), eps=5e-3)
model = metaot.load("universal")

# %%
# POT
# ---
#
# ``pot.sinkhorn`` runs ``ot.sinkhorn``, problem by problem, and returns a solution like all others. Beside the
# steps from zeros and from the prediction, the L1 error of both marginals is measured on what came out.

methods = ("sinkhorn", "sinkhorn_log", "sinkhorn_stabilized")
cold = {name: pot.sinkhorn(problem, method=name, tol=1e-3) for name in methods}
warm = {name: pot.sinkhorn(problem, init=model, method=name, tol=1e-3) for name in methods}
for name in methods:
    before, after = (found[name].steps.double().mean() for found in (cold, warm))
    print(f"{name}: {before:.0f} steps from nothing, {after:.0f} from the model, "
          f"errors up to {float(warm[name].error.max()):.0e}")  # fmt: skip

# %%
# A call of your own
# ------------------
#
# To call POT yourself, take only the arguments. They are those of the atoms with mass: POT divides by weights.

single = problem[0]
a, b, M, reg = pot.arguments(single)
P = ot.sinkhorn(
    a, b, M, reg, method="sinkhorn_log", warmstart=pot.warmstart(single, model), numItermax=20, warn=False
)
print(f"after 20 iterations, the plan's columns are right to {np.abs(P.sum(0) - b).sum():.0e}")

# %%
# The network simplex, without entropy, takes potentials as a start too. They save pivots, and not always time.

exact = pot.emd(single, init=model)
print(f"exact cost {float(exact.cost):.6f}, entropic {float(warm['sinkhorn_log'].cost()[0]):.6f}")

# %%
# OTT-JAX
# -------
#
# The same call. A squared cost on a grid stays separable, and the solver is compiled once for each size.

if find_spec("ott"):
    from metaot.adapters import ott

    cold["OTT"], warm["OTT"] = (ott.sinkhorn(problem, init=init, tol=1e-3) for init in (None, model))
else:
    print("OTT-JAX is not installed here: pip install ott-jax")

# %%
# Your own call: ``Sinkhorn()(ott.linear_problem(single), init=ott.init(single, model))``.
#
# GeomLoss
# --------
#
# No function of GeomLoss takes a start. So ``metaot.solve`` does the work, and GeomLoss's object comes back,
# with its ``plan``, ``value`` and ``potential_a``.

if find_spec("geomloss"):
    from metaot.adapters import geomloss

    print(geomloss.solve(single, init=model, tol=1e-6).value)
else:
    print("GeomLoss is not installed here: pip install geomloss")

# %%
# On a GPU, ``metaot.adapters.flash_sinkhorn`` gives starts to the kernels of flash-sinkhorn.

# %%
# Steps saved
# -----------

figure, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
places = np.arange(len(cold))
for shift, (label, found, colour) in enumerate((("nothing", cold, "0.6"), ("the model", warm, "tab:blue"))):
    steps = [solution.steps.numpy() for solution in found.values()]
    ax.bar(places + 0.4 * (shift - 0.5), [s.mean() for s in steps], 0.38, color=colour, label=f"from {label}")
ax.set(ylabel="steps to an L1 error of 1e-3", title=f"mean of {COUNT} pairs of letters")
ax.set_xticks(places, list(cold))
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %%
# How the conventions of these libraries differ, call by call, is in :doc:`/howto/convert`.
