"""Docstrings of this project for Sphinx, and links from annotations to the names that a user imports.

A name in backticks that the reference documents becomes a link. Annotations name classes by the module of their
source (`metaot.problem.Problem`); links go to the public name (`metaot.Problem`).
"""

from functools import cache
from importlib import import_module
from typing import Any

from docutils.nodes import Element
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.typing import stringify_annotation

from extensions.public import exists, links, public_name
from extensions.text import converted

ELSEWHERE = (
    "torch", "numpy", "np", "jaxtyping", "typing", "collections", "os", "pathlib", "enum", "argparse", "PIL"
)  # fmt: skip
"""Roots of names outside this reference; without a network there is nothing to link to."""

ALIASES = (
    "numpy.typing.ArrayLike",
    "metaot.arrays.ArrayLike",
    "metaot.potentials.PotentialsLike",
    "metaot.solvers.start.Start",
    "metaot.solvers.maps.MapStart",
)
"""Names of unions that would fill lines of a signature."""


def _convert(app: Sphinx, what: str, *rest: Any) -> None:
    lines: list[str] = rest[-1]
    lines[:] = converted(lines, links())
    if what in ("attribute", "property", "data"):
        lines[:0] = ["..", ""]  # else Napoleon takes what stands before a colon for a type


@cache
def _aliases() -> dict[str, str]:
    """Return what Python makes of an alias in a signature, and its name; the longest first."""
    found = {}
    for full in ALIASES:
        module, name = full.rsplit(".", 1)
        try:
            kind = getattr(import_module(module), name)
        except (ImportError, AttributeError):
            continue
        found[stringify_annotation(kind, "smart")] = name
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


def _shorten(app: Sphinx, what: str, *rest: Any) -> tuple[str | None, str | None]:
    """Write aliases by their names again."""
    texts: list[str | None] = list(rest[-2:])
    for long, short in _aliases().items():
        texts = [text and text.replace(long, short) for text in texts]
    return texts[0], texts[1]


def _resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: Element) -> Element | None:
    """Link a name of the sources to its public name; let names of other packages be plain text."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    if target == "Tensor" or target.split(".")[0] in ELSEWHERE:
        return contnode
    name = public_name(target)
    if name is None:
        return contnode if exists(target) else None
    docname = node["refdoc"]
    domain = env.domains.python_domain
    return domain.resolve_xref(env, docname, app.builder, "obj", name, node, contnode)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _convert, priority=100)
    app.connect("autodoc-process-signature", _shorten)
    app.connect("missing-reference", _resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
