"""Tables and numbers of the documentation come from the results of the benchmarks."""

import importlib
import re
import sys
from pathlib import Path

import jinja2
import pytest

from benchmarks.tables import TABLES, losses, readme

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs"))
results = importlib.import_module("extensions.results")
PAGES = sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_as_many_cells_in_each_row(name: str):
    table = TABLES[name]()
    assert table.rows, name
    assert {len(row) for row in table.rows} == {len(table.head)}
    assert not re.search(r"nan|None|inf\b", table.markdown())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_finds_its_numbers(page: Path):
    assert "{{" not in results.rendered(page.read_text())


def test_the_page_of_losses_says_what_was_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(losses, "RESULTS", tmp_path)
    page = results.rendered((ROOT / "docs" / "benchmarks" / "losses.md").read_text())
    assert page.count("Not measured") == 5
    assert "|--" not in page


def test_every_table_is_shown_on_a_page():
    text = "".join(page.read_text() for page in PAGES)
    assert [name for name in TABLES if f'table("{name}")' not in text] == []


def test_a_number_that_is_not_in_the_results_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="no_such_key"):
        results.rendered('{{ read("core").no_such_key }}')


def test_the_tables_of_the_readme_are_short():
    assert max(len(readme.helps().rows), len(readme.compared().rows)) <= 8
