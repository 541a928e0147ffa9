"""Tables of losses and averages: losses-NAME-... is made of losses-NAME.json, and is there if that is."""

from collections.abc import Callable
from typing import Any

from benchmarks.tables.base import RESULTS, Table, read, table, times

KEYS = ("problem", "kind", "price", "eps", "gap", "metaot", "over the best", "some reached")
"""What a row of unbalanced times holds beside the times of other libraries."""


def measured(name: str) -> bool:
    """Return whether benchmarks/results/losses-NAME.json is there."""
    return (RESULTS / f"losses-{name}.json").exists()


def losses_table(name: str) -> Callable[[Callable[[], Table]], Callable[[], Table]]:
    """Register a function that makes the table of this name, if there is what it is made of."""
    return table(name) if measured(name.split("-")[1]) else lambda make: make


def rows_of(name: str, part: str) -> Any:
    return read(f"losses-{name}")[part]


def ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:.0f}"


@losses_table("losses-unbalanced-steps")
def unbalanced_steps() -> Table:
    """Mean steps to 1e-6 over those of the balanced problem, by the price of mass in units of the mean cost."""
    rows = rows_of("unbalanced", "steps")
    prices = sorted({row["price"] for row in rows})
    cells = {(row["kind"], row["eps"], row["price"]): times(row["ratio of means"]) for row in rows}
    kinds = list(dict.fromkeys((row["kind"], row["eps"]) for row in rows))
    body = [[kind, f"{eps:g}", *(cells[kind, eps, price] for price in prices)] for kind, eps in kinds]
    return Table(["", "eps", *(f"{price:g}" for price in prices)], body)


@losses_table("losses-unbalanced-times")
def unbalanced_times() -> Table:
    """Milliseconds to 1e-6 of one problem, or how far other libraries came."""
    rows = rows_of("unbalanced", "times")
    others = list(dict.fromkeys(key for row in rows for key in row if key not in KEYS))
    body = [
        [row["problem"], f"{row['kind']}, {row['price']:g}", f"{row['eps']:g}",
         *(_found(row.get(name, ""), ".3g") for name in ("metaot", *others)),
         "" if row["over the best"] is None
         else ("" if row["some reached"] else "< ") + times(row["over the best"])]
        for row in rows
    ]  # fmt: skip
    return Table(["", "price", "eps", "metaot", *others, "over the best of the others"], body, left=2)


def _found(value: Any, digits: str, missing: str = "not reached") -> str:
    """Return a number, or why there is none."""
    return missing if value is None else value if isinstance(value, str) else f"{value:{digits}}"


@losses_table("losses-divergence-solve")
def divergence_over_solve() -> Table:
    """Time of a divergence over that of the solve between both measures alone."""
    rows = rows_of("divergence", "over one solve")
    tols = sorted({row["tol"] for row in rows}, reverse=True)
    ratios = {(row["problem"], row["tol"]): times(row["ratio"]) for row in rows}
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    body = [[problem, *(ratios[problem, tol] for tol in tols)] for problem in problems]
    return Table(["", *(f"to {tol:g}" for tol in tols)], body)


@losses_table("losses-divergence-peers")
def divergence_peers() -> Table:
    """Milliseconds of a value and its gradient, from nothing."""
    body = [
        [row["method"], str(row["d"]), row["why"], "", ""]
        if "why" in row
        else [row["method"], str(row["d"]), ms(row["seconds"]), f"{row['error']:.0e}", times(row["ratio"])]
        for row in rows_of("divergence", "cold")
    ]
    return Table(["", "d", "ms", "relative error of the value", "metaot over it"], body)


@losses_table("losses-divergence-training")
def divergence_training() -> Table:
    """Milliseconds of a step of a training, value and gradient."""
    body = [
        [f"d = {row['d']}", ms(row["cold"]), ms(row["carried"]), times(row["ratio"])]
        for row in rows_of("divergence", "training")
    ]
    return Table(["", "from nothing", "from the step before", "ratio"], body)


@losses_table("losses-barycenter-peer")
def barycenter_peer() -> Table:
    """The debiased barycenter of four images beside POT's."""
    body = [
        [f"{row['side']} x {row['side']}", ms(row["ours"]["seconds"]), f"{row['ours']['steps']:.0f}",
         ms(row["pot"]["seconds"]), f"{row['pot']['steps']}", times(row["ratio"])]
        for row in rows_of("barycenter", "beside_pot")
    ]  # fmt: skip
    return Table(["", "metaot, ms", "steps", "POT, ms", "steps", "ratio"], body)


@losses_table("losses-barycenter-many")
def barycenter_many() -> Table:
    """The square of 25 barycenters over one of them, and starts from predictions over none."""
    parts = {
        "square": "25 barycenters over one",
        "from_predictions": "from predictions over cold",
    }
    kinds, default = ("", "entropic_"), read("losses-barycenter")["threads"]
    body = [
        [words, f"{row['side']} x {row['side']}", str(row.get("threads", default)),
         *(times(row[f"{kind}barycenter"]["ratio"]) for kind in kinds)]
        for part, words in parts.items()
        for row in rows_of("barycenter", part)
    ]  # fmt: skip
    return Table(["time", "images", "threads", "debiased", "entropic"], body, left=2)


@losses_table("losses-sliced")
def sliced() -> Table:
    """Sliced distances over POT, and over the projections and two sorts alone."""
    keys = ("value_over_pot_numpy", "value_over_pot_torch", "gradient_over_pot_torch", "value_over_sorts")
    default = read("losses-sliced").get("threads")
    body = [
        [f"d = {row['d']}, {row['dtype']}", str(row.get("threads", default)), f"{row['ms']['metaot']:.0f}",
         *(times(row[key]) for key in keys)]
        for row in rows_of("sliced", "rows")
    ]  # fmt: skip
    heads = ["POT, numpy", "POT, torch", "POT, torch, with the gradient", "sorts and projections"]
    return Table(["", "threads", "value, ms", *(f"over {head}" for head in heads)], body)


@losses_table("losses-pairwise")
def pairwise() -> Table:
    """Seconds for all divergences of a set, extrapolated where fewer measures were timed."""
    body = [
        [row["task"], f"{row['side']} x {row['side']}", f"{row['eps']:g}", row["start"], str(row["measures"]),
         f"{row['seconds_for_all']:.0f}", _found(row["floor"], "d", ""), f"{row['error']:.0e}"]
        for row in rows_of("pairwise", "rows")
    ]  # fmt: skip
    heads = ["eps", "start", "measures timed", "seconds for all", "goal", "largest error over the mean"]
    return Table(["set", "images", *heads], body, left=2)
