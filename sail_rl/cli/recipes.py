"""`sail-rl recipes`: lists the shipped recipes, and copies one to edit."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from sail_rl.config.shipped import copy_recipe, shipped_recipes, summary

from .arguments import user_path


def add_parsers(commands: Any) -> None:
    """Add `recipes` with its command to the subparsers of the command line."""
    recipes = commands.add_parser("recipes", help="list the recipes that ship with the package, or copy one to edit")
    recipes.set_defaults(command=_list)
    copy = recipes.add_subparsers(metavar="copy").add_parser(
        "copy", help="copy a recipe, with the recipes that it extends and its custom rewards"
    )
    copy.add_argument("name", help="name of a shipped recipe, such as quickstart")
    copy.add_argument("--out", type=user_path, default=Path(), help="folder to copy into (default: working directory)")
    copy.set_defaults(command=_copy)


def _list(options: argparse.Namespace) -> None:
    recipes = shipped_recipes()
    width = max(map(len, recipes))
    for name, path in recipes.items():
        sys.stdout.write(f"{name:<{width}}  {summary(path)}\n")


def _copy(options: argparse.Namespace) -> None:
    for path in copy_recipe(options.name, options.out):
        sys.stdout.write(f"{path}\n")
