"""Checkpoints: a folder with `model.pt` (tensors only) beside `model.json`, which a person can read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metaot.amortize import AmortizedPotential
from metaot.amortize.maps import AmortizedMap
from metaot.geometry import rebuild
from metaot.models import MODELS, by_columns, single
from metaot.models.hypernetworks import HYPERNETWORKS

WEIGHTS, CARD = "model.pt", "model.json"
FORMAT = 1


def save(predictor: AmortizedPotential | AmortizedMap, folder: Path, **facts: Any) -> None:
    """Write a predictor and what is known of it; both files are replaced as a whole or not at all.

    `facts` are JSON values: the recipe, seed, step, versions, metrics.
    """
    space, tensors = _described(predictor)
    folder.mkdir(parents=True, exist_ok=True)
    tensors |= {f"model.{name}": value.cpu() for name, value in predictor.model.state_dict().items()}
    card = {
        "format": FORMAT,
        "model": {"kind": type(predictor.model).__name__, "config": predictor.model.config},
        **space,
        **facts,
    }
    write_atomically(folder / WEIGHTS, lambda path: torch.save(tensors, path))
    write_atomically(folder / CARD, lambda path: path.write_text(json.dumps(card, indent=2) + "\n"))


def _described(predictor: AmortizedPotential | AmortizedMap) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what the card and the weights tell of the problems that a predictor is for."""
    if isinstance(predictor, AmortizedMap):
        return {"dim": predictor.dim, "cost": "sqeuclidean"}, {}
    geometry = predictor.geometry
    if geometry.cost_name is None and type(geometry).__name__ != "Dense":
        raise ValueError("a geometry with a cost function of your own cannot be saved: use Dense(C)")
    space = {
        "kind": type(geometry).__name__,
        "cost": geometry.cost_name,
        "shape": list(geometry.shape),
        "description": repr(geometry),
    }
    tensors = {f"geometry.{name}": value.cpu() for name, value in geometry.tensors().items()}
    return {"geometry": space, "eps": list(predictor.eps)}, tensors


def load(path: str | Path) -> Any:
    """Return the predictor of a checkpoint folder, on the CPU and ready to predict.

    An `AmortizedPotential` for discrete problems, an `AmortizedMap` for continuous ones. Only tensors and JSON are
    read, no code. Raises FileNotFoundError when a file is missing, and ValueError when the files are not a
    checkpoint of this version.
    """
    folder = Path(path)
    card = read_card(folder)
    tensors = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    kind, config, weights = card["model"]["kind"], card["model"]["config"], _part("model", tensors)
    if kind in HYPERNETWORKS:
        hyper = HYPERNETWORKS[kind](**config).float()
        hyper.load_state_dict(weights)
        return AmortizedMap(hyper.eval().requires_grad_(False))
    if kind not in MODELS:
        raise ValueError(f"{folder} holds a {kind!r}; this version knows {sorted({*MODELS, *HYPERNETWORKS})}")
    model = by_columns(single(MODELS[kind](**config)))
    model.load_state_dict(weights)
    geometry = rebuild(card["geometry"]["kind"], card["geometry"]["cost"], _part("geometry", tensors))
    low, high = card["eps"]
    return AmortizedPotential(model.eval().requires_grad_(False), geometry, (low, high))


def read_card(folder: Path) -> dict[str, Any]:
    """Return the readable half of a checkpoint."""
    for name in (CARD, WEIGHTS):
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder} is not a checkpoint: {folder / name} is missing")
    card = json.loads((folder / CARD).read_text())
    if card.get("format") != FORMAT:
        raise ValueError(f"{folder / CARD} has format {card.get('format')!r}, this version reads {FORMAT}")
    return card


def annotate(folder: Path, **facts: Any) -> None:
    """Add facts to the readable half of a checkpoint, or replace them."""
    content = json.dumps({**read_card(folder), **facts}, indent=2) + "\n"
    write_atomically(folder / CARD, lambda path: path.write_text(content))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill a temporary file and move it to `path`: a reader sees the old file or the new one."""
    partial = path.with_name(path.name + ".partial")
    write(partial)
    partial.replace(path)


def _part(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = name + "."
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
