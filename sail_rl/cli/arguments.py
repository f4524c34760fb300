"""Types of command-line arguments."""

from __future__ import annotations

import argparse
from pathlib import Path

from sail_rl.paths import PathError, expanded


def user_path(text: str) -> Path:
    """A path, with `~` and `$VAR` expanded also where the shell doesn't, as in `--out=~/x`."""
    try:
        return expanded(text)
    except PathError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
