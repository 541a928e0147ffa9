"""Every fault of a checkpoint is a ValueError that names the file; what people may edit, they may edit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import require_no_silent_change
from safetensors.torch import load_file, save
from strategies import unchecked
from torch import Tensor

import metaot
from metaot import Grid, Problem
from metaot import checkpoint as checkpoints
from metaot.amortize import AmortizedPotential
from metaot.checkpoint import annotate, read_card
from metaot.digest import of_bytes
from metaot.folders import digests, settings_of, write_together
from metaot.models import PotentialMLP, single


def run(folder: Path, seed: int = 0) -> Path:
    """Write a small checkpoint."""
    torch.default_generator.manual_seed(seed)
    model = single(PotentialMLP.for_geometry(Grid(2, 3), (0.01, 0.1), width=8, depth=1)).eval()
    checkpoints.save(AmortizedPotential(model.requires_grad_(False), Grid(2, 3), (0.01, 0.1)), folder, step=7)
    return folder


def prediction(folder: Path) -> Tensor:
    a, b = torch.linspace(0, 1, 12).reshape(2, 6).double().softmax(-1)
    return metaot.load(folder).predict(Problem(a, b, Grid(2, 3), 0.05)).f


def rewritten(folder: Path, change: Callable[[dict[str, Any]], object], content: bytes | None = None) -> None:
    """Change a card, and the weights if there are others, with right digests."""
    card = json.loads((folder / "model.json").read_text())
    change(card)
    content = content or (folder / "model.safetensors").read_bytes()
    card["digest"] = digests(settings_of(card), of_bytes(content))
    write_together({folder / "model.safetensors": content, folder / "model.json": json.dumps(card).encode()})


@pytest.mark.parametrize("file", ["model.safetensors", "model.json"])
def test_a_single_change_is_refused_or_changes_no_number(file: str, tmp_path: Path) -> None:
    run(tmp_path)
    refused = require_no_silent_change(tmp_path / file, lambda: prediction(tmp_path).numpy())
    assert refused == 200 if file == "model.safetensors" else refused > 100


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card.update(eps=[-0.01, 0.1]),
        lambda card: card.update(eps=[0.1, 0.01]),
        lambda card: card.update(eps="12"),
        lambda card: card.update(eps=[0.01, float("inf")]),
        lambda card: card.pop("eps"),
        lambda card: card.pop("model"),
        lambda card: card["model"].pop("config"),
        lambda card: card["model"].update(config=[1, 2]),
        lambda card: card["model"].update(kind=["PotentialMLP"]),
        lambda card: card["model"].update(kind="Sequential"),
        lambda card: card["model"]["config"].update(width="wide"),
        lambda card: card["model"]["config"].update(more=1),
        lambda card: card.update(geometry=None),
        lambda card: card["geometry"].pop("kind"),
        lambda card: card["geometry"].update(kind="Sphere"),
        lambda card: card["geometry"]["settings"].update(cost="taxi"),
        lambda card: card.update(format=3),
    ],
)
def test_a_card_that_cannot_be_is_named_though_its_digest_is_right(change: Any, tmp_path: Path) -> None:
    rewritten(run(tmp_path), change)
    with pytest.raises(ValueError, match=r"model\.json"):
        metaot.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"format": 2', "\x00", '{"format": []}', "[" * 100_000])
def test_a_card_that_is_no_card_is_named(text: str, tmp_path: Path) -> None:
    (run(tmp_path) / "model.json").write_text(text)
    with pytest.raises(ValueError, match=r"model\.json (is damaged|has format)"):
        metaot.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w["model.scale_a"].fill_(torch.nan), "has weights 'scale_a' that are not finite"),
        (
            lambda w: w["model.layers.1.bias"][:1].fill_(torch.inf),
            "has weights 'layers.1.bias' that are not finite",
        ),
        (
            lambda w: w.update({"model.scale_a": torch.zeros(7)}),
            "does not fit or is damaged: .*size mismatch",
        ),
        (lambda w: w.pop("model.layers.1.bias"), "does not fit or is damaged: .*Missing key"),
        (lambda w: w.update({"model.more": torch.zeros(7)}), "does not fit or is damaged: .*Unexpected key"),
    ],
)
def test_weights_that_cannot_be_are_named_though_their_digest_is_right(
    change: Any, words: str, tmp_path: Path
) -> None:
    weights = load_file(run(tmp_path) / "model.safetensors")
    change(weights)
    rewritten(tmp_path, lambda card: None, save(weights))
    with pytest.raises(ValueError, match=rf"model\.safetensors {words}"):
        metaot.load(tmp_path)
    rewritten(tmp_path, lambda card: None, b"no tensors")
    with pytest.raises(ValueError, match=r"model\.safetensors does not fit or is damaged"):
        metaot.load(tmp_path)


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    predictor = metaot.load(run(tmp_path / "run"))
    predictor.model.layers[1].bias[0] = 1e5  # too large for float16
    with pytest.raises(ValueError, match=r"'layers\.1\.bias' that are not finite"):
        checkpoints.save(predictor, tmp_path / "other", compact=True)
    assert not (tmp_path / "other").exists()


def test_files_of_two_checkpoints_are_not_mixed(tmp_path: Path) -> None:
    first, second = run(tmp_path / "first", 1), run(tmp_path / "second", 2)
    shutil.copy(second / "model.safetensors", first)
    with pytest.raises(ValueError, match=r"first/model\.safetensors is damaged, or of another checkpoint"):
        metaot.load(first)
    (second / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"second/model\.safetensors is missing"):
        metaot.load(second)


def test_facts_may_be_edited_and_settings_may_not(tmp_path: Path) -> None:
    expected, path = prediction(run(tmp_path)), tmp_path / "model.json"
    annotate(tmp_path, test={"steps": 3}, note="by hand")
    path.write_text(json.dumps({**dict(reversed(read_card(tmp_path).items())), "step": 8}))
    assert torch.equal(prediction(tmp_path), expected)
    with pytest.raises(ValueError, match="'eps' is a setting of the model"):
        annotate(tmp_path, eps=[0.1, 0.2])
    path.write_text(path.read_text().replace("0.01", "0.02"))
    with pytest.raises(ValueError, match=r"model\.json is damaged or was edited: .* undo the edit"):
        metaot.load(tmp_path)


def test_checkpoints_of_format_1_are_opened_and_renewed(tmp_path: Path) -> None:
    expected = prediction(run(tmp_path))
    card = {name: value for name, value in read_card(tmp_path).items() if name != "digest"}
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "model.pt")
    (tmp_path / "model.json").write_text(json.dumps({**card, "format": 1}))
    (tmp_path / "model.safetensors").unlink()
    with pytest.warns(UserWarning, match="older version.*renew"):
        assert torch.equal(prediction(tmp_path), expected)
    whole = (tmp_path / "model.pt").read_bytes()
    for content in (whole[:500], b"", b"hello"):
        (tmp_path / "model.pt").write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.pt does not fit or is damaged"):
            metaot.load(tmp_path)
    (tmp_path / "model.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.pt is missing"):
        metaot.load(tmp_path)
    (tmp_path / "model.pt").write_bytes(whole)
    monkeypatched = pytest.MonkeyPatch()
    monkeypatched.setattr(checkpoints, "write_network", lambda *_: False)
    checkpoints.renew(tmp_path)
    monkeypatched.undo()
    assert {file.name for file in tmp_path.iterdir()} == {"model.safetensors", "model.json"}
    assert read_card(tmp_path)["step"] == 7
    assert torch.equal(prediction(tmp_path), expected)


@pytest.mark.parametrize(
    ("what", "error"),
    [
        (3, TypeError),
        (None, TypeError),
        (["a"], TypeError),
        ("", ValueError),
        (" ", ValueError),
        (b"a", TypeError),
    ],
)
def test_what_is_no_name_is_refused_with_the_names_that_there_are(what: Any, error: type) -> None:
    words = r"load takes a name or a path, got .*: mnist, palette, roads, sphere, universal"
    with unchecked(), pytest.raises(error, match=words):
        metaot.load(what)


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.txt is a file that is no \.onnx: a model is the folder"):
        metaot.load(tmp_path / "notes.txt")
    for what in (tmp_path, tmp_path / "none", "surely-nothing"):
        with pytest.raises(
            FileNotFoundError, match=r"is not a checkpoint: .* OWNER/NAME on the Hub, .*: mnist, pal"
        ):
            metaot.load(what)
