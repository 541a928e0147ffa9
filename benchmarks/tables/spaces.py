"""Tables of Gromov-Wasserstein beside POT."""

from benchmarks.tables.base import Table, read, table, times


@table("maps-gromov-wasserstein")
def gromov_wasserstein() -> Table:
    """Times and values over those of POT's solver that is fastest among its best ones."""
    rows = [
        [row["kind"], str(row["n"]), row["peer"],
         *(f"{1e3 * row[side]:.0f}" for side in ("peer_seconds", "seconds")),
         times(row["ratio"]), f"{row['value_ratio']:.3f}"]
        for row in read("maps-gromov_wasserstein")["rows"]
    ]  # fmt: skip
    return Table(["clouds", "points", "POT's solver", "its ms", "ms", "time over POT's", "value over POT's"], rows)


@table("maps-gromov-wasserstein-steps")
def steps() -> Table:
    """Sinkhorn steps in all linear problems of one start."""
    rows = [
        [row["kind"], str(row["n"]), f"{row['eps']:g}", str(row["cold"]), str(row["warm"]), times(row["ratio"])]
        for row in read("maps-gromov_wasserstein")["steps"]
    ]
    return Table(["clouds", "points", "eps", "from zeros", "from the last one", "ratio"], rows)
