import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from metaot import solve
from metaot.amortize import Predictor
from metaot.data.base import ProblemSet
from metaot.evaluation import Report

pytest.importorskip("matplotlib")


def png_size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) < 200_000
    return int.from_bytes(content[16:20]), int.from_bytes(content[20:24])


def test_pictures_have_the_size_of_a_page(
    report: Report, problems: ProblemSet, rough: Predictor, tmp_path: Path
) -> None:
    pictures = import_module("metaot.evaluation.pictures")
    pictures.draw_convergence(report, tmp_path / "convergence.png")
    problem = problems.sample(torch.Generator().manual_seed(0))
    exact = solve(problem, tol=1e-6).potentials
    pictures.draw_interpolations(problem, exact, rough.predict(problem), (8, 8), tmp_path / "between.png")
    assert png_size(tmp_path / "convergence.png") == (1400, 518)
    assert png_size(tmp_path / "between.png")[0] == 1400
    assert len(list(tmp_path.iterdir())) == 2


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "metaot.evaluation.pictures", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    with pytest.raises(ImportError, match=r"pip install 'metaot\[plot\]'"):
        import_module("metaot.evaluation.pictures")
