"""Tables of inverse problems: costs of couples, supports of graphs, surpluses, potentials of populations."""

from typing import Any

from benchmarks.tables.base import Table, read, table, times


@table("inverse-graphs")
def graphs() -> Table:
    """Exact supports where the certificate of the truth is below one."""
    found = read("inverse-graphs")
    rows = [("covariances", row) for kind in ("few pairs", "factors") for row in found[kind]]
    rows += [("pairs", row) for row in found["from pairs"]]
    return Table(
        ["from", "graph", "d", "eps", "certificate", "pairs", "c", "exact"], [_row(*each) for each in rows], 2
    )


def _row(source: str, row: dict[str, Any]) -> list[str]:
    exact = f"{row['exact']} of {row['draws']}"
    numbers = [f"{row['eps']:g}", f"{row['certificate']:.3f}", str(row["pairs"]), f"{row['c']:g}"]
    return [source, row["graph"], str(row["dim"]), *numbers, exact]


@table("inverse-graphs-eps")
def by_eps() -> Table:
    """The share of draws whose support is exact, by eps, beside the certificate."""
    curves = read("inverse-graphs")["curves"]
    grid = sorted({row["eps"] for row in curves})
    rows = []
    for graph in dict.fromkeys(row["graph"] for row in curves):
        own = [row for row in curves if row["graph"] == graph]
        certificates = {row["eps"]: f"{row['certificate']:.2f}" for row in own}
        rows.append([graph, "certificate", *(certificates[eps] for eps in grid)])
        for pairs in sorted({row["pairs"] for row in own}):
            shares = {row["eps"]: f"{row['exact'] / row['draws']:.2f}" for row in own if row["pairs"] == pairs}
            rows.append(["", f"{pairs} pairs", *(shares[eps] for eps in grid)])
    return Table(["", "", *(f"eps {eps:g}" for eps in grid)], rows, 2)


@table("inverse-singles")
def singles() -> Table:
    """How far predicted numbers of married persons and of couples are from what was seen, in percent."""
    found = read("inverse-singles")
    models = [("entropy of singles (Choo and Siow)", found["broken lines"])]
    models += [(f"KL({row['rho']:g})", row) for row in found["prices"]]
    columns = ("married men", "married women", "couples")
    rows = [[name, *(f"{100 * row[column]:.1f} %" for column in columns)] for name, row in models]
    return Table(["price of marginals", *columns], rows)


@table("inverse-couples")
def couples() -> Table:
    """The diagonal of the affinity matrix, published and learned, with its standard errors."""
    rows = [
        [row["trait"], f"{row['published']:.2f}", f"{row['affinity']:.3f}",
         *(f"{row[error]:.3f}" for error in ("error", "robust", "bootstrap"))]
        for row in read("inverse-couples")["diagonal"]
    ]  # fmt: skip
    return Table(["", "published", "learned", "standard error", "robust", "bootstrap of 200"], rows)


@table("inverse-steps")
def steps() -> Table:
    """Sinkhorn's steps at fixed costs in fits and paths, and those from zeros for the same problems."""
    couples = read("inverse-couples")
    named = [("couples, one fit", couples["inner"])]
    named += [(f"couples, ten lambdas, {kind}", path["inner"]) for kind, path in couples["paths"].items()]
    named += [
        (f"circle of 8, eps {row['eps']:g}, " + (f"L1({row['lam']:g})" if row["lam"] else "no penalty"), row)
        for row in couples["inner, harder"]
    ]
    columns = ("problems", "warm", "cold", "cold, exact")
    rows = [[name, *(str(row[key]) for key in columns), f"{row['warm over cold']:.2f}"] for name, row in named]
    return Table(["", *columns, "warm over cold"], rows)


@table("inverse-potentials")
def potentials() -> Table:
    """Errors of the gradient of fifteen potentials, L2-UVP in percent, of one step, and the time."""
    rows = [
        [row["potential"].replace("_", " "),
         *(f"{row[way][error]:.1e}" for error in ("gradient", "one step") for way in ("baseline", "ours")),
         times(row["ours"]["time"])]
        for row in read("inverse-populations")["fifteen"]
    ]  # fmt: skip
    return Table(["", "gradient", "of metaot", "one step", "of metaot", "time over the baseline's"], rows)


@table("inverse-sparse")
def sparse() -> Table:
    """Exact supports of a sparse theta from Gaussian snapshots, and errors beside the theory's."""
    found = read("inverse-populations")
    rows = [
        [f"{row['sigma']:g}", row["loss"], f"{row['certificate']:.2f}", str(row["n"]),
         f"{row['exact']} of {found['draws']}", f"{row['wrong']:.1f}", f"{row['error']:.3f}",
         f"{row['error without penalty']:.3f}", f"{row['theory']:.3f}"]
        for row in found["sparse"]
    ]  # fmt: skip
    head = ["sigma", "loss", "certificate", "samples", "exact", "wrong positions", "error", "without penalty"]
    return Table([*head, "sqrt(log n / n)"], rows)


@table("inverse-rank")
def rank_one() -> Table:
    """How often rank one is found, by the angle between the population's long axis and that of theta."""
    found = read("inverse-populations")
    rows = [
        [f"{57.29578 * row['angle']:.0f} degrees", row["loss"], f"{row['certificate']:.2f}",
         f"{row['rank one']} of {found['draws']}", f"{row['error']:.3f}"]
        for row in found["rank one"]
    ]  # fmt: skip
    return Table(["angle", "loss", "certificate", "rank one", "error"], rows)
