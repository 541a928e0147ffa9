"""What holds for every exported file: it is sent to processes, needs no torch, and others are refused."""

import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from exports import predictor, resealed, run_without_torch

import metaot
from metaot import OnnxMap, OnnxModel
from metaot.checkpoint import save
from metaot.onnx.export import export

KINDS = ("refined", "universal", "maps")


@pytest.fixture(params=KINDS)
def file(request: pytest.FixtureRequest, exported: Callable[[str], Path]) -> Path:
    return exported(request.param) / "model.onnx"


def answer(model: OnnxModel | OnnxMap) -> np.ndarray:
    if isinstance(model, OnnxMap):
        x = np.random.default_rng(0).random((9, 3))
        return model.predict(x, x**2).push(x)
    a = np.full((6, 5), 1 / 30)
    return model.predict(a, a[::-1], eps=0.02).f


def without_its_files(file: Path, folder: Path) -> OnnxModel | OnnxMap:
    """Return the model of copies that are gone again."""
    for part in file.parent.glob("model*.onnx"):
        (folder / part.name).write_bytes(part.read_bytes())
    model = metaot.load(folder / "model.onnx")
    for part in folder.iterdir():
        part.unlink()
    return model


def test_it_is_pickled_without_its_files(file: Path, tmp_path: Path) -> None:
    model = without_its_files(file, tmp_path)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(answer(again), answer(model))
    assert repr(again) == repr(model)


@pytest.mark.slow
def test_it_is_sent_to_another_process_without_its_files(written: Path, tmp_path: Path) -> None:
    model = without_its_files(written, tmp_path)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        np.testing.assert_array_equal(pool.submit(answer, model).result(), answer(model))


@pytest.mark.parametrize("name", ["refined", "maps"])
def test_it_runs_without_torch(name: str, exported: Callable[[str], Path]) -> None:
    code = """if True:
        import numpy as np, metaot, metaot.core
        model = metaot.load(sys.argv[1])
        if isinstance(model, metaot.OnnxMap):
            picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
            assert model.recolor(picture, picture // 2).mean() < 90
            assert "PIL" not in sys.modules
        else:
            a = np.full((2, 30), 1 / 30)
            assert np.abs(model.predict(a, a, eps=0.02).f).max() < 10
            assert not metaot.core.COMPILED or model.solve(a, a[:, ::-1], eps=0.02).converged.all()
            model, C = metaot.load(sys.argv[2]), np.random.default_rng(0).random((30, 30))
            C[0, 5] = np.inf
            assert np.abs(model.predict(a, a, C=C, eps=0.02).f).max() < 10
            assert not metaot.core.COMPILED or model.solve(a, a, C=C, eps=0.02).converged.all()
        """
    run_without_torch(code, *(exported(model) / "model.onnx" for model in (name, "costs")))


def _without_metadata(proto: onnx.ModelProto) -> None:
    del proto.metadata_props[:]


def _of_format_99(proto: onnx.ModelProto) -> None:
    next(entry for entry in proto.metadata_props if entry.key == "metaot").value = '{"format": "99"}'


def _with_a_custom_node(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].domain = "my.domain"


def _with_external_data(proto: onnx.ModelProto) -> None:
    tensor = proto.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (_without_metadata, "is no exported model"),
        (_of_format_99, "format '99'"),
        (_with_a_custom_node, "my.domain"),
        (_with_external_data, "onnxruntime cannot open"),
    ],
)
def test_files_that_are_not_ours_are_refused(written: Path, tamper: Any, words: str) -> None:
    proto = onnx.load(written)
    tamper(proto)
    with pytest.raises(ValueError, match=words):
        OnnxModel.from_bytes(resealed(proto))


def test_files_that_are_no_models_are_refused(written: Path, tmp_path: Path) -> None:
    whole, path = written.read_bytes(), tmp_path / "file.onnx"
    cut_short = [whole[: int(share * len(whole))] for share in (0.2, 0.5, 0.9, 0.999)]
    for content in (b"", b"hello", b"\x00" * 64, b"PK\x03\x04" * 30, *cut_short):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"file\.onnx was not written"):
            OnnxModel(path)


def test_other_files_and_settings_are_refused(exported: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"export\.py CHECKPOINT"):
        metaot.load(tmp_path / "none.onnx")
    maps, written = exported("maps") / "model.onnx", exported("refined") / "model.onnx"
    (tmp_path / "maps.onnx").write_bytes(maps.read_bytes())
    with pytest.raises(FileNotFoundError, match=r"maps-push\.onnx is not there"):
        OnnxMap(tmp_path / "maps.onnx")
    with pytest.raises(ValueError, match=r"metaot\.OnnxMap opens it"):
        OnnxModel(maps)
    push = maps.with_name("model-push.onnx").read_bytes()
    with pytest.raises(ValueError, match="in memory-push was not written by metaot"):
        OnnxMap.from_bytes(maps.read_bytes(), push[:50])
    with pytest.raises(ValueError, match="providers must be of"):
        OnnxModel(written, providers=["NoSuchProvider"])
    with pytest.raises(ValueError, match="threads"):
        OnnxModel(written, threads=0)


@pytest.mark.parametrize("name", ["refined", "maps"])
def test_nothing_is_written_when_files_differ_from_torch(
    name: str, exported: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [exported(name) / file for file in ("model.onnx", "model-push.onnx")]
    contents = [file.read_bytes() for file in files if file.exists()]
    monkeypatch.setattr("metaot.onnx.export.prediction_model", lambda *_: contents[0])
    monkeypatch.setattr("metaot.onnx.export.map_models", lambda *_: contents)
    changed = predictor(name)
    next(iter(changed.model.parameters())).data.mul_(1.001)
    save(changed, tmp_path / "run", recipe=None)
    with pytest.raises(ValueError, match=r"nothing was written to .* differs from torch by"):
        export(changed, tmp_path / "run", tmp_path / "a.onnx")
    assert not list(tmp_path.glob("a*"))
