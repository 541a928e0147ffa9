"""What a user can get wrong: one line on stderr, exit status 2, before the work, and no file is touched."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest

from metaot import cli
from metaot.cli import main


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with good and bad files, which is the current one."""
    folder = tmp_path_factory.mktemp("place")
    pytest.importorskip("PIL.Image").new("RGB", (9, 7), "red").save(folder / "a.png")
    (folder / "bad.png").write_bytes(b"no picture")
    (folder / "bad.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr'")
    (folder / "bad.npz").write_bytes(b"PK no archive")
    (folder / "file").write_text("a file")
    (folder / "data" / "mnist").mkdir(parents=True)
    (folder / "data" / "world").mkdir()
    (folder / "data" / "world" / "gpw4_density_2020_15min.npz").write_bytes(b"PK no archive")
    for name in ("train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"):
        (folder / "data" / "mnist" / name).write_bytes(b"\x1f\x8b\x08 cut")
    np.save(folder / "w3.npy", np.ones(3))
    np.save(folder / "w4.npy", np.ones(4))
    np.save(folder / "image.npy", np.ones((5, 6)))
    np.save(folder / "below.npy", -np.ones((5, 6)))
    np.save(folder / "cube.npy", np.ones((3, 4, 5)))
    np.save(folder / "words.npy", np.array(["a", "b"]))
    np.save(folder / "points.npy", np.ones((5, 2)))
    np.save(folder / "nan.npy", np.array([1.0, np.nan]))
    (folder / "text.csv").write_text("x,y\n1,2\n3,four\n")
    (folder / "short.csv").write_text("1,2\n3\n")
    (folder / "empty.csv").write_text("\n")
    (folder / "latin.csv").write_bytes(b"\xe9,1\n")
    with chdir(folder):
        yield folder


CALLS = [
    ("", "the following arguments are required: COMMAND"),
    ("slove a.png a.png", "invalid choice: 'slove'"),
    ("train shapes --out file", "file is a file: name a folder"),
    ("train shapes --out file/run", "file is a file: name a folder"),
    ("train shapes --out new --stop-at 0", "--stop-at: wants a whole number of at least 1, got '0'"),
    ("train shapes --out new --data-dir file", "file is a file"),
    ("train shapes --out new --device gpu0", "device is auto, cpu, cuda, cuda:1 ..., got 'gpu0'"),
    ("train shapes --out new --device cuda:99", "device 'cuda:99' cannot be used"),
    ("train shapes --out new --from nowhere", "nowhere is not a checkpoint"),
    ("train shapes --out new --resume", "holds no run to resume"),
    ("train shapes --out new --set batch=0", "did you mean 'data.batch'"),
    ("train shapes --out new --set data.batch=0", "batch must be a whole number of at least 1, got 0"),
    ("train shapes --out new --set data.eps=[1,0.1]", "exchange them"),
    ("train shapes --out new --set learning_rate=NaN", "learning_rate must be positive and finite, got nan"),
    ("train shapes --out new --set save_every=0", "save_every must be"),
    ("train nothing", "invalid choice: 'nothing'"),
    ("train mnist --out new --data-dir data", "is not a whole idx file"),
    ("train mnist --out new --data-dir no", "metaot fetch mnist"),
    ("train sphere --out new --set data.world=raster --data-dir data", "gpw4_density_2020_15min.npz is damaged"),
    ("train sphere --out new --set data.world=raster --data-dir no", "data.world=synthetic"),
    ("train palette --out new --data-dir no", "is not a folder: name one with images"),
    ("train problems --out new --set data.path=file", "no problems in 'file'"),
    ("evaluate universal --out file", "file is a file"),
    ("evaluate universal --threads 0", "--threads: wants a whole number of at least 1"),
    ("evaluate universal --instances -1", "--instances: wants"),
    ("evaluate universal --seconds nan", "--seconds: wants a number of seconds"),
    ("evaluate universal --seed 1e3", "--seed: wants"),
    ("evaluate universal --tol 0", "--tol: wants a positive number"),
    ("evaluate universal --resolution 0", "--resolution: wants"),
    ("evaluate universal --passes -1", "--passes: wants"),
    ("evaluate universal --data cats", "images are one of"),
    ("evaluate universal --data usps --data-dir no", "name an .npz file of your own"),
    ("evaluate universal --data bad.npz", "bad.npz"),
    ("evaluate palette --passes 2", "--passes is for models of potentials"),
    ("export universal --out no/m.onnx", "no is not a folder"),
    ("export universal --out data", "data is a folder: name a file in it"),
    ("export universal --out m.bin", "m.bin must end with .onnx"),
    ("export universal --passes x", "--passes: wants"),
    ("export nowhere", "nowhere is not a checkpoint"),
    ("recolor a.png a.png -o data", "data is a folder"),
    ("recolor a.png a.png -o c.png --threads 0", "--threads: wants"),
    ("recolor a.png a.png -o c.png --model nowhere.onnx", "nowhere.onnx"),
    ("recolor a.png data -o c.png", "data is not a picture"),
    ("fetch cats", "fetch mnist, or a data set of images by its name OWNER/NAME, got 'cats'"),
    ("fetch mnist --data-dir file", "file is a file"),
    ("fetch a/b --limit 0", "--limit: wants"),
    ("info --fast", "unrecognized arguments: --fast"),
    ("solve a.png none.png", "none.png is not there"),
    ("solve a.png data", "data is a folder"),
    ("solve a.png bad.png", "bad.png is not a picture that can be read"),
    ("solve w3.npy bad.npy", "bad.npy is damaged, or no file of numpy"),
    ("solve w3.npy w4.npy", "give arrays of one size"),
    ("solve w3.npy image.npy", "both must be of one kind"),
    ("solve image.npy below.npy", "say so with --points"),
    ("solve cube.npy cube.npy", "has the shape (3, 4, 5)"),
    ("solve words.npy words.npy", "real numbers"),
    ("solve nan.npy nan.npy", "mass [1] is nan"),
    ("solve text.csv points.npy", "column 'y' of point 2 is no number, got 'four'"),
    ("solve short.csv points.npy", "point 2 has 1 columns, wanted are 2"),
    ("solve empty.csv points.npy", "empty.csv is empty"),
    ("solve latin.csv points.npy", "latin.csv is not a text file"),
    ("solve a.png a.png --dark --eps 0", "--eps: wants a positive number"),
    ("solve a.png a.png --tol nan", "--tol: wants a positive number"),
    ("solve a.png a.png --max-steps -1", "--max-steps: wants"),
    ("solve a.png a.png --threads 99999", "--threads: wants at most"),
    ("solve a.png a.png --cost cosine", "invalid choice: 'cosine'"),
    ("solve a.png a.png --cost sphere", "--cost sphere is for points"),
    ("solve points.npy points.npy --cost l1", "--cost l1 is for images"),
    ("solve points.npy points.npy --cost sphere", "latitude and longitude"),
    ("solve w3.npy w4.npy --cost-matrix image.npy", "image.npy has the shape (5, 6), wanted is (3, 4)"),
    ("solve a.png a.png --init nowhere", "nowhere is not a checkpoint"),
    ("solve a.png a.png --init mnist", "the model was trained on"),
    ("solve a.png a.png --out m.npy", "m.npy must end with .npz"),
    ("solve a.png a.png --out no/m.npz", "no is not a folder"),
    ("solve a.png a.png --picture a.png", "a.png is read: name another file"),
    ("solve a.png a.png --picture m.xyz", "m.xyz must end with .png"),
]


@pytest.mark.parametrize(("call", "words"), CALLS, ids=[call or "nothing" for call, _ in CALLS])
def test_one_line_and_no_file_is_touched(
    call: str, words: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(place.rglob("*"))
    assert main(call.split()) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("metaot: ")
    assert words in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    ("error", "line", "status"),
    [
        (PermissionError(13, "Permission denied", "/a/b"), "/a/b: permission denied", 2),
        (OSError(28, "No space left on device"), "no space left on device", 2),
        (MemoryError(), "there is not enough memory", 2),
        (RuntimeError("can't allocate memory:\n you tried"), "can't allocate memory: you tried", 2),
        (KeyboardInterrupt(), "interrupted", 130),
    ],
    ids=str,
)
def test_the_system_s_errors_are_one_line(
    error: BaseException,
    line: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(options: object) -> None:
        raise error

    monkeypatch.setattr("metaot.cli.info.run", fail)
    assert main(["info"]) == status
    assert capsys.readouterr().err == f"metaot: {line}\n"


def test_an_error_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(options: object) -> None:
        raise RuntimeError("a mistake in the code")

    monkeypatch.setattr("metaot.cli.info.run", fail)
    with pytest.raises(RuntimeError, match="a mistake"):
        main(["info"])


def test_a_folder_that_cannot_be_written_to_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    calls = (
        "train shapes --out new", "export universal --out m.onnx", "recolor a.png a.png -o c.png",
        "evaluate universal --out new", "fetch mnist --data-dir new", "solve a.png a.png --out m.npz",
    )  # fmt: skip
    for call in calls:
        assert main(call.split()) == 2
        error = capsys.readouterr().err
        assert "cannot be written to: read-only file system" in error
        assert error.count("\n") == 1


def test_help_and_info_import_no_torch_and_bear_a_reader_that_leaves() -> None:
    code = (
        "import sys; from metaot.cli import main; main(sys.argv[1:]); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'datasets', 'onnxruntime')))"
    )
    for call in ("--help", "info", "solve --help"):
        subprocess.run([sys.executable, "-c", code, *call.split()], check=True, capture_output=True)
    command = [sys.executable, "-m", "metaot", "info"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == cli.NO_READER


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in cli.COMMANDS:
        assert main([command, "--help"]) == 0
    printed = capsys.readouterr().out
    assert "Pairs of MNIST digits" in printed  # train lists the recipes
    assert main(["train", "sphere", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "data.suppliers=100" in printed
    assert "model_settings.groups=512" in printed
