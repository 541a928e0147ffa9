"""Docstrings of this project for Sphinx, and links from annotations to the names that a user imports.

A name in backticks that the reference documents becomes a link. Annotations name classes by the module of their
source (`metaot.problem.Problem`); links go to the public name (`metaot.Problem`).
"""

from typing import Any

from docutils.nodes import Element
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from extensions.public import exists, links, public_name
from extensions.text import converted

ELSEWHERE = ("torch", "numpy", "np", "jaxtyping", "typing", "collections", "pathlib", "enum", "argparse", "PIL")
"""Roots of names outside this reference; without a network there is nothing to link to."""


def _convert(app: Sphinx, what: str, *rest: Any) -> None:
    lines: list[str] = rest[-1]
    lines[:] = converted(lines, links())
    if what in ("attribute", "property", "data"):
        lines[:0] = ["..", ""]  # else Napoleon takes what stands before a colon for a type


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
    app.connect("missing-reference", _resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
