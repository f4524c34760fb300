"""`sail-rl schema`: writes the JSON schema of recipes, for editors."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from sail_rl.files import atomic_write

from .arguments import user_path


def add_parsers(commands: Any) -> None:
    """Add `schema` to the subparsers of the command line."""
    schema = commands.add_parser(
        "schema", help="write the JSON schema of recipes, which editors use to complete and check them"
    )
    schema.add_argument("--out", type=user_path, help="file to write (default: standard output)")
    schema.set_defaults(command=_schema)


def _schema(options: argparse.Namespace) -> None:
    from sail_rl.config.json_schema import recipe_schema

    text = json.dumps(recipe_schema(), indent=1) + "\n"
    if options.out:
        atomic_write(options.out, text)
    else:
        sys.stdout.write(text)
