"""What is written of a checkpoint: weights with their digest beside a card, whatever predicts with them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from metaot import digest
from metaot.folders import CARD, PICKLED, SETTINGS, WEIGHTS, digests, write_together


def write_checkpoint(
    folder: Path,
    settings: dict[str, Any],
    tensors: dict[str, Tensor],
    facts: dict[str, Any],
    stale: Iterable[str] = (),
) -> None:
    """Write both files with their digests, and remove the files of earlier weights that are named `stale`."""
    require_facts(facts)
    require_finite_weights("what is to be saved", tensors)
    content = safetensors.torch.save(
        {k: v.cpu().contiguous().clone() for k, v in tensors.items()}, {"format": "pt"}
    )
    card = {**settings, "digest": digests(settings, digest.of_bytes(content)), **facts}
    text = json.dumps(card, indent=2) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    for name in stale:
        (folder / name).unlink(missing_ok=True)
    write_together({folder / WEIGHTS: content, folder / CARD: text.encode()})
    (folder / PICKLED).unlink(missing_ok=True)


def require_facts(facts: dict[str, Any]) -> None:
    """Raise ValueError for facts under the names of settings."""
    for name in (*SETTINGS, "digest"):
        if name in facts:
            raise ValueError(f"{name!r} is a setting of the model, no fact about it: save a predictor that has it")


def require_finite_weights(where: object, tensors: dict[str, Tensor]) -> None:
    """Raise ValueError for weights that are NaN or infinite; spaces check their own tensors."""
    for name, value in tensors.items():
        numbers = value.detach().cpu()
        array = (numbers.float() if numbers.dtype == torch.bfloat16 else numbers).numpy()
        if name.startswith("model.") and not np.isfinite(array).all():  # sooner than torch with many threads
            raise ValueError(
                f"{where} has weights {name.removeprefix('model.')!r} that are not finite: train the model anew, "
                "or take an earlier checkpoint"
            )
