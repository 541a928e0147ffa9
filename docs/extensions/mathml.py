"""Mathematics as MathML, written when the site is built: no script, no network, and every browser shows it."""

import re

from docutils.nodes import Element, SkipNode
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

_ANGLE = re.compile("<mo>(?=[⟨⟩‖∥|\u2223])")
_logger = logging.getLogger(__name__)


def _markup(node: Element, *, as_block: bool) -> str:
    try:
        found = tex2mathml(node.astext(), as_block=as_block)
        return _ANGLE.sub('<mo stretchy="false">', found)  # as tall as what stands between them, not as the line
    except MathError as error:
        _logger.warning("mathematics that docutils cannot read: %s (%s)", node.astext(), error, location=node)
        return f"<code>{node.astext()}</code>"


def _inline(visitor: object, node: Element) -> None:
    visitor.body.append(_markup(node, as_block=False))  # type: ignore[attr-defined]
    raise SkipNode


def _display(visitor: object, node: Element) -> None:
    visitor.body.append(f'<div class="math">{_markup(node, as_block=True)}</div>')  # type: ignore[attr-defined]
    raise SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
