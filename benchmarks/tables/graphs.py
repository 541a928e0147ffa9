"""Tables of supports of graphs that were found, and of surpluses of couples."""

from typing import Any

from benchmarks.tables.base import Table, read, table


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
