"""Checkpoints: a folder with `model.pt` (tensors only) beside `model.json`, which a person can read.

`write_network` adds the network as ONNX, for onnxruntime to evaluate on CPUs.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metaot.amortize import AmortizedPotential, StagedPredictor
from metaot.amortize.maps import AmortizedMap
from metaot.amortize.universal import UniversalPotential
from metaot.folders import CARD, FORMAT, WEIGHTS, located, read_card, write_atomically
from metaot.geometry import Geometry
from metaot.models import MODELS, single
from metaot.models.base import HyperNetwork
from metaot.models.palette import PaletteIcnn
from metaot.models.paper import ResNetIcnn
from metaot.models.universal import UniversalNetwork
from metaot.onnx.compiled import FILES, OnnxNetwork
from metaot.onnx.maps import NETWORK, map_beside, push_file

_NETWORKS = {**MODELS, **{kind.__name__: kind for kind in (PaletteIcnn, ResNetIcnn, UniversalNetwork)}}
Saved = AmortizedPotential | UniversalPotential | AmortizedMap


def save(predictor: Saved, folder: Path, *, compact: bool = False, **facts: Any) -> None:
    """Write a predictor and facts about it; both files are replaced as a whole or not at all.

    ONNX files of earlier weights are removed: `write_network` makes new ones. `facts` are JSON values: the recipe,
    seed, step, versions, metrics. `compact` rounds the weights to float16, for a smaller file; they are float32
    again when they are loaded.
    """
    space, tensors = _described(predictor)
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in predictor.model.state_dict().items():
        tensors[f"model.{name}"] = (value.half() if compact and value.dtype == torch.float32 else value).cpu()
    model = {"kind": type(predictor.model).__name__, "config": predictor.model.config}
    card = {"format": FORMAT, "model": model, **space, **facts}
    for name in (*FILES, NETWORK, push_file(Path(NETWORK))):
        (folder / name).unlink(missing_ok=True)
    write_atomically(folder / WEIGHTS, lambda path: torch.save(tensors, path))
    write_atomically(folder / CARD, lambda path: path.write_text(json.dumps(card, indent=2) + "\n"))


def _described(predictor: Saved) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the problems that a predictor is for, as entries of the card and of the weights."""
    if isinstance(predictor, AmortizedMap):
        return {"dim": predictor.dim, "cost": "sqeuclidean"}, {}
    if isinstance(predictor, UniversalPotential):
        return {"geometry": None, "cost": "sqeuclidean", "eps": list(predictor.eps)}, {}
    geometry = predictor.geometry
    settings = geometry.settings()
    if any(callable(value) for value in settings.values()):
        raise ValueError("a geometry with a cost function of your own cannot be saved: use Dense(C)")
    space = {
        "kind": type(geometry).__name__,
        "module": type(geometry).__module__,
        "cost": geometry.cost_name,
        "settings": settings,
        "shape": list(geometry.shape),
        "description": repr(geometry),
    }
    tensors = {f"geometry.{name}": value.cpu() for name, value in geometry.tensors().items()}
    return {"geometry": space, "eps": list(predictor.eps)}, tensors


def load(path: str | Path) -> Any:
    """Return the predictor of a checkpoint folder, on the CPU and ready to predict.

    `path` is a folder, or the name of a checkpoint that comes with the package, such as "universal". The predictor
    is an `AmortizedPotential` for discrete problems on one geometry, a `UniversalPotential` for problems on the
    plane, an `AmortizedMap` for continuous problems. Only tensors and JSON are read, no code. Raises
    FileNotFoundError when a file is missing, and ValueError when the files are not a checkpoint of this version.
    """
    folder = located(path)
    card = read_card(folder)
    tensors = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    weights, space = (
        {name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}
        for part in ("model.", "geometry.")
    )
    kind = card["model"]["kind"]
    if kind not in _NETWORKS:
        raise ValueError(f"{folder} holds a {kind!r}; this version knows {sorted(_NETWORKS)}")
    model: Any = _NETWORKS[kind](**card["model"]["config"])
    model = model.float() if isinstance(model, HyperNetwork) else single(model)
    # older files repeat the costs of the grid
    model.load_state_dict({name: value for name, value in weights.items() if not name.startswith("step.cost")})
    model.eval().requires_grad_(False)
    if isinstance(model, HyperNetwork):
        network = map_beside(folder)
        return AmortizedMap(model, None if network is None else network.weights)
    low, high = card["eps"]
    if isinstance(model, UniversalNetwork):
        predictor = UniversalPotential(model, (low, high))
    else:
        predictor = AmortizedPotential(model, _geometry(folder, card["geometry"], space), (low, high))
    predictor.fast = OnnxNetwork.beside(folder)  # where there is one of these weights
    return predictor


def write_network(folder: Path, data_dir: Path | None = None) -> bool:
    """Write the network of a checkpoint as ONNX files beside its weights, once they agree with torch.

    A predictor loaded afterwards evaluates it by onnxruntime on CPUs. Returns whether files were written: False
    without the extra `export`, and for a network that reads pictures. Raises ValueError if the two disagree. Maps
    are compared on the test data of the recipe if `data_dir` has them.
    """
    if not all(map(find_spec, ("onnx", "onnxscript"))):
        return False
    predictor = load(folder)
    if isinstance(predictor, StagedPredictor):
        from metaot.onnx.write import network_files  # noqa: PLC0415, an extra

        for name, content in zip(FILES, network_files(predictor.model), strict=False):
            write_atomically(folder / name, lambda path, content=content: path.write_bytes(content))
        return True
    if not isinstance(predictor.model, PaletteIcnn):
        return False
    from metaot.onnx.export import export  # noqa: PLC0415, an extra

    export(predictor, folder, folder / NETWORK, data_dir=data_dir)
    return True


def _geometry(folder: Path, space: dict[str, Any], tensors: dict[str, Tensor]) -> Geometry:
    """Rebuild the geometry of a card; older cards have the name of a cost as their only setting."""
    settings = space.get("settings", {} if space["cost"] is None else {"cost": space["cost"]})
    try:
        return Geometry.kinds[space["kind"]].rebuilt(tensors, settings)
    except KeyError as error:
        raise ValueError(
            f"{folder} is for problems on a {space['kind']!r}, which no imported module defines: import "
            f"{space.get('module', 'the module that defines it')} first; known are {sorted(Geometry.kinds)}"
        ) from error


def annotate(folder: Path, **facts: Any) -> None:
    """Add facts to the readable half of a checkpoint, or replace them."""
    content = json.dumps({**read_card(folder), **facts}, indent=2) + "\n"
    write_atomically(folder / CARD, lambda path: path.write_text(content))
