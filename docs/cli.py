"""Writes docs/cli.md, the reference of all commands, from the parsers: `python docs/cli.py`."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from pathlib import Path

from sail_rl.cli.main import make_parser

PAGE = Path(__file__).with_suffix(".md")
HEAD = """# Command line

`python docs/cli.py` writes this page from the parsers. `sail-rl COMMAND --help` prints the same texts, and
`python -m sail_rl` is the same program. A command exits with status 2 after a mistake that the user can fix, with
130 after Ctrl-C and with 143 after SIGTERM.
"""


def reference() -> str:
    """The page: one section for each command, in the order of `sail-rl --help`."""
    return "\n".join([HEAD, *_sections(make_parser(), "")]).rstrip() + "\n"


def _sections(parser: argparse.ArgumentParser, text: str) -> Iterator[str]:
    """The section of a command, then those of its subcommands."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    hidden = (argparse._SubParsersAction, argparse._HelpAction)
    arguments = [action for action in parser._actions if not isinstance(action, hidden)]
    if text:
        yield f"## {parser.prog}\n\n{text[0].upper()}{text[1:]}.\n"
    if arguments:  # the positional ones first
        yield "\n".join(_argument(action) for action in sorted(arguments, key=_is_option)) + "\n"
    for group in groups:
        texts = {choice.dest: choice.help or "" for choice in group._choices_actions}
        for name, command in group.choices.items():
            yield from _sections(command, texts[name])


def _is_option(action: argparse.Action) -> bool:
    return bool(action.option_strings)


def _argument(action: argparse.Action) -> str:
    """A list item for an argument: how it is spelled, and what it means."""
    name = str(action.metavar or (action.dest.upper() if _is_option(action) else action.dest))
    value = "" if action.nargs == 0 else "|".join(map(str, action.choices or [name]))
    spelled = " ".join([*action.option_strings[:1], *([value] if value else [])])
    more = " …" if action.nargs in ("*", "+") else ""
    required = " (required)" if _is_option(action) and action.required else ""
    line = f"- `{spelled}{more}`: {(action.help or '') % vars(action)}{required}"
    return textwrap.fill(line, 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    PAGE.write_text(reference())
