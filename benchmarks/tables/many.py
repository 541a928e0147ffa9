"""Tables of many processes: workers that share problems, and trainings that share a batch."""

from benchmarks.tables.base import Table, read, table


@table("many-workers")
def workers() -> Table:
    """Problems a second while all workers work, and the seconds until they begin."""
    rows = read("scale-many")["workers"]
    names = list(dict.fromkeys(row["case"] for row in rows))
    counts = sorted({row["workers"] for row in rows})
    found = {(row["case"], row["workers"]): row for row in rows}
    made = []
    for name in names:
        rates = [f"{found[name, count]['pairs_per_second']}" for count in counts]
        starts = [found[name, count]["seconds"] - found[name, count]["working_seconds"] for count in counts]
        made.append([name, *rates, f"{min(starts):.0f} to {max(starts):.0f} s"])
    words = [f"{count} worker{'s' * (count > 1)}" for count in counts]
    return Table(["problems a second", *words, "start"], made)


@table("many-training")
def training() -> Table:
    """Milliseconds of a step by one and by two processes, and how far their losses are from each other."""
    return Table(
        ["recipe", "batch of a step", "1 process", "2 processes", "largest relative difference of losses"],
        [
            [
                row["recipe"],
                str(row["batch"]),
                *(f"{ms:.1f} ms" for ms in row["ms_per_step"].values()),
                f"{row['difference']:.0e}",
            ]
            for row in read("scale-many")["training"]
        ],
    )
