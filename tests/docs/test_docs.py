"""The documentation says what there is: every public name has an entry, every link a target."""

import importlib
import inspect
import re
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs"))
reference = importlib.import_module("extensions.public")
text = importlib.import_module("extensions.text")

CLASSES = {name: value for name, value in reference.public().items() if inspect.isclass(value)}
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")})
LINK = re.compile(r"\]\(([^)\s]+)\)|^```\{(?:include|figure|image)\} (\S+)", re.MULTILINE)
CODE = re.compile(r"^(```+)(?!\{(?:include|figure|image)).*?^\1|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def test_every_public_name_has_an_entry():
    shown = [named(name) for name in reference.entries()]
    missing = [name for name, value in reference.public().items() if not any(value is each for each in shown)]
    assert missing == [], "give each an entry in docs/api"


def named(name: str) -> Any:
    module, last = name.rsplit(".", 1)
    return getattr(importlib.import_module(module), last)


@pytest.mark.parametrize("name", CLASSES)
def test_every_public_member_has_a_docstring(name: str):
    kind = CLASSES[name]
    assert kind.__doc__, name
    assert not kind.__doc__.startswith(f"{kind.__name__}("), "what a dataclass generates says nothing"
    for member, value in vars(kind).items():
        if not member.startswith("_") and (
            inspect.isroutine(value) or isinstance(value, property | cached_property)
        ):
            assert any(inspect.getdoc(vars(base).get(member)) for base in kind.__mro__), f"{name}.{member}"


def test_every_public_function_has_a_docstring():
    functions = {name: value for name, value in reference.public().items() if inspect.isfunction(value)}
    assert [name for name, value in functions.items() if not value.__doc__] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files(page: Path):
    for groups in LINK.findall(CODE.sub("", page.read_text())):
        target = next(filter(None, groups)).partition("#")[0]
        if target and not re.match(r"[a-z]+:", target):
            assert exists(page.parent / target), f"{target} in {page.relative_to(ROOT)}"


def exists(path: Path) -> bool:
    """Return whether a file is there, or the script that the gallery makes the page or the picture of."""
    name = re.sub(r"^sphx_glr_|(_\d+)?$", "", path.stem)
    script = ROOT / "examples" / f"{name}.py"
    gallery = "auto_examples" in path.parts and (script.exists() or name == "index")
    return gallery or path.exists()


def test_a_docstring_becomes_text_with_links_code_and_mathematics():
    lines = ["Return |x| by `solve`,", "`tol` and $a^*$:", "", "    x = a * b", "", "* one", "* `two`"]
    assert text.converted(lines, {"solve": "metaot.solve"}) == [
        "Return \\|x\\| by :py:obj:`solve <metaot.solve>`,", "``tol`` and :math:`a^*`:", "",
        ".. code-block:: python", "", "    x = a * b", "",
        "* one", "* ``two``", "",
    ]  # fmt: skip
