"""
Supply and demand
=================

A hundred suppliers and ten thousand customers have fixed places on the Earth. What is offered and wanted
changes from hour to hour, and each hour asks for the cheapest deliveries. The shipped model ``sphere`` knows
the places, reads the quantities, and predicts the prices.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import metaot
from metaot.data import Deliveries
from metaot.geometry.costs import degrees
from metaot.tools import kilometres, marginal_prices, shipments

# %%
# A problem
# ---------
#
# The places are part of the checkpoint: ``model.geometry``. The cost is the angle of the way along a great
# circle, in radians; ``eps`` is a thousandth of that, about six kilometres. Weights are the shares of all
# goods: yours would come from a table.

model = metaot.load("sphere")
generator = torch.Generator().manual_seed(0)
problem = Deliveries.on(model.geometry, 1, model.eps).sample(generator)[0]
solution = metaot.solve(problem, init=model, tol=1e-9)
cold = metaot.solve(problem, tol=1e-9)
print(f"{problem.geometry}: {int(solution.steps)} Newton steps from the model, {int(cold.steps)} from nothing")

# %%
# Shipments
# ---------
#
# The plan has a million entries, nearly all of them next to nothing. ``shipments`` lists the others, the
# largest first.

sent = shipments(solution, least=1e-6)
print(f"{len(sent)} shipments carry {float(sent.quantity.sum()):.2%} of all goods; the three largest:")
for k in range(3):
    way = f"from supplier {int(sent.supplier[k])} to customer {int(sent.customer[k])}"
    print(f"  {float(sent.quantity[k]):.2e} {way}, {float(sent.kilometres[k]):.0f} km")

# %%
# What is certain
# ---------------
#
# The plan is not the cheapest one, because of ``eps``. How far is it from that at most?

bounds = solution.bounds()
cost, low, high = (float(kilometres(value)) for value in (solution.cost(), bounds.lower, bounds.upper))
print(f"an average way of {cost:.2f} km; the cheapest plan has between {low:.2f} and {high:.2f} km")

# %%
# The map
# -------
#
# Each dot is a customer, in the colour of the supplier who sends most; lines are some of the longer deliveries.
# Suppliers are drawn larger the more they have.

x, y = problem.geometry.points
(south_x, east_x), (south_y, east_y) = (tuple(z.numpy() for z in degrees(points)) for points in (x, y))
P = solution.plan()
largest = P.argmax(0).numpy()
colours = np.random.default_rng(3).permutation(100)


def great_circle(start: torch.Tensor, end: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return longitude and latitude along the shortest way; a break where it leaves the map."""
    steps = torch.linspace(0, 1, 50, dtype=start.dtype)[:, None]
    chord = (1 - steps) * start + steps * end
    latitude, longitude = (z.numpy() for z in degrees(chord / chord.norm(dim=-1, keepdim=True)))
    jumps = np.abs(np.diff(longitude, prepend=longitude[0])) > 180
    return np.where(jumps, np.nan, longitude), latitude


figure, ax = plt.subplots(figsize=(11, 5.2), layout="constrained")
ax.scatter(east_y, south_y, c=colours[largest], cmap="gist_ncar", s=2, linewidths=0)
for customer in torch.randperm(len(y), generator=generator)[:300].tolist():
    supplier = int(largest[customer])
    shade = plt.get_cmap("gist_ncar")(colours[supplier] / 99)
    ax.plot(*great_circle(x[supplier], y[customer]), color=shade, linewidth=0.5, alpha=0.7)
ax.scatter(east_x, south_x, s=1500 * problem.a.numpy(), color="k", marker="^", zorder=3, label="suppliers")
ax.set(xlim=(-180, 180), ylim=(-58, 80), xlabel="degrees east", ylabel="degrees north", aspect=1.3)
ax.legend(loc="lower left")
plt.show()

# %%
# Prices
# ------
#
# The potential has a meaning: the derivative of the cost in the quantities. ``marginal_prices`` says for each
# supplier how the average way changes when that supplier gets more and all others give in proportion. Where it
# is low, more supply is wanted most.

prices = kilometres(marginal_prices(solution)).numpy()
figure, ax = plt.subplots(figsize=(10, 4.6), layout="constrained")
ax.scatter(east_y, south_y, s=1, color="0.85", linewidths=0)
limit = np.abs(prices).max()
dots = ax.scatter(east_x, south_x, c=prices, cmap="coolwarm", vmin=-limit, vmax=limit, s=60, edgecolors="k")
ax.set(xlim=(-180, 180), ylim=(-58, 80), xlabel="degrees east", ylabel="degrees north", aspect=1.3)
figure.colorbar(dots, ax=ax, label="km for each unit more", shrink=0.8)
plt.show()

# %%
# Your own places
# ---------------
#
# From CSV files with the columns latitude, longitude and, if you like, weight::
#
#     python train.py sphere --set data.supplier_file=suppliers.csv --set data.customer_file=customers.csv
#
# Without a raster of population in the data folder, places that are not given are drawn from a rough synthetic
# Earth, ``--set data.world=synthetic``. The network of such a model can be exported without its Newton steps,
# because ONNX solves no linear systems: ``python export.py runs/sphere --passes 0``.
#
# Hour after hour
# ---------------
#
# Eight hours, each a little different from the last. The previous solution is a start as well, and one that
# costs nothing: where problems follow one another slowly, it needs no model. The model pays where the next
# problem is a new one.

a, b, previous = problem.a, problem.b, None
steps: dict[str, list[int]] = {"zeros": [], "the hour before": [], "the model": []}
for _ in range(8):
    a, b = (w * torch.exp(0.1 * torch.randn(w.shape, generator=generator, dtype=w.dtype)) for w in (a, b))
    hour = metaot.Problem(a / a.sum(), b / b.sum(), model.geometry, model.eps[0])
    for name, init in (("zeros", None), ("the hour before", previous), ("the model", model)):
        found = metaot.solve(hour, init=init)
        steps[name].append(int(found.steps))
        previous = found.potentials

figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
for (name, counts), colour in zip(steps.items(), ("0.6", "tab:orange", "tab:blue"), strict=True):
    ax.plot(range(8), counts, color=colour, marker=".", label=f"from {name}")
ax.set(xlabel="hour", ylabel="Newton steps to 1e-6", ylim=(0, None))
ax.legend(loc="center right")
plt.show()
