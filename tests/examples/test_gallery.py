"""The pages of the gallery run, one after another in one process, without a warning and with a picture each."""

import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import pytest
import torch

PAGES = sorted((Path(__file__).parents[2] / "examples").glob("plot_*.py"))
_LONG = (
    "barycenters batches couples digits export flow_matching graphs images lorenz loss maps other_solvers "
    "own_costs own_problems populations progressive recolour roads slices supply_demand"
)
LONG = {f"plot_{name}" for name in _LONG.split()}
"""Pages that train, export, or solve many large problems; `make docs` runs them too."""

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def _as_on_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Run in an empty folder, without data, in torch's own dtype, and show nothing."""
    mpl.use("Agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METAOT_DATA", str(tmp_path / "none"))
    monkeypatch.setattr(plt, "show", lambda: None)
    torch.set_default_dtype(torch.float32)
    yield
    plt.close("all")


def is_long(page: Path) -> bool:
    return page.stem in LONG


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.slow if is_long(page) else [], id=page.stem) for page in PAGES]
)
def test_a_page_runs_and_shows_pictures(page: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn" if re.search("sklearn|scipy", page.read_text()) else "PIL")
    pytest.importorskip("ot" if "other_solvers" in page.stem else "PIL")
    variables = runpy.run_path(str(page), run_name="__main__")
    assert plt.get_fignums()
    assert variables["__doc__"].splitlines()[2].startswith("===")
    assert not list(tmp_path.iterdir()), "a page left files behind"


@pytest.mark.parametrize("page", [page for page in PAGES if is_long(page)], ids=lambda page: page.stem)
def test_a_long_page_compiles(page: Path) -> None:
    compile(page.read_text(), str(page), "exec")


def test_there_are_ten_pages() -> None:
    assert len(PAGES) >= 10


def test_the_order_names_every_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PAGES[0].parents[1] / "docs"))
    from extensions.order import PAGES as ORDER  # noqa: PLC0415

    assert sorted(ORDER) == [page.name for page in PAGES]
