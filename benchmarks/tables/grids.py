"""Tables of grids that are solved coarse to fine."""

from benchmarks.tables.base import Table, read, table, times


@table("grids")
def grids() -> Table:
    """Time and steps of `solve`, coarse to fine, over those of accelerated steps from zeros."""
    rows = []
    for row in read("scale-grids")["rows"]:
        steps = row["steps"]
        words = f"{row['data']}, {' x '.join(map(str, row['sizes']))}"
        rows.append(
            [
                words,
                f"{row['eps']:g}",
                f"{row['tol']:g}",
                times(row["ratio"]),
                f"{steps['now']:g}",
                f"{steps['before']:g}",
            ]
        )
    return Table(["problem", "eps", "to", "time now / before", "steps now", "steps before"], rows)


@table("large-grids")
def large() -> Table:
    """The largest grids, on two threads."""
    rows = [
        [
            " x ".join(map(str, row["sizes"])),
            f"{row['eps']:g}",
            f"{row['tol']:g}",
            f"{row['seconds']:.1f} s",
            f"{row['steps']}",
            f"{row['MiB more']} MiB",
        ]
        for row in read("scale-grids")["large"]
    ]
    return Table(["grid", "eps", "to", "time", "steps", "memory of the solve"], rows)


@table("grids-model")
def model() -> Table:
    """Time to 1e-3 from a prediction of the universal model, over that from nothing."""
    rows = read("scale-grids")["model"]
    sides = sorted({row["side"] for row in rows})
    found = {(row["side"], row["eps"]): times(row["ratio"]) for row in rows}
    eps = sorted({row["eps"] for row in rows}, reverse=True)
    return Table(
        ["paintings", *(f"eps = {each:g}" for each in eps)],
        [[f"{side} x {side}", *(found[side, each] for each in eps)] for side in sides],
    )
