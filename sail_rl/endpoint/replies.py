"""Replies of judges: the requested JSON schema, and parsing a verdict from a message."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sail_rl.completion import THINK_END

from .errors import CallFailedError

SHOWN = 200  # characters of a message that an error shows


class Verdict(BaseModel):
    """A judge's answer; the descriptions of its fields reach the judge in the prompt and in the schema."""

    model_config = ConfigDict(extra="forbid", frozen=True)


V = TypeVar("V", bound=Verdict)


def response_format(verdict: type[Verdict]) -> dict[str, Any]:
    """The `response_format` of a request: the verdict's strict JSON schema."""
    schema = {"name": verdict.__name__, "strict": True, "schema": verdict.model_json_schema()}
    return {"type": "json_schema", "json_schema": schema}


def parse_verdict(message: str, verdict: type[V]) -> V:
    """The verdict in a judge's message.

    The verdict must be the only non-empty JSON object in the message; prose around it is ignored, because not every
    endpoint constrains its output. A thought before the last `</think>` is ignored, too.

    Raises:
        CallFailedError: if there is no such object, or if it isn't a valid verdict; a retry may help.
    """
    spoken = message.rpartition(THINK_END)[2]
    objects = _json_objects(spoken)
    if len(objects) != 1:
        raise CallFailedError(f"the judge's message has {len(objects)} JSON objects instead of one: {spoken[:SHOWN]!r}")
    try:
        return verdict.model_validate_json(objects[0])
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise CallFailedError(f"no {verdict.__name__} in the judge's message {spoken[:SHOWN]!r}: {problems}") from None


def _json_objects(text: str) -> list[str]:
    """The JSON texts of the outermost objects, in order, without empty ones and those that repeat a field."""
    decoder = json.JSONDecoder(object_pairs_hook=_fields)
    found, start = [], text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):  # a brace that opens no JSON object
            end = start + 1
        else:
            if value:
                found.append(text[start:end])
        start = text.find("{", end)
    return found


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(fields := dict(pairs)) != len(pairs):
        raise ValueError("a field appears twice")
    return fields
