"""Numbers and tables of a page, from what was measured: a page with double braces is a template.

`{{ table("mnist-steps") }}` becomes a table of `benchmarks.tables`; `{% set core = read("core") %}` and then
`{{ core.rows["..."].ratio | digits(2) }}` a number. What is not in the results is an error, never empty.
"""

from statistics import mean, median
from typing import TYPE_CHECKING, Any

import jinja2

from benchmarks import tables

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def rendered(page: str) -> str:
    """Return a page with its tables and numbers."""
    if "{{" not in page and "{%" not in page:
        return page
    return _environment().from_string(page).render()


def _environment() -> jinja2.Environment:
    found = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        comment_start_string="<!--#",
        comment_end_string="#-->",
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    found.globals |= {name: getattr(tables, name) for name in tables.__all__} | {"table": _table}
    found.filters |= {
        "digits": lambda value, count: f"{value:.{count}f}",
        "significant": _significant,
        "mean": mean,
        "median": median,
        "largest": max,
        "smallest": min,
    }
    return found


def _table(name: str) -> str:
    if name not in tables.TABLES:
        raise ValueError(f"there is no table {name!r}: there are {', '.join(tables.TABLES)}")
    return tables.TABLES[name]().markdown()


def _significant(value: float, count: int = 2) -> str:
    """Return a number with so many digits that count, without an exponent."""
    return f"{float(f'{value:.{count}g}'):f}".rstrip("0").rstrip(".")


def _read(app: "Sphinx", name: str, source: list[str]) -> None:
    if not name.startswith("auto_examples/"):
        source[0] = rendered(source[0])


def setup(app: "Sphinx") -> dict[str, Any]:
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
