"""Imports code that a recipe names as `module:name` or `path/to/file.py:name`, and describes its failures."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import sysconfig
import traceback
import zlib
from pathlib import Path
from typing import Any

from sail_rl.paths import expanded

_LIBRARIES = (
    *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    *(Path(__file__).resolve().parents[1] / name for name in ("sail_rl", "rewards", "rollouts")),
)


def resolve(path: str) -> Any:
    """The object that `path` names.

    Raises:
        ValueError: if importing the module or file fails (with the original error), or if it lacks the name (with the
            names that it has).
    """
    module_name, colon, attribute = path.rpartition(":")
    if not colon or not module_name or not attribute:
        raise ValueError(f"{path!r}: give module:name or file.py:name")
    try:
        module = (
            _from_file(expanded(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
        )
    except (Exception, SystemExit) as error:  # user code may raise anything
        raise ValueError(f"{path!r} can't be imported: {described(error)}") from error
    if not hasattr(module, attribute):
        own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
        public = [name for name, value in own.items() if getattr(value, "__module__", None) == module.__name__] or own
        raise ValueError(f"{path!r}: {module_name} has no {attribute!r}; it has {', '.join(sorted(public))}")
    return getattr(module, attribute)


def described(error: BaseException) -> str:
    """An exception's type and message and, if it was raised below user code, the last line of that code.

    For example `KeyError: 'limit' (my_rewards.py, line 7: return table["limit"])`. User code is outside this project
    and outside Python's libraries.
    """
    text = f"{type(error).__name__}: {error}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_user_code(frame.filename)]
    if not frames:
        return text
    file, folder = Path(frames[-1].filename), Path.cwd()
    shown = file.relative_to(folder) if file.is_relative_to(folder) else file
    return f"{text} ({shown}, line {frames[-1].lineno}: {frames[-1].line})"


def code_file(value: Any) -> Path | None:
    """The file that a recipe's value names as `file.py:name`; None for every other value."""
    file, colon, _ = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    return Path(file) if colon and file.endswith(".py") else None


def with_expanded_path(value: Any) -> Any:
    """`file.py:name` with `~` and `$VAR` expanded in the file's path; every other value as it is."""
    file = code_file(value)
    return f"{expanded(file)}:{value.rpartition(':')[2]}" if file else value


def _is_user_code(file: str) -> bool:
    return Path(file).is_file() and not any(Path(file).is_relative_to(folder) for folder in _LIBRARIES)


def _from_file(file: Path) -> Any:
    if not file.is_file():
        raise FileNotFoundError(f"no file {file.resolve()}")
    name = f"sail_rl_user_{file.stem}_{zlib.crc32(str(file.resolve()).encode())}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
