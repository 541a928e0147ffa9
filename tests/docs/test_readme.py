"""The README: short, true, and every command and line of code in it runs."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.tables import TABLES
from metaot.cli import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PROGRAMS = ("pip", "make", "python", "metaot")
SHORTER = {
    "train": ["--quiet", "--set", "steps=2", "--set", "data.batch=4"],
    "evaluate": ["--instances", "2", "--seconds", "0"],
    "export": [],
}
"""What a command is given beside what the README says, so that it takes seconds."""


def blocks() -> Iterator[tuple[str, str]]:
    """Yield the code blocks in order: fenced ones as python, indented ones as text."""
    for fenced, indented in re.findall(r"```python\n(.*?)```|((?:^    .*\n)+)", README, re.DOTALL | re.MULTILINE):
        yield ("python", fenced) if fenced else ("text", re.sub(r"^    ", "", indented, flags=re.MULTILINE))


def commands() -> list[list[str]]:
    """Return the commands of indented blocks, in words."""
    lines = [line for kind, text in blocks() if kind == "text" for line in text.splitlines()]
    return [words for words in map(words_of_command, lines) if words and words[0] in PROGRAMS]


def words_of_command(line: str) -> list[str]:
    return line.partition("#")[0].split()


def test_it_is_one_page() -> None:
    assert len(README.splitlines()) <= 110


@pytest.mark.parametrize("name", ["readme-own", "readme-model", "readme-peers"])
def test_its_tables_are_made_of_the_results(name: str) -> None:
    assert TABLES[name]().markdown() in README


def test_its_other_commands_exist() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]
    others = [each for each in commands() if each[0] in ("pip", "make")]
    assert others
    for program, *words in others:
        assert words[0] in targets if program == "make" else words == ["install", package]


def test_its_code_and_its_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ot")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    printed = ""
    for kind, text in blocks():
        if kind == "python":
            capsys.readouterr()
            exec(compile(text, "README.md", "exec"), names)
            printed = capsys.readouterr().out
        elif text.split()[0] in ("python", "metaot"):
            for program, *words in map(words_of_command, text.splitlines()):
                command, *arguments = [Path(words[0]).stem, *words[1:]] if program == "python" else words
                assert main([command, *arguments, *SHORTER[command]]) == 0
        elif text.split()[0] not in PROGRAMS:
            assert shape_of(printed) == shape_of(text)


def shape_of(text: str) -> list[str]:
    """Return a text with every number replaced by the same sign: machines differ in the last steps and digits."""
    return re.sub(r"\d+(\.\d+)?(e[-+]?\d+)?", "#", text).split()
