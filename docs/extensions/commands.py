"""The directive `commands`: every command of `metaot` with its arguments, from argparse."""

import argparse
from importlib import import_module

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from metaot.cli import COMMANDS

WIDTH = 78


def parser_of(command: str) -> argparse.ArgumentParser:
    """Return the parser of a command, with everything that it takes."""
    parser = argparse.ArgumentParser(
        prog=f"metaot {command}",
        description=COMMANDS[command],
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=WIDTH),
    )
    import_module(f"metaot.cli.{command}").add_arguments(parser)
    return parser


class Commands(SphinxDirective):
    """A section for each command: what it does, its usage, its arguments."""

    def run(self) -> list[nodes.Node]:
        return [self._section(command) for command in COMMANDS]

    def _section(self, command: str) -> nodes.section:
        parser = parser_of(command)
        section = nodes.section(ids=[f"metaot-{command}"], names=[f"metaot {command}"])
        usage = parser.format_usage().removeprefix("usage: ").rstrip()
        section += nodes.title("", "", nodes.literal("", f"metaot {command}"))
        section += nodes.paragraph("", parser.description or "")
        section += nodes.literal_block(usage, usage, language="text")
        section += self._arguments(parser)
        self.state.document.note_explicit_target(section)
        return section

    def _arguments(self, parser: argparse.ArgumentParser) -> nodes.definition_list:
        listed = nodes.definition_list(classes=["arguments"])
        formatter = parser._get_formatter()
        for action in parser._actions:
            if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
                continue
            named = action.choices and not action.option_strings and not action.metavar
            name = action.dest if named else formatter._format_action_invocation(action)
            words = formatter._expand_help(action) if action.help else ""
            if action.choices and not isinstance(action, argparse._SubParsersAction):
                words = f"{words} One of {', '.join(map(str, action.choices))}.".strip()
            term = nodes.term("", "", nodes.literal("", name))
            listed += nodes.definition_list_item(
                "", term, nodes.definition("", nodes.paragraph("", words.rstrip()))
            )
        return listed


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
