"""The tables of large clouds."""

from benchmarks.tables.base import Table, read, table, times


@table("scale-clouds")
def clouds() -> Table:
    """Time and steps of `solve` between large clouds, and over those of the direct way."""
    rows = []
    for row in read("scale-clouds")["rows"]:
        now, before = row["now"], row.get("before")
        over = times(now["seconds"] / before["seconds"]) if before else ""
        numbers = f"{row['dim']}", f"{row['tol']:g}", f"{now['seconds']:.1f} s", f"{now['steps']}"
        memory = f"{row['peak MiB']} MiB"
        rows.append([f"{row['points']}", *numbers, memory, over, f"{before['steps']}" if before else ""])
    return Table(
        ["points", "dimension", "to", "time", "steps", "memory", "over the direct way", "its steps"], rows
    )


@table("scale-clouds-answers")
def answers() -> Table:
    """Time of what the solution is asked for afterwards, and the gap between the bounds of the cost."""
    rows = []
    for row in read("scale-clouds")["rows"]:
        found = row["answers"]
        seconds = (f"{found[name]:.1f} s" for name in ("value", "cost", "bounds", "transport", "push"))
        rows.append(
            [f"{row['points']}", f"{row['dim']}", f"{row['tol']:g}", *seconds, f"{100 * found['gap']:.1f} %"]
        )
    names = ["`value`", "`cost()`", "`bounds()`", "`transport()`", "`map().push`"]
    return Table(["points", "dimension", "to", *names, "gap of the bounds"], rows)
