"""The command line: `metaot train | evaluate | export | recolor | fetch`, also as `python -m metaot`."""

import argparse
import sys
from collections.abc import Sequence

from metaot import __version__
from metaot.cli import evaluate, export, fetch, recolor, train

COMMANDS = {"train": train, "evaluate": evaluate, "export": export, "recolor": recolor, "fetch": fetch}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; an error of the user's is one line on stderr and exit status 2."""
    parser = argparse.ArgumentParser(prog="metaot", description="Meta Optimal Transport")
    parser.add_argument("--version", action="version", version=f"metaot {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, FileNotFoundError, FloatingPointError, ImportError) as error:
        print(f"metaot: {error}", file=sys.stderr)
        return 2
    return 0
