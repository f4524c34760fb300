"""The command line `sail-rl`: parses the arguments, runs one command, and turns a user's mistakes into one line."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
import warnings
from collections.abc import Sequence

from .interrupts import Interrupts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status, which is 2 after a mistake of the user, explained on standard error.

    Without `arguments` it is the command line of this process, which Ctrl-C and SIGTERM end with two lines and the
    status 130 or 143.
    """
    interrupts = Interrupts()
    if arguments is None and threading.current_thread() is threading.main_thread():
        interrupts.watch()
    try:
        return _run(arguments, interrupts)
    except ValueError as error:
        if interrupts.received:
            interrupts.end()
        logging.getLogger("sail_rl").debug("traceback", exc_info=True)
        sys.stderr.write(f"sail-rl: {error}\n")
        return 2
    except BaseException:  # whatever an interrupted library has made of the interrupt
        if interrupts.received:
            interrupts.end()
        raise


def _run(arguments: Sequence[str] | None, interrupts: Interrupts) -> int:
    """Parse the arguments and run the command."""
    parser = make_parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse stops collecting overrides at an option such as --fresh
    if rest and (any(word.startswith("-") for word in rest) or not hasattr(options, "overrides")):
        parser.error(f"unrecognised arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    if hasattr(options, "saved"):
        interrupts.explain = lambda: options.saved(options)
    _configure_logging()
    return options.command(options) or 0


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; each group adds its own."""
    from . import data, model, moe, recipes, reward, rollouts, runs, schema
    from . import eval as evaluate

    parser = argparse.ArgumentParser(prog="sail-rl", description="Post-train SAIL-VL2 into a model that thinks.")
    commands = parser.add_subparsers(required=True)
    for group in (runs, recipes, schema, evaluate, rollouts, data, reward, model, moe):
        group.add_parsers(commands)
    return parser


def _configure_logging() -> None:
    """Plain lines on standard error; libraries log only errors, unless the user's environment says otherwise."""
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
    quiet |= {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    rank = os.environ.get("RANK", "0")  # rank 0 logs for the job; other ranks log warnings only
    level, who = (logging.INFO, "") if rank == "0" else (logging.WARNING, f" rank {rank}:")
    logging.basicConfig(level=level, format=f"%(asctime)s{who} %(message)s", datefmt="%H:%M:%S")
    for name in ("DeepSpeed", "transformers", "datasets", "accelerate", "vllm", "torch", "httpx", "filelock"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")
