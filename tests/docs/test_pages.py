"""The code on the pages of the documentation runs: all ```python blocks of a page, in their order."""

import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(page for part in ("start", "howto", "concepts", "api") for page in (DOCS / part).glob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def code(page: Path) -> str:
    """Return the blocks of a page as one script whose lines have the numbers that they have on the page."""
    text, script = page.read_text(), ""
    for block in BLOCK.finditer(text):
        script += "\n" * (text.count("\n", 0, block.start(1)) - script.count("\n")) + block.group(1)
    return script


WITH_CODE = [page for page in PAGES if code(page)]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "import ot\n" in code(page):
        pytest.importorskip("ot")
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    exec(compile(code(page), str(page), "exec"), {"__name__": "page"})


def test_most_pages_have_code() -> None:
    assert len(WITH_CODE) >= 8
