"""Tables of pairs, and of flow matching with them, made of maps-coupling.json and maps-flow.json."""

from benchmarks.tables.base import RESULTS, Table, read, table, times

THEIRS = "torchcfm's share"
MEASURED = (RESULTS / "maps-coupling.json").exists()
FLOW_MEASURED = (RESULTS / "maps-flow.json").exists()

if MEASURED:

    @table("maps-coupling")
    def coupling() -> Table:
        """Time of a coupling over that of torchcfm's sampler, and shares of the optimal gain."""
        rows = [
            [row["problem"], str(row["n"]), times(row["ratio"]), f"{row['share of the gain']:.3f}",
             times(row["ratio of exact pairs"]), f"{row[THEIRS]:.3f}",
             f"{100 * row['points that torchcfm loses']:.0f} %",
             "" if row["ratio, projected"] is None else times(row["ratio, projected"]),
             "" if row["share, projected"] is None else f"{row['share, projected']:.3f}"]
            for row in read("maps-coupling")["rows"]
        ]  # fmt: skip
        head = [
            "",
            "points",
            "time over torchcfm's",
            "share",
            "exact pairs",
            "torchcfm's share",
            "points it loses",
        ]
        return Table([*head, "projected", "share"], rows)


if FLOW_MEASURED:

    @table("maps-flow")
    def flow() -> Table:
        """Curvature of paths, distances of samples to data, and what pairing takes."""
        rows = [
            [f"{row['problem']}, {row['pairs']}", f"{row['curvature']:.3f}", f"{row['4 Euler steps']:.3g}",
             f"{row['50 Euler steps']:.3g}", f"{row['seconds of pairing']:.0f}",
             f"{row['seconds of training']:.0f}"]
            for row in read("maps-flow")["rows"]
        ]  # fmt: skip
        return Table(["", "curvature", "4 Euler steps", "50 Euler steps", "pairing, s", "in all, s"], rows)
