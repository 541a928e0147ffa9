"""Tables of the recipe for one's own problems, on the README's example."""

from benchmarks.tables.base import Table, read, table, times

TARGETS = ("0.01", "0.001", "0.0001")
WORDS = {
    "zeros": "zeros",
    "mean problem": "the potential of the mean problem",
    "mean potential": "the mean of solved problems",
    "decreasing eps": "decreasing eps",
    "untrained, 3 inside": "the network untrained: 3 of Newton's steps at the mean problem",
    "model, 0 inside": "the network alone",
    "model, 1 inside": "the model: one refinement step",
    "model, 2 inside": "two refinement steps",
    "model, 3 inside": "three refinement steps",
}
"""The starts of the page; the untrained one is the best of those that learn nothing."""


@table("own-steps")
def steps() -> Table:
    """Plain Sinkhorn steps, those that were made for a start counted."""
    return _steps(WORDS)


@table("readme-own")
def shown() -> Table:
    """The same for the README: without learning, and from the model."""
    starts = read("own-problems")["starts"]
    learnt = [name for name in WORDS if name.startswith("model")]
    best = min(WORDS.keys() - learnt, key=lambda name: _counted(starts[name], "0.001"))
    return _steps({"zeros": "zeros", best: "best start without learning", "model, 1 inside": "model"})


@table("own-times")
def solve_times() -> Table:
    """Time of `solve` from the model over cold."""
    measured = read("own-problems")["solve"].items()
    rows = [
        [batch, *(times(1 / found[target]["cold over model"]["median"]) for target in TARGETS)]
        for batch, found in measured
    ]
    return Table(["time from the model / cold", *(f"to {target}" for target in TARGETS)], rows)


def _steps(words: dict[str, str]) -> Table:
    starts = read("own-problems")["starts"]
    rows = [
        [text, *(f"{_counted(starts[name], target):.1f}" for target in TARGETS)] for name, text in words.items()
    ]
    return Table(["Sinkhorn steps from ...", *(f"to {target}" for target in TARGETS)], rows)


def _counted(start: dict, target: str) -> float:
    return start["made before"] + start["steps"][target]["mean"]
