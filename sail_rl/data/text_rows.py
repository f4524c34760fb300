"""The rows of JSON, JSON-lines and CSV files with exactly the values that are written there.

A column may have values of several types, and texts that look like dates stay texts; Arrow would convert both.
"""

from __future__ import annotations

import csv
import io
import json
import math
import mmap
import re
import sys
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

Row = dict[str, Any]
Content = bytes | mmap.mmap
LINE = re.compile(rb"[^\r\n]+")
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""An escaped half of a UTF-16 pair. Two halves are one character."""
HALF = re.compile("[\ud800-\udfff]")
"""A half without the other one, which no encoding can write."""
SHOWN = 60  # characters of a wrong value in an error


class TextRows(Sequence[Row]):
    """Rows as JSON texts, which are parsed when they are read. A row without a column has None there.

    Args:
        content: the JSON texts.
        spans: the start and end of each row in `content`, in turn.
        keys: the key in the JSON texts of each column.
    """

    def __init__(self, content: Content, spans: array[int], keys: Mapping[str, str]) -> None:
        self._content, self._spans, self._keys = content, spans, dict(keys)

    @property
    def column_names(self) -> list[str]:
        """The names of all columns, in the order in which the file first has them."""
        return list(self._keys)

    def __len__(self) -> int:
        return len(self._spans) // 2

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        row = json.loads(self._content[self._spans[2 * index] : self._spans[2 * index + 1]])
        return {name: row.get(key) for name, key in self._keys.items()}

    def remove_columns(self, names: Collection[str]) -> TextRows:
        """The rows without these columns."""
        kept = {name: key for name, key in self._keys.items() if name not in names}
        return TextRows(self._content, self._spans, kept)

    def rename_column(self, old: str, new: str) -> TextRows:
        """The rows with another name for one column."""
        keys = {new if name == old else name: key for name, key in self._keys.items()}
        return TextRows(self._content, self._spans, keys)


def json_rows(content: Content) -> TextRows:
    """The rows of a file with one JSON object a line, or with one list of objects.

    Raises:
        ValueError: names the row, and the line or the field, of what isn't JSON: also repeated keys, NaN, and halves of
            surrogate pairs. Says what the file is if it is of another kind.
    """
    start = re.search(rb"\S", content)
    if content[:4] in (b"PAR1", b"ARRO"):
        raise ValueError("the file is Parquet or Arrow, not JSON; let its name end in .parquet or .arrow")
    if start and start.group() == b"[":
        return _from_texts(_listed(_decoded(content[:])))
    spans, keys = array("Q"), dict[str, str]()
    for number, line, found in _lines(content):
        try:
            keys |= {key: key for key in _parsed(_decoded(found.group()))}
        except ValueError as error:
            whole = "" if number else _one_object(content[:])
            raise ValueError(f"row {number} (line {line}): {whole or error}") from None
        spans.extend(found.span())
    return TextRows(content, spans, keys)


def csv_rows(content: Content, delimiter: str) -> TextRows:
    """The rows of a CSV file whose first line names the columns. All values are texts; an empty one is None.

    Raises:
        ValueError: names the line of what can't be read, such as a row with too many values.
    """
    limit = csv.field_size_limit(sys.maxsize)  # a picture in base64 is longer than the module's limit
    try:
        return _from_texts(_from_csv(csv.reader(io.StringIO(_decoded(content[:]), newline=""), delimiter=delimiter)))
    finally:
        csv.field_size_limit(limit)


def in_utf8(content: Content) -> Content:
    """The content in UTF-8 without a byte order mark, if it is UTF-16 or UTF-32; UTF-8 isn't checked.

    Raises:
        ValueError: it looks like UTF-16 or UTF-32, but isn't.
    """
    encoding = json.detect_encoding(content[:4])
    if encoding in ("utf-8", "utf-8-sig"):
        return content if encoding == "utf-8" else content[3:]
    try:
        return content[:].decode(encoding).encode()
    except UnicodeError as error:
        raise ValueError(f"the text is neither UTF-8 nor {encoding.upper()}: {error}") from None


def _lines(content: Content) -> Iterator[tuple[int, int, re.Match[bytes]]]:
    """Each line that isn't blank, with its row number from 0 and its line number from 1."""
    row, line, end = 0, 1, 0
    for found in LINE.finditer(content):
        between = content[end : found.start()]
        line += between.count(b"\n") or between.count(b"\r")
        end = found.end()
        if found.group().strip():
            yield row, line, found
            row += 1


def _one_object(content: bytes) -> str:
    """What is wrong with a file that is one JSON object over many lines; empty for any other file."""
    try:
        keys = ", ".join(_parsed(_decoded(content)))
    except ValueError:
        return ""
    return f"the file is one object with {keys:.{SHOWN}}; give a list of objects, or each object on a line of its own"


def _listed(text: str) -> Iterator[tuple[str, Iterable[str]]]:
    """The JSON text of each object of a list, and its keys."""
    decoder, number, position = json.JSONDecoder(), 0, text.index("[") + 1
    while True:
        position = _after_space(text, position)
        if not number and text[position : position + 1] == "]":
            break
        try:
            _, end = decoder.raw_decode(text, position)
            item = text[position:end]
            yield item, _parsed(item)
        except (ValueError, RecursionError) as error:
            at = error.pos if isinstance(error, json.JSONDecodeError) else position
            reason = _not_json(error) if isinstance(error, json.JSONDecodeError | RecursionError) else error
            raise ValueError(f"row {number} (line {_line(text, at)}): {reason}") from None
        number, position = number + 1, _after_space(text, end)
        if text[position : position + 1] != ",":
            break
        position += 1
    if text[position : position + 1] != "]" or text[position + 1 :].strip():
        where = f"after row {number - 1} (line {_line(text, position)})"
        raise ValueError(f"{where}: the list has no end, or something follows it")


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _after_space(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\t", "\n", "\r"):
        position += 1
    return position


def _from_csv(lines: Any) -> Iterator[tuple[str, Iterable[str]]]:
    """The JSON text of each line after the first, and the columns."""
    number = 0
    try:
        columns: list[str] = next(lines, [])
        if repeated := [name for name in columns if columns.count(name) > 1 or not name]:
            raise ValueError(f"line 1: the column {repeated[0]!r:.{SHOWN}} is empty or named twice; name each once")
        for values in filter(None, lines):
            if len(values) != len(columns):
                where = f"row {number} (line {lines.line_num})"
                raise ValueError(f"{where}: {len(values)} values for {len(columns)} columns; quote values with commas")
            yield json.dumps(dict(zip(columns, (value or None for value in values), strict=True))), columns
            number += 1
    except csv.Error as error:
        raise ValueError(f"row {number} (line {lines.line_num}): {error}") from None


def _from_texts(rows: Iterable[tuple[str, Iterable[str]]]) -> TextRows:
    content, spans, keys = bytearray(), array("Q"), dict[str, str]()
    for text, found in rows:
        start = len(content)
        content += text.encode()
        spans.extend((start, len(content)))
        keys |= {key: key for key in found}
    return TextRows(bytes(content), spans, keys)


def _decoded(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        where = f"line {line}: " if line > 1 else ""
        raise ValueError(
            f"{where}not UTF-8: byte 0x{content[error.start]:02x} at position {error.start}; save the file as UTF-8"
        ) from None


def _parsed(text: str) -> Row:
    """The object of a JSON text; ValueError for anything but strict JSON without repeated keys."""
    try:
        row = json.loads(text, object_pairs_hook=_with_unique_keys, parse_constant=_no_number, parse_float=_finite)
    except _NotFiniteError as error:
        raise ValueError(
            f"{_field(json.loads(text), _is_infinite)} is {error}, which is no number; write null"
        ) from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(_not_json(error)) from None
    if not isinstance(row, dict):
        raise ValueError(f"{type(row).__name__} instead of an object")
    if SURROGATE.search(text) and (field := _field(row, _is_no_text)):
        raise ValueError(f"{field} has half of a surrogate pair, which is no character; remove it")
    return row


def _not_json(error: Exception) -> str:
    if not isinstance(error, json.JSONDecodeError):
        return "the value is nested too deeply"
    hint = "; a line holds one object" if error.msg == "Extra data" else ""
    return f"not JSON: {error.msg}, column {error.colno}{hint}"


class _NotFiniteError(Exception):
    """NaN, Infinity, -Infinity or a number that is too large for a float."""


def _no_number(name: str) -> None:
    raise _NotFiniteError(name)


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise _NotFiniteError(f"{digits:.{SHOWN}}")
    return value


def _with_unique_keys(pairs: list[tuple[str, Any]]) -> Row:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r:.{SHOWN}} is there twice; keep one")
    return made


def _field(value: Any, wrong: Callable[[Any], bool], path: str = "") -> str:
    """The path, such as 'messages.0.content', of the first value or key that is `wrong`; empty if none is."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if found := repr(f"{path}{key}") if wrong(key) else _field(item, wrong, f"{path}{key}."):
                return found
        return ""
    return repr(path.rstrip(".")) if wrong(value) else ""


def _is_infinite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _is_no_text(value: Any) -> bool:
    return isinstance(value, str) and bool(HALF.search(value))
