"""Tables of a distribution against a data set, made of scale-semidiscrete.json."""

from statistics import median

from benchmarks.tables.base import Table, read, table


@table("scale-semidiscrete")
def tutorial() -> Table:
    """OTT's tutorial problem: samples, evaluations, seconds on one thread, and errors measured afterwards."""
    found = read("scale-semidiscrete")["tutorial"]
    rows = []
    for tol in dict.fromkeys(row["tol"] for row in found["fits"]):
        fits = [row for row in found["fits"] if row["tol"] == tol]
        count = max(row["samples"] for row in fits)
        passes = max(row["evaluations"] for row in fits)
        seconds = median(row["seconds"] for row in fits)
        error = max(row["chi2"] for row in fits)
        rows.append(
            [
                f"`SemiDiscrete`, tol {tol:g}, worst of {len(fits)}",
                f"{count:,}",
                f"{passes:,}",
                f"{seconds:.1f}",
                f"{error:.1e}",
            ]
        )
    for row in found["ascent from zeros"]:
        count = f"{row['samples']:,}"
        rows.append(
            [
                f"ascent from zeros, rate {row['rate']:g}",
                count,
                count,
                f"{row['seconds']:.1f}",
                f"{row['chi2']:.1e}",
            ]
        )
    return Table(["", "samples", "evaluations", "seconds", "chi-squared"], rows)


if "images" in read("scale-semidiscrete"):

    @table("scale-images")
    def images() -> Table:
        """MNIST against noise: what was reached, and times of couplings in ms."""
        rows = [
            [
                f"{row['points']:,} images",
                f"{row['samples']:,}",
                f"{row['minutes']:.1f}",
                f"{row['chi2']:.4f} +- {row['std']:.4f}",
                *(f"{row['ms'][name]:.0f}" for name in ("assign", "map", "product")),
            ]
            for row in read("scale-semidiscrete")["images"]
        ]
        return Table(["", "samples", "minutes", "chi-squared", "`assign`, ms", "`map`, ms", "product, ms"], rows)
