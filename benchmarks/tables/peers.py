"""Tables of other libraries: times to an accuracy, and their solvers started from predictions."""

from statistics import median
from typing import Any

from benchmarks.discrete.table import families_table, fastest, peers, ratio
from benchmarks.tables.base import Table, read, table, times

OURS = {
    "metaot, cold": "cold",
    "metaot from the model": "model",
    "metaot from the exported model": "exported model",
    "metaot from the universal model": "universal model",
}
SHORT = {
    "mnist-0.01": "MNIST, 28 x 28, eps = 0.01",
    "cloud2": "clouds of 1000 points in the plane",
}
COLD = ("metaot, cold", "metaot, Gaussian start", "metaot, decreasing eps", "metaot Newton, cold")
NONE = "no peer"
"""None reaches the accuracy in time and on enough instances: `limit` and `ENOUGH` of `benchmarks.discrete`."""
TARGETS = ("0.01", "0.001", "1e-06", "1e-09")


def families() -> dict[str, Any]:
    return read("discrete")["families"]


def title(name: str) -> str:
    family = families()[name]
    return f"{SHORT.get(name, family['title'])} ({family['count']})"


def over_the_fastest_peer(family: dict[str, Any], method: str, target: str) -> float | None:
    """Return the median ratio of a method's time to that of the fastest peer, if there is one."""
    cells = family["cells"]
    peer = fastest(cells, target, peers(read("discrete")["methods"]))
    cell = cells[method][target]
    return ratio(cell["ms"], cells[peer][target]["ms"]) if peer and cell["status"] == "ok" else None


def model_of(family: dict[str, Any]) -> str | None:
    """Return the name of the model's row: of the universal one where there is no other."""
    names = ("metaot from the model", "metaot from the universal model")
    return next((name for name in names if name in family["cells"]), None)


@table("peers")
def peers_summary() -> Table:
    """Time over that of the fastest other library; below 1 metaot is faster."""
    rows = []
    for name, family in families().items():
        shown = [method for method in OURS if method in family["cells"]]
        for method in sorted(shown, key=list(OURS).index):
            found = [over_the_fastest_peer(family, method, target) for target in TARGETS]
            cells = [times(r) if r else NONE for r in found]
            rows.append([title(name) if method == shown[0] else "", OURS[method], *cells])
    return Table(["problem (number)", "start", *(f"to {float(t):g}" for t in TARGETS)], rows, left=2)


@table("peers-fastest")
def peers_fastest() -> Table:
    """Which other library is the fastest, in ms."""
    rows = []
    for name, family in families().items():
        cells = []
        for target in TARGETS:
            peer = fastest(family["cells"], target, peers(read("discrete")["methods"]))
            ms = median(family["cells"][peer][target]["ms"]) / family["size"] if peer else 0.0
            cells.append(f"{peer}, {ms:.3g} ms" if peer else NONE)
        rows.append([title(name), *cells])
    return Table(["problem (number)", *(f"to {float(t):g}" for t in TARGETS)], rows)


@table("ours")
def ours() -> Table:
    """Our own times: the best start without a model, then from the model, in ms for one problem."""
    rows = []
    for name, family in families().items():
        model = model_of(family)
        if model:
            cells = [_cold_to_model(family, model, target) for target in ("0.01", "0.001", "1e-06")]
            rows.append([title(name), *cells])
    return Table(["problem (number)", "to 0.01", "to 0.001", "to 1e-06"], rows)


def _cold_to_model(family: dict[str, Any], model: str, target: str) -> str:
    cells, size = family["cells"], family["size"]
    cold = cells[best_cold_start(family, target)][target]["ms"]
    warm = cells[model][target]["ms"]
    factor = times(ratio(warm, cold))
    return f"{median(cold) / size:.3g} to {median(warm) / size:.3g} ms, {factor}"


def best_cold_start(family: dict[str, Any], target: str) -> str:
    """Return our start without a model that has the lowest median."""
    cells = family["cells"]
    finished = [start for start in COLD if start in cells and cells[start][target]["status"] == "ok"]
    return min(finished, key=lambda start: median(cells[start][target]["ms"]))


def over(family: dict[str, Any], method: str, other: str, target: str) -> float:
    """Return the median ratio of the times of two methods."""
    return ratio(family["cells"][method][target]["ms"], family["cells"][other][target]["ms"])


def all_methods() -> str:
    """Return the tables of every problem with all methods, as Markdown with headings."""
    return families_table(read("discrete"))


@table("bad-starts")
def bad_starts() -> Table:
    """Random starts for MNIST pairs to 1e-6."""
    keys = ("eps", "starts", "worse", "most_extra_steps", "unfinished")
    rows = [[f"{row[key]:g}" for key in keys] for row in read("discrete")["extras"]["bad-starts"]]
    return Table(["eps", "starts", "more than a step more than cold", "most more", "not finished"], rows, left=0)


@table("adapters")
def adapters() -> Table:
    """Solvers of others from nothing and from the model: steps, and how many times faster."""
    found: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for row in sorted(read("adapters")["entropic"], key=lambda row: (-row["eps"], row["entry"], -row["tol"])):
        found.setdefault((row["eps"], row["entry"]), []).append(row)
    rows = [
        [f"{eps:g}", entry, *(text for row in pair for text in _adapter_cells(row))]
        for (eps, entry), pair in found.items()
    ]
    words = ("cold steps to", "from the model, to", "time to")
    head = [f"{each} {tol}" for tol in ("0.01", "0.001") for each in words]
    return Table(["eps", "entry", *head], rows, left=2)


def _adapter_cells(row: dict[str, Any]) -> list[str]:
    share = min(row["cold_converged"], row["warm_converged"]) / row["instances"]
    note = "" if share == 1 else f" ({100 * share:.0f} % converged)"
    return [f"{row['cold_steps']:.0f}{note}", f"{row['warm_steps']:.0f}", times(1 / row["speed_up"])]


@table("adapters-exact")
def adapters_exact() -> Table:
    """POT's exact solver: pivots and time."""
    rows = [
        [
            *(str(row[key]) for key in ("problems", "start", "cold_pivots", "warm_pivots")),
            times(1 / row["speed_up"]),
        ]
        for row in read("adapters")["exact"]
    ]
    return Table(["problems", "start", "pivots", "from the start", "time"], rows, left=2)
