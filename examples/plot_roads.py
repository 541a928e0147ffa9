"""
Travel times that change
========================

Suppliers and customers stay where they are, but the way between them takes longer in the rush hour, and a road
may be closed. So costs change with every problem. The shipped model ``roads`` reads the cost matrix and the
quantities, and knows no place: it predicts for networks that it has never seen, such as this one.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.collections import LineCollection

import metaot
from metaot.data import RoadNetwork, Roads

# %%
# A network, and an hour
# ----------------------
#
# Three thousand junctions; around some places roads are slow at some hour. Each road has a delay by chance, and a
# few are closed: what goes there takes twenty times as long. A hundred suppliers and a thousand customers are at
# random junctions, and the cost is the time of the fastest way, by ``scipy``: ``pip install 'metaot[roads]'``.
# ``Roads(batch=8).sample(generator)`` draws whole problems, each on another network.

generator = torch.Generator().manual_seed(5)
network = RoadNetwork.drawn(3000, generator)
suppliers, customers = torch.randperm(3000, generator=generator)[:1100].split([100, 1000])
delays = [float(network.congestion(hour).mean()) for hour in range(24)]
rush, quiet = int(np.argmax(delays)), int(np.argmin(delays))
quantities = Roads(batch=1).split("test").weights(generator)


def at(hour: int) -> tuple[metaot.Problem, torch.Tensor]:
    """Return the problem of an hour, and which roads are closed; eps is a hundredth of the mean cost."""
    times, closed = network.traffic(hour, generator)
    C = network.travel_times(suppliers, times)[:, customers]
    a, b = quantities
    return metaot.Problem(a[0], b[0], metaot.Dense(C), eps=0.01 * float(C.mean())), closed


hours = {hour: at(hour) for hour in (rush, quiet)}
for hour, (problem, closed) in hours.items():
    C = problem.geometry.cost_rows(slice(None))
    print(f"at {hour:2d}:00 {int(closed.sum())} roads are closed, and ways take {float(C.mean()):.2f} on average")

# %%
# The map
# -------
#
# Left, the roads at the busiest hour, the darker the slower; closed ones are blue. Right, the largest deliveries
# of the plan, as straight lines although goods follow the roads; squares and dots are the larger the more a
# supplier has and a customer wants.

problem, closed = hours[rush]
model = metaot.load("roads")
solution = metaot.solve(problem, init=model)
P = solution.plan()
sent = P.flatten().topk(400)
places = network.points.numpy()
x, y, ways = places[suppliers], places[customers], places[network.roads]
lines = np.stack([x[sent.indices // 1000], y[sent.indices % 1000]], 1)

figure, axes = plt.subplots(1, 2, figsize=(12, 6), layout="constrained")
slow = LineCollection(ways, array=network.congestion(rush).numpy(), cmap="YlOrRd", linewidths=1.2)
slow.set_clim(0.6, None)
axes[0].add_collection(slow)
axes[0].add_collection(LineCollection(ways[closed], colors="tab:blue", linewidths=3, label="closed"))
bar = figure.colorbar(slow, ax=axes[0], label="how many times longer than on an empty road", shrink=0.7)
bar.ax.set_ylim(1, None)
axes[1].add_collection(LineCollection(ways, colors="0.9", linewidths=0.6))
axes[1].add_collection(
    LineCollection(lines, linewidths=400 * sent.values.numpy(), colors="tab:green", label="deliveries")
)
axes[1].scatter(*y.T, s=4000 * problem.b.numpy(), color="tab:orange", zorder=3, label="customers", linewidths=0)
axes[1].scatter(*x.T, s=2000 * problem.a.numpy(), color="k", marker="s", zorder=4, label="suppliers", linewidths=0)
for ax, title in zip(axes, (f"roads at {rush}:00", "who delivers to whom"), strict=True):
    ax.set(title=title, xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[], aspect="equal")
    ax.legend(loc="upper left", bbox_to_anchor=(0, 0), ncols=3, frameon=False)
plt.show()

# %%
# What a prediction is worth
# --------------------------
#
# Accelerated Sinkhorn steps at both hours, from zeros, from the solution of the other hour, and from the model.
# The other hour has the same places and quantities, and yet its solution is no start, because the cost has
# changed: ``solve`` finds it worse than zeros, and begins with zeros.

tols = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4, 1e-5)
figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), sharey=True, layout="constrained")
for ax, hour, other in zip(axes, (rush, quiet), (quiet, rush), strict=True):
    before = metaot.solve(hours[other][0]).potentials
    starts = {"zeros": None, "the other hour": before, "the model": model}
    looks = (("0.75", 5), ("tab:orange", 1.5), ("tab:blue", 1.5))
    for (name, init), (colour, width) in zip(starts.items(), looks, strict=True):
        steps, spent = [], []
        for tol in tols:
            begin = time.perf_counter()
            found = metaot.solve(hours[hour][0], init=init, solver=metaot.Sinkhorn(), tol=tol)
            spent.append(1e3 * (time.perf_counter() - begin))
            steps.append(int(found.steps))
        ax.semilogy(steps, tols, ".-", color=colour, linewidth=width, label=f"from {name}")
        at_tol = tols.index(1e-3)
        print(f"at {hour:2d}:00 from {name:15s} {steps[at_tol]:3d} steps to 1e-3, {spent[at_tol]:4.1f} ms")
    ax.set(title=f"at {hour}:00", xlabel="accelerated Sinkhorn steps", xlim=(0, None))
axes[0].set(ylabel="L1 error that is reached")
axes[0].legend()
plt.show()

# %%
# Steps are not time: to read a matrix takes as long as some steps. :doc:`/benchmarks/index` says where a
# prediction pays, and where not. At a larger ``eps`` zeros need few steps, and are the better start.
#
# Problems of your own, with costs of their own, train such a model in a minute: :doc:`plot_own_costs`.
