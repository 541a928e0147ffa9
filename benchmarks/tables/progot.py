"""Tables of progressive transport, made of maps-progot.json if that is there."""

from benchmarks.tables.base import RESULTS, Table, read, table, times

MEASURED = (RESULTS / "maps-progot.json").exists()

if MEASURED:

    @table("maps-progot-blur")
    def blur() -> Table:
        """What couplings of images with their blurred copies find of the identity."""
        rows = [
            [row["images"], f"{row['sigma']:g}", row["way"], f"{row['trace']:.4f}", f"{row['KL']:.5f}",
             str(row["steps"]), str(row["plain steps"])]
            for row in read("maps-progot")["blur"]
        ]  # fmt: skip
        return Table(["", "sigma", "", "trace", "KL", "steps", "steps of plain Sinkhorn"], rows)

    @table("maps-progot-planted")
    def planted() -> Table:
        """L2-UVP on new points in percent, and seconds."""
        found = read("maps-progot")["planted"]
        ways = [way for way in found[-1]["ways"] if not way.startswith("beta0")]
        ways += [way for way in found[0]["ways"] if way not in ways and not way.startswith("beta0")]
        rows = [
            [way, *(_of(row["ways"][way]) if way in row["ways"] else "not trained" for row in found)]
            for way in ways
        ]
        rows.append(["worst over best, beta0 from 0.5 to 15", *(times(row["over beta0"]) for row in found)])
        return Table(["", *(f"d = {row['dim']}" for row in found)], rows)


def _of(found: dict[str, float]) -> str:
    return f"{found['UVP']:.2f} ({found['seconds']:.2f} s)"
