"""Docstrings of this project as reStructuredText: `code`, links, mathematics in dollars, indented code."""

import re
from collections.abc import Iterator

_CODE = re.compile(r"(?<![`:\w])`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
_MATH = re.compile(r"(?<![\\`$\w])\$([^$\n]+(?:\n[^$\n]+)?)\$(?![\w$])")
_SPECIAL = re.compile(r"(^\s*\* )|[*|]", re.MULTILINE)
"""A star at the beginning of a line makes a list; the other ones, and bars, stand for themselves."""
_MARKED = re.compile(r"``.*?``|:[\w:]+:`[^`]*`", re.DOTALL)


def converted(lines: list[str], public: dict[str, str]) -> list[str]:
    """Return a docstring with code, links and mathematics marked as reStructuredText wants it."""
    return [line for block in _blocks(lines) for line in _marked(block, public)]


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """Split at blank lines; indented code with blank lines inside stays together."""
    block: list[str] = []
    for line in lines:
        blank = not line.strip()
        ended = not blank and not line.startswith("    ") if block and _is_code(block) else blank
        if block and ended:
            yield block
            block = []
        if not blank or block:
            block.append(line)
    if block:
        yield block


def _is_code(block: list[str]) -> bool:
    return block[0].startswith("    ")


def _marked(block: list[str], public: dict[str, str]) -> list[str]:
    if _is_code(block):
        return [".. code-block:: python", "", *"\n".join(block).rstrip().split("\n"), ""]
    text = "\n".join(block)
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        kept.append(match[0])
        return f"\0{len(kept) - 1}\0"

    def code(match: re.Match[str]) -> str:
        words = " ".join(match[1].split())
        name = public.get(words.removesuffix("()"))
        return f":py:obj:`{words} <{name}>`" if name else f"``{words}``"

    text = _CODE.sub(code, text)
    text = _MATH.sub(lambda match: f":math:`{match[1]}`", text)
    text = _MARKED.sub(keep, text)
    text = _SPECIAL.sub(lambda match: match[0] if match[1] else f"\\{match[0]}", text)
    text = re.sub(r"\0(\d+)\0", lambda match: kept[int(match[1])], text)
    return [*text.split("\n"), ""]
