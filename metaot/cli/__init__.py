"""The command line: `metaot COMMAND`, also as `python -m metaot`; `COMMANDS` lists the commands."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from metaot import __version__

COMMANDS = {
    "solve": "Solve one problem: two pictures, arrays or point files in; cost, bounds and pictures out.",
    "train": "Train a meta-model by a recipe, or go on with a run.",
    "evaluate": "Measure a checkpoint on test problems: steps, time and accuracy.",
    "export": "Export a checkpoint to ONNX, which is served without torch.",
    "recolor": "Give a picture the palette of another one: the colours are moved by a transport map.",
    "push": "Upload a checkpoint to the Hugging Face Hub, with a page that describes it.",
    "fetch": "Download data that recipes read.",
    "info": "Show what is installed, and what makes the solver's steps.",
}
"""What each does; its module is imported only when it is used, because some imports take seconds."""

WRONG, INTERRUPTED, NO_READER = 2, 130, 141
"""Exit statuses: something is wrong that the user can mend; Ctrl-C; nobody reads what is printed."""

_USERS = (ValueError, OSError, FloatingPointError, ImportError, MemoryError)
"""Errors whose message is for the user; others are ours, and shown with their traceback."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; what a user can mend is one line on stderr and exit status 2."""
    try:
        status = _run(sys.argv[1:] if arguments is None else list(arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more
        return NO_READER
    except KeyboardInterrupt:
        return _said("interrupted", INTERRUPTED)
    except _USERS as error:
        return _said(_words(error), WRONG)
    except RuntimeError as error:
        if "memory" not in str(error):  # torch has no MemoryError
            raise
        return _said(_words(error), WRONG)
    return status


def _run(arguments: list[str]) -> int:
    try:
        options = _parsed(arguments)
    except SystemExit as done:  # --help, --version
        return int(done.code or 0)
    options.run(options)
    return 0


def _parsed(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(prog="metaot", description="Meta Optimal Transport")
    parser.add_argument("--version", action="version", version=f"metaot {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if arguments[:1] == [name]:
            module = import_module(f"metaot.cli.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
            if {"-h", "--help"} & set(arguments) and hasattr(module, "epilog"):
                command.formatter_class = argparse.RawDescriptionHelpFormatter
                command.epilog = module.epilog(arguments[1:])
    return parser.parse_args(arguments)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are raised, to be printed as all others are."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}: see {self.prog} --help")


def _words(error: BaseException) -> str:
    """Return the message of an error in one line."""
    if isinstance(error, OSError) and error.strerror:
        files = [str(file) for file in (error.filename, error.filename2) if file is not None]
        return ": ".join([" and ".join(files), error.strerror.lower()] if files else [error.strerror.lower()])
    if isinstance(error, MemoryError) and not str(error):
        return "there is not enough memory"
    return " ".join(str(error).split()) or type(error).__name__


def _said(words: str, status: int) -> int:
    print(f"metaot: {words}", file=sys.stderr)
    return status
