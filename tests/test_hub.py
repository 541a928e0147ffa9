"""Models on the Hub, of which a stand-in runs here: uploaded with a page, pinned, found without a network."""

import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from hub_server import Hub, running
from safetensors.torch import load_file

import metaot
from metaot import Grid, Problem
from metaot.amortize import AmortizedPotential
from metaot.checkpoint import read_card, save
from metaot.cli import main
from metaot.models import PotentialMLP, single

pytestmark = pytest.mark.filterwarnings("ignore:Use .content=:DeprecationWarning")  # of huggingface_hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running() as server:
        settings = {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": True,
        }
        for name, value in settings.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", server.url)
        monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        monkeypatch.chdir(tmp_path)
        yield server


def run(folder: Path, seed: int) -> Path:
    torch.default_generator.manual_seed(seed)
    model = single(PotentialMLP.for_geometry(Grid(2, 3), (0.01, 0.1), width=8, depth=1)).eval()
    test = {"data": "Drawn", "eps": {"0.01": {"mean_steps": {"0.001": 3.5}}}}
    save(AmortizedPotential(model.requires_grad_(False), Grid(2, 3), (0.01, 0.1)), folder, step=7, test=test)
    return folder


def prediction(model: AmortizedPotential) -> torch.Tensor:
    a, b = torch.linspace(0, 1, 12).reshape(2, 6).double().softmax(-1)
    return model.predict(Problem(a, b, model.geometry, 0.05)).f


def test_a_checkpoint_goes_there_and_back(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = run(tmp_path / "first", 1), run(tmp_path / "second", 2)
    (first / "network.onnx").write_bytes(b"")
    assert main(["push", str(first), "me/model"]) == 2, "a damaged checkpoint stays here"
    assert not hub.repositories
    (first / "network.onnx").unlink()
    assert main(["push", str(first), "me/model", "--private"]) == 0
    repository = hub.repositories["me/model"]
    assert repository.private
    pinned = repository.refs["main"]
    assert f'metaot.load("me/model@{pinned}")' in capsys.readouterr().out
    files = repository.commits[pinned]
    assert files["model.safetensors"] == (first / "model.safetensors").read_bytes()
    page = files["README.md"].decode()
    for words in ("library_name: metaot", "Grid(2, 3)", 'load("me/model")', "| step", "mean_steps, 0.001 | 3.5 |"):
        assert words in page

    repository.commit("main", files | {"model.pt": b"no tensors", "network.onnx": b"of others"})
    assert main(["push", str(second), "me/model"]) == 0
    assert not {"model.pt", "network.onnx"} & repository.commits[repository.refs["main"]].keys()
    expected = [prediction(metaot.load(folder)) for folder in (first, second)]
    assert not torch.equal(*expected)
    for loaded, mine in (
        (metaot.load("me/model"), expected[1]),
        (metaot.load(f"me/model@{pinned}"), expected[0]),
        (metaot.load("me/model", revision=pinned), expected[0]),
    ):
        assert torch.equal(prediction(loaded), mine)

    hub.requests.clear()
    assert torch.equal(prediction(metaot.load("me/model", revision=pinned)), expected[0])
    assert not hub.requests, "a commit that was fetched is found without a request"


def test_what_was_fetched_is_found_without_a_network(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(tmp_path / "run", 1)
    assert main(["push", str(folder), "me/model", "--revision", "trial"]) == 0
    expected = prediction(metaot.load("me/model@trial"))
    hub.requests.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(prediction(metaot.load("me/model@trial")), expected)
    with pytest.raises(FileNotFoundError, match="me/other is no folder here, and cannot be fetched from the Hub"):
        metaot.load("me/other")
    assert not hub.requests
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert torch.equal(prediction(metaot.load("me/model@trial")), expected)


def test_nothing_but_tensors_json_and_onnx_is_fetched(hub: Hub, tmp_path: Path) -> None:
    folder = run(tmp_path / "run", 1)
    assert main(["push", str(folder), "me/model"]) == 0
    repository = hub.repositories["me/model"]
    files = dict(repository.commits[repository.refs["main"]])
    card = {name: value for name, value in read_card(folder).items() if name != "digest"}
    torch.save(load_file(folder / "model.safetensors"), folder / "model.pt")
    pickled = {"model.pt": (folder / "model.pt").read_bytes(), "more.py": b"print()"}
    repository.commit("old", {**pickled, "model.json": json.dumps({**card, "format": 1}).encode()})
    with pytest.raises(ValueError, match="me/model@old on the Hub is of format 1, whose weights are pickled"):
        metaot.load("me/model@old")
    repository.commit("empty", pickled)
    with pytest.raises(ValueError, match="me/model@empty on the Hub has no model of metaot"):
        metaot.load("me/model@empty")
    assert not any(request.endswith((".pt", ".py")) for request in hub.requests)
    weights = bytearray(files["model.safetensors"])
    weights[-5] ^= 1
    repository.commit("damaged", {**files, "model.safetensors": bytes(weights)})
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        metaot.load("me/model@damaged")


def test_what_is_not_there_is_named(hub: Hub, tmp_path: Path) -> None:
    folder = run(tmp_path / "run", 1)
    assert main(["push", str(folder), "me/model"]) == 0
    with pytest.raises(FileNotFoundError, match="me/none is neither a folder here nor a repository on the Hub"):
        metaot.load("me/none")
    with pytest.raises(FileNotFoundError, match="me/model on the Hub has no revision 'none'"):
        metaot.load("me/model@none")
    with pytest.raises(ValueError, match="names a revision already"):
        metaot.load("me/model@main", revision="main")
    with pytest.raises(ValueError, match="only OWNER/NAME on the Hub has revisions"):
        metaot.load(folder, revision="main")
    with pytest.raises(FileNotFoundError, match="is not a checkpoint"):
        metaot.load(Path("me/model"))
    assert main(["push", str(folder), "nobody"]) == 2
    save(metaot.load("me/model"), Path("me/model"), step=9)
    hub.requests.clear()
    assert read_card(Path("me/model"))["step"] == 9
    metaot.load("me/model")
    assert not hub.requests, "a folder here wins"
