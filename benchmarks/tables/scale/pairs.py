"""The table of pairs of large clouds."""

from benchmarks.tables.base import Table, read, table


@table("scale-pairs")
def pairs() -> Table:
    """Time and mean cost of bijections between large clouds, and how far the cost is above the least one."""
    found = read("scale-pairs")["rows"]
    least = max(row["lower"] for row in found if "lower" in row)
    rows = []
    for row in found:
        proved = f"{100 * (row['cost'] / row['lower'] - 1):.2f} %" if "lower" in row else ""
        above = f"{100 * (row['cost'] / least - 1):.2f} %"
        rows.append([row["name"], f"{row['seconds']:.1f} s", f"{row['cost']:.5f}", above, proved])
    return Table(["pairs by", "time", "mean cost", "above the least", "proved by its own bound"], rows)
