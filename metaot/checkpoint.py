"""Checkpoints: a folder with `model.safetensors` beside `model.json`, which a person can read.

The card has the digests of the weights and of those of its entries that change numbers; both are compared before
anything is used. `write_network` adds the network as ONNX, for onnxruntime to evaluate on CPUs.
"""

import io
import json
import pickle
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from metaot import digest
from metaot.amortize import AmortizedPotential, StagedPredictor
from metaot.amortize.costs import CostPotential
from metaot.amortize.maps import AmortizedMap
from metaot.amortize.universal import UniversalPotential
from metaot.folders import (
    CARD,
    FORMAT,
    PICKLED,
    SETTINGS,
    WEIGHTS,
    eps_range,
    located,
    read_card,
    read_weights,
    settings_of,
    write_atomically,
)
from metaot.geometry import Geometry
from metaot.inverse.potential_network import NetworkPotential
from metaot.maps.fitting import described
from metaot.maps.marginal_error import MarginalError
from metaot.maps.semidiscrete import SemiDiscrete
from metaot.models import MODELS, single
from metaot.models.base import HyperNetwork
from metaot.models.costs import CostNetwork
from metaot.models.data_set import DataSetPotential
from metaot.models.palette import PaletteIcnn
from metaot.models.paper import ResNetIcnn
from metaot.models.population import PotentialNetwork
from metaot.models.universal import UniversalNetwork
from metaot.onnx.compiled import FILES, OnnxNetwork
from metaot.onnx.maps import NETWORK, map_beside, push_file
from metaot.stored import require_facts, require_finite_weights, write_checkpoint

_OTHERS = (CostNetwork, DataSetPotential, PaletteIcnn, PotentialNetwork, ResNetIcnn, UniversalNetwork)
_NETWORKS: dict[str, Any] = {**MODELS, **{kind.__name__: kind for kind in _OTHERS}}
_STALE = (*FILES, NETWORK, push_file(Path(NETWORK)).name)
Saved = AmortizedPotential | CostPotential | UniversalPotential | AmortizedMap | NetworkPotential | SemiDiscrete


def save(predictor: Saved, folder: Path, *, compact: bool = False, **facts: Any) -> None:
    """Write a predictor and facts about it; both files are replaced as a whole or not at all.

    ONNX files of earlier weights are removed: `write_network` makes new ones. `facts` are JSON values: the recipe,
    seed, step, versions, metrics. `compact` rounds the weights to float16, for a smaller file; they are float32
    again when they are loaded. Raises ValueError for weights that are not finite.
    """
    settings, tensors = _described(predictor)
    for name, value in predictor.model.state_dict().items():
        tensors[f"model.{name}"] = value.half() if compact and value.dtype == torch.float32 else value
    model = {"kind": type(predictor.model).__name__, "config": predictor.model.config}
    write_checkpoint(folder, {"format": FORMAT, "model": model, **settings}, tensors, facts, _STALE)


def _described(predictor: Saved) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the problems that a predictor is for, as entries of the card and of the weights."""
    if isinstance(predictor, SemiDiscrete):
        return described(predictor.model)[0], {}
    if isinstance(predictor, AmortizedMap | NetworkPotential):
        return {"dim": predictor.dim, "cost": "sqeuclidean"}, {}
    if isinstance(predictor, CostPotential):
        return {"geometry": None, "cost": None}, {}
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
    """Return the predictor of a checkpoint, on the CPU and ready to predict.

    `path` is a folder, the name of a checkpoint that comes with the package, such as "universal", or OWNER/NAME on
    the Hub. The predictor is an `AmortizedPotential` for discrete problems on one geometry, a `UniversalPotential`
    for problems on the plane, a `CostPotential` for problems with costs of their own, an `AmortizedMap` for
    continuous problems, a `NetworkPotential` of a population, a `SemiDiscrete` for a data set.
    Only tensors and JSON are read, no code. Raises FileNotFoundError when a file is missing, and ValueError, with
    the file's name, when one is damaged or of another checkpoint or version.
    """
    folder = located(path)
    card = read_card(folder)
    predictor = _predictor(folder, card)
    if "digest" not in card:
        warnings.warn(
            f"{folder} was written by an older version: damage of its files is not noticed, its ONNX files are "
            f"not used; metaot.checkpoint.renew({str(folder)!r}) writes it anew",
            stacklevel=2,
        )
    elif isinstance(predictor, AmortizedMap):
        network = map_beside(folder)
        return AmortizedMap(predictor.model, None if network is None else network.weights)
    elif isinstance(predictor, StagedPredictor):
        predictor.fast = OnnxNetwork.beside(folder, predictor.model)
    return predictor


def _predictor(folder: Path, card: dict[str, Any]) -> Any:
    """Return the predictor of a card and its weights, evaluated by torch."""
    tensors = _tensors(folder, card)
    weights, space = (
        {name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}
        for part in ("model.", "geometry.")
    )
    model = _network(folder, card)
    with _naming(folder / _weights_file(card)):
        model.load_state_dict(weights)
    model.eval().requires_grad_(False)
    if isinstance(model, DataSetPotential):
        with _naming(folder / CARD):
            found = card.get("validation")
            return SemiDiscrete.of(model, None if found is None else MarginalError(**found))
    if isinstance(model, HyperNetwork):
        return AmortizedMap(model)
    if isinstance(model, PotentialNetwork):
        return NetworkPotential(model)
    if isinstance(model, CostNetwork):
        return CostPotential(model)
    with _naming(folder / CARD):
        eps = eps_range(card["eps"])
    if isinstance(model, UniversalNetwork):
        return UniversalPotential(model, eps)
    return AmortizedPotential(model, _geometry(folder, card, space), eps)


def _network(folder: Path, card: dict[str, Any]) -> Any:
    """Return a new network of the kind and with the settings of a card."""
    with _naming(folder / CARD):
        kind, config = str(card["model"]["kind"]), dict(card["model"]["config"])
    if kind not in _NETWORKS:
        raise ValueError(f"{folder / CARD} names a network {kind!r}; this version knows {sorted(_NETWORKS)}")
    with _naming(folder / CARD):
        model: Any = _NETWORKS[kind](**config)
    if isinstance(model, DataSetPotential):
        return model
    return model.float() if isinstance(model, HyperNetwork) else single(model)


def _weights_file(card: dict[str, Any]) -> str:
    return WEIGHTS if "digest" in card else PICKLED


def _tensors(folder: Path, card: dict[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint: of its space and of its network, as they are stored."""
    path, content = folder / _weights_file(card), read_weights(folder, card)
    with _naming(path):
        if path.name == WEIGHTS:
            tensors = dict(sorted(safetensors.torch.load(content).items()))  # else in another order each time
        else:
            tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            # older files repeat the costs of the grid
            tensors = {name: value for name, value in tensors.items() if not name.startswith("model.step.cost")}
    require_finite_weights(path, tensors)
    return tensors


@contextmanager
def _naming(path: Path) -> Generator[None]:
    """Turn what a wrong content makes the block raise into a ValueError that names the file."""
    try:
        yield
    except (
        ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, RuntimeError, TypeError, ValueError,
        pickle.UnpicklingError, safetensors.SafetensorError,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} does not fit or is damaged: {reason}: {digest.AGAIN}") from error


def renew(folder: str | Path, data_dir: Path | None = None) -> bool:
    """Write a checkpoint of an older version in the present format; return whether its network was written."""
    folder = Path(folder)
    card = read_card(folder)
    _predictor(folder, card)
    facts = {name: value for name, value in card.items() if name not in (*SETTINGS, "digest")}
    write_checkpoint(folder, {**settings_of(card), "format": FORMAT}, _tensors(folder, card), facts, _STALE)
    return write_network(folder, data_dir)


def write_network(folder: Path, data_dir: Path | None = None) -> bool:
    """Write the network of a checkpoint as ONNX files beside its weights, once they agree with torch.

    A predictor loaded afterwards evaluates it by onnxruntime on CPUs. Returns whether files were written: False
    without the extra `export`, and for a network that reads pictures. Raises ValueError if the two disagree. Maps
    are compared on the test data of the recipe if `data_dir` has them.
    """
    if not all(map(find_spec, ("onnx", "onnxscript"))):
        return False
    predictor = _predictor(folder, read_card(folder))
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


def _geometry(folder: Path, card: dict[str, Any], tensors: dict[str, Tensor]) -> Geometry:
    """Rebuild the geometry of a card; older cards have the name of a cost as their only setting."""
    with _naming(folder / CARD):
        space = card["geometry"]
        kind, module = str(space["kind"]), space.get("module", "the module that defines it")
        settings = space.get("settings", {} if space["cost"] is None else {"cost": space["cost"]})
    if kind not in Geometry.kinds:
        raise ValueError(
            f"{folder / CARD} is for problems on a {kind!r}, which no imported module defines: import {module} "
            f"first; known are {sorted(Geometry.kinds)}"
        )
    with _naming(folder / CARD):
        return Geometry.kinds[kind].rebuilt(tensors, settings)


def annotate(folder: Path, **facts: Any) -> None:
    """Add facts to the readable half of a checkpoint, or replace them; ValueError for settings of the model."""
    require_facts(facts)
    content = json.dumps({**read_card(folder), **facts}, indent=2) + "\n"
    write_atomically(folder / CARD, lambda path: path.write_text(content))
