"""Settings of recipes, data and networks: what is refused, what each means, and names that are near."""

import ast
import difflib
import inspect
import math
import re
import textwrap
from collections.abc import Iterable
from dataclasses import is_dataclass
from functools import cache
from typing import Any

_ARGUMENT = re.compile(r"(\w+): (.*)")


def require_whole(least: int, **values: Any) -> None:
    """Raise ValueError unless each value is a whole number of at least `least`."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def require_positive(**values: Any) -> None:
    """Raise ValueError unless each value is a positive, finite number."""
    for name, value in values.items():
        if not (_is_number(value) and 0 < value < math.inf):
            raise ValueError(f"{name} must be positive and finite, got {value!r}")


def require_share(**values: Any) -> None:
    """Raise ValueError unless each value lies between 0 and 1, both included."""
    for name, value in values.items():
        if not (_is_number(value) and 0 <= value <= 1):
            raise ValueError(f"{name} must lie between 0 and 1, got {value!r}")


def require_eps(eps: Any) -> None:
    """Raise ValueError unless `eps` is a range of temperatures, (lowest, highest)."""
    pair = tuple(eps) if isinstance(eps, tuple | list) else ()
    if len(pair) != 2 or not all(_is_number(bound) and 0 < bound < math.inf for bound in pair):
        raise ValueError(f"eps must be (lowest, highest), positive and finite, got {eps!r}")
    if pair[0] > pair[1]:
        raise ValueError(f"eps must be (lowest, highest), got {eps!r}: exchange them")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def near(name: str, names: Iterable[str]) -> str | None:
    """Return that of `names`, such as "data.batch", which is meant by "batch" or by a slip of the pen."""
    ends: dict[str, str] = {}
    for other in names:
        ends.setdefault(other.rpartition(".")[2], other)
    last = name.rpartition(".")[2]
    if last in ends:
        return ends[last]
    whole = difflib.get_close_matches(name, names, 1)
    return (whole or [ends[end] for end in difflib.get_close_matches(last, ends, 1)] or [None])[0]


def unknown(name: str, names: Iterable[str]) -> str:
    """Return words on a setting that is none of `names`: which one is near, and which there are."""
    guess = near(name, names := sorted(names))
    return f"no setting {name!r}{f' (did you mean {guess!r}?)' if guess else ''}; there are {names}"


@cache
def meanings(kind: type) -> dict[str, str]:
    """Return what each setting of a class means, in the words of its source.

    The fields of a dataclass are described by the strings below them, the arguments of another class in its
    section "Args:".
    """
    return _of_fields(kind) if is_dataclass(kind) else _of_arguments(inspect.getdoc(kind) or "")


def _of_fields(kind: type) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
            found[field.target.id] = inspect.cleandoc(ast.literal_eval(after.value)).replace("\n", " ")
    return found


def _of_arguments(docstring: str) -> dict[str, str]:
    _, _, section = docstring.partition("\nArgs:\n")
    found: dict[str, str] = {}
    for line in textwrap.dedent(section.split("\n\n")[0]).splitlines():
        start = _ARGUMENT.fullmatch(line)
        if start:
            found[start[1]] = start[2]
        elif found:
            found[[*found][-1]] += f" {line.strip()}"
    return found
