import sys
from importlib import import_module
from pathlib import Path

import pytest
from blobs import Rough, drawn, report

from metaot import solve

pytest.importorskip("matplotlib")


def png_size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) < 200_000
    return int.from_bytes(content[16:20]), int.from_bytes(content[20:24])


def test_pictures_have_the_size_of_a_page(tmp_path: Path) -> None:
    pictures = import_module("metaot.evaluation.pictures")
    pictures.draw_convergence(report(), tmp_path / "convergence.png")
    problem = drawn(report(), 1e-1)[:1]
    exact, guess = solve(problem, tol=1e-6).potentials, Rough().predict(problem)
    pictures.draw_interpolations(problem, exact, guess, (8, 8), tmp_path / "between.png")
    assert png_size(tmp_path / "convergence.png") == (1400, 518)
    assert png_size(tmp_path / "between.png")[0] == 1400
    assert len(list(tmp_path.iterdir())) == 2


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "metaot.evaluation.pictures", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    with pytest.raises(ImportError, match=r"pip install 'metaot\[plot\]'"):
        import_module("metaot.evaluation.pictures")
