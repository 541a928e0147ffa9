"""Damaged files: single changes at random places, and what may come of them."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

CHANGES = 200


def changed(content: bytes, count: int = CHANGES, seed: int = 0) -> Iterator[bytes]:
    """Yield the content with one change each: a bit, a byte, a cut end, bytes put in, or bytes left out."""
    draw = random.Random(seed)
    for k in range(count):
        place, few = draw.randrange(len(content)), draw.randrange(1, 9)
        if k % 5 == 0:
            middle, rest = bytes([content[place] ^ 1 << draw.randrange(8)]), place + 1
        elif k % 5 == 1:
            middle, rest = bytes([(content[place] + draw.randrange(1, 256)) % 256]), place + 1
        elif k % 5 == 2:
            middle, rest = b"", len(content)
        elif k % 5 == 3:
            middle, rest = draw.randbytes(few), place
        else:
            middle, rest = b"", place + few
        yield content[:place] + middle + content[rest:]


def require_no_silent_change(file: Path, answer: Callable[[], np.ndarray], count: int = CHANGES) -> int:
    """Assert that each change of a file is refused by its name, or changes no number; return how many were."""
    whole, expected, refused = file.read_bytes(), answer(), 0
    for content in changed(whole, count):
        file.write_bytes(content)
        found, message = _tried(answer)
        if message:
            assert str(file) in message, message
            refused += 1
        else:
            np.testing.assert_array_equal(found, expected)
    file.write_bytes(whole)
    return refused


def _tried(answer: Callable[[], np.ndarray]) -> tuple[np.ndarray | None, str]:
    try:
        return answer(), ""
    except ValueError as error:
        return None, str(error)
