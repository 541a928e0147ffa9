"""Upload a checkpoint to the Hugging Face Hub, with a page that describes it."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metaot import __version__, hub
from metaot.checkpoint import load
from metaot.folders import CARD, FETCHED, WEIGHTS, read_card

README = "README.md"
_DATA_SET = "DataSetPotential"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=Path, help="folder of a checkpoint; its README.md is the page, if it has one"
    )
    parser.add_argument(
        "name", metavar="OWNER/NAME", help="repository of models on the Hub; made if there is none"
    )
    parser.add_argument("--private", action="store_true", help="a new repository is only seen by its owner")
    parser.add_argument("--revision", help="branch to write to (default: main)")


def run(options: argparse.Namespace) -> None:
    folder, name = options.folder, options.name
    if not hub.is_name(name) or "@" in name:
        raise ValueError(f"the name on the Hub must be OWNER/NAME, got {name!r}")
    card = read_card(folder)
    if "digest" not in card:
        raise ValueError(f"{folder} is of format 1: metaot.checkpoint.renew({str(folder)!r}) writes it anew")
    load(folder)  # which reads and compares all files
    files = [folder / CARD, folder / WEIGHTS, *sorted(folder.glob("*.onnx"))]
    page = folder / README
    contents = {file.name: file.read_bytes() for file in files}
    contents[README] = page.read_bytes() if page.exists() else described(card, name).encode()
    settings = {"private": options.private, "revision": options.revision}
    commit = hub.upload(name, contents, patterns=(*FETCHED, "*.pt"), **settings)
    print(f'uploaded {", ".join(contents)}; this revision is metaot.load("{name}@{commit}")')


def described(card: dict[str, Any], name: str) -> str:
    """Return the page of a model in Markdown: what it predicts, of which data it was made, how good it is."""
    recipe = card.get("recipe") or {}
    facts = {
        "network": card["model"]["kind"],
        "parameters": card.get("parameters"),
        "eps": card.get("eps"),
        "trained on": recipe.get("data"),
        "recipe": recipe.get("name"),
        "steps": card.get("step"),
        "seed": card.get("seed"),
        "command": card.get("command"),
        "note": card.get("note"),
    }
    measured = card.get("test") or card.get("validation") or {}
    return f"""---
library_name: metaot
tags: [optimal-transport, metaot]
---

# {name.split("/")[1]}

{_purpose(card)} Written by metaot {__version__}.

```python
import metaot

model = metaot.load("{name}")
{_call(card)}
```

{_table("model", {key: value for key, value in facts.items() if value is not None})}

{_table("test problems" if card.get("test") else "validation problems", measured)}

All that is known of the model is in `{CARD}`, with digests of its weights and settings that `metaot.load` checks.
"""


def _purpose(card: dict[str, Any]) -> str:
    if card["model"]["kind"] == _DATA_SET:
        return f"Couples samples of a distribution with {card['model']['config']['points']} data by transport."
    if "dim" in card:
        return f"Predicts transport maps between samples of two measures in {card['dim']} dimensions."
    space = card["geometry"]
    where = (
        "images, grids and clouds on the plane, with the cost |x - y|²" if space is None else space["description"]
    )
    return f"Predicts dual potentials of entropic optimal transport, to start a solver from, for {where}."


def _call(card: dict[str, Any]) -> str:
    if card["model"]["kind"] == _DATA_SET:
        return "j = model.assign(x)  # model.y[j] goes with x"
    if "dim" in card:
        return "pair = model.predict(metaot.SampleProblem(x, y))  # pair.push(x)"
    geometry = "metaot.Grid(height, width)" if card["geometry"] is None else "model.geometry"
    return (
        f"problem = metaot.Problem(a, b, {geometry}, eps={card['eps'][1]:g})\n"
        "solution = metaot.solve(problem, init=model)"
    )


def _table(title: str, values: dict[str, Any]) -> str:
    rows = [f"| {key} | {value} |" for key, value in _flat(values)]
    return "\n".join([f"| {title} | |", "| --- | --- |", *rows])


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the leaves of nested entries with their names joined."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{name}, ")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            yield name, text.replace("|", "\\|").replace("\n", " ")
