"""The command line: `metaot train | evaluate | export | recolor | fetch | info`, also as `python -m metaot`."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from metaot import __version__

COMMANDS = {
    "train": "Train a meta-model by a recipe, or go on with a run.",
    "evaluate": "Measure a checkpoint on test problems: steps, time and accuracy.",
    "export": "Export a checkpoint to ONNX, which is served without torch.",
    "recolor": "Give a picture the palette of another one: the colours are moved by a transport map.",
    "fetch": "Download data that recipes read.",
    "info": "Show what is installed, and what makes the solver's steps.",
}
"""What each does; its module is imported only when it is used, because some imports take seconds."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; an error of the user's is one line on stderr and exit status 2."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(prog="metaot", description="Meta Optimal Transport")
    parser.add_argument("--version", action="version", version=f"metaot {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if arguments[:1] == [name]:
            module = import_module(f"metaot.cli.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, FileNotFoundError, FloatingPointError, ImportError) as error:
        print(f"metaot: {error}", file=sys.stderr)
        return 2
    return 0
