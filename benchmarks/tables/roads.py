"""Tables of problems whose costs change: a learned start beside those without learning."""

from typing import Any

from benchmarks.tables.base import Table, read, table, times

MODEL = "model"


@table("roads")
def roads() -> Table:
    """What the model saves over the best start without learning; below one it saves."""
    return _table("roads")


@table("roads-grids")
def grids() -> Table:
    """The same on grids with costs that the model was not trained on."""
    return _table("grids")


def _table(kind: str) -> Table:
    head = [
        "problems",
        "size",
        "eps over mean cost",
        "steps over best",
        "time over best",
        "best start",
        "dual gap",
    ]
    return Table(head, [_row(row) for row in read("roads")[kind]], 2)


def _row(row: dict[str, Any]) -> list[str]:
    steps, time = (row[f"{name} over the best start without learning"] for name in ("steps", "time"))
    best = " / ".join(dict.fromkeys((row["best"]["steps"], row["best"]["seconds"])))
    size = " x ".join(map(str, row["shape"]))
    return [
        row["kind"],
        size,
        f"{row['eps']:g}",
        times(steps),
        times(time),
        best,
        f"{100 * row['relative dual gap']:.2f} %",
    ]


@table("roads-starts")
def starts() -> Table:
    """Every start on unseen networks at the lowest temperature: steps, milliseconds, and those to find it."""
    found = []
    for row in read("roads")["roads"]:
        if row["kind"] != "unseen networks" or row["eps"] != min(r["eps"] for r in read("roads")["roads"]):
            continue
        for name, start in row["starts"].items():
            numbers = f"{start['steps']:.1f}", f"{start['ms']:.1f}", f"{start['ms to find it']:.1f}"
            found.append(
                [" x ".join(map(str, row["shape"])), name, *numbers, f"{100 * start['relative dual gap']:.2f} %"]
            )
    return Table(["size", "start", "steps", "ms", "of them to find it", "dual gap"], found, 2)
