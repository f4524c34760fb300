"""What a recipe may say about a judge: its endpoint, limits, cache, prices, and what happens when it stays down."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

OURS = {"model", "messages", "response_format", "temperature", "max_tokens", "n", "stream"}
"""Fields of a request that `extra_body` can't give: they have a home here, or replies couldn't be read."""


class JudgeSettings(BaseModel):
    """Settings of one judge. All limits hold for one process: with R ranks the endpoint sees up to R times as much."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: str
    """Address of an OpenAI-compatible API, up to and including its version: `http://127.0.0.1:8000/v1`."""
    model: str = Field(min_length=1)
    api_key_env: str | None = None
    """Environment variable that holds the key (never the key itself); None for an endpoint that needs none."""

    temperature: float | None = Field(default=0.0, ge=0)
    """None: not sent (some reasoning models refuse it)."""
    max_tokens: int | None = Field(default=1024, ge=1)
    """Tokens of a reply, a reasoning model's thought included; None: not sent."""
    structured_output: bool = True
    """Send the verdict's JSON schema as `response_format`; False for an endpoint that refuses it."""
    extra_body: dict[str, Any] = {}
    """Further fields of every request, such as `{chat_template_kwargs: {enable_thinking: false}}`."""
    max_image_side: int = Field(default=1024, ge=28)
    """Pixels; pictures whose longer side is longer are scaled down for the judge."""

    concurrency: int = Field(default=16, ge=1)
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)
    """Prompt and completion; estimated before a call (`limits.estimate_tokens`), corrected after it."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Seconds that one call may take from sending to the last byte of its reply."""
    batch_timeout_s: float = Field(default=900.0, gt=0)
    """Seconds that all calls for one batch may take together, retries and waiting included."""
    max_attempts: int = Field(default=5, ge=1)
    backoff_s: float = Field(default=1.0, gt=0)
    """Mean wait before the first retry; it doubles with each, up to `max_backoff_s`, with jitter."""
    max_backoff_s: float = Field(default=30.0, gt=0)
    breaker_failures: int = Field(default=3, ge=1)
    """Requests in a row that the endpoint didn't answer in any attempt, after which the rest fail at once."""
    breaker_pause_s: float = Field(default=60.0, gt=0)
    """Seconds until one call tries an endpoint that was given up."""
    on_failure: Literal["fail", "none", "zero"] = "fail"
    """When there is no verdict after all retries: stop the run, or count None or 0 (logged and counted)."""

    cache: Path | None = None
    """SQLite file of verdicts, shared by processes of one machine; None: verdicts are not kept."""
    prompt_price: float | None = Field(default=None, ge=0)
    """Price of a million prompt tokens, in any currency."""
    completion_price: float | None = Field(default=None, ge=0)

    @field_validator("base_url")
    @classmethod
    def _address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{value!r} is no address; write http://HOST:PORT/v1 or https://HOST/v1")
        if parts.username or parts.password:
            raise ValueError("holds a user or password; put the key into an environment variable, named by api_key_env")
        if parts.path.rstrip("/").endswith("/chat/completions"):
            raise ValueError(f"{value!r}: leave out /chat/completions, it is added")
        return value

    @field_validator("extra_body")
    @classmethod
    def _no_fields_of_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        if clash := sorted(OURS & set(value)):
            raise ValueError(f"can't hold {', '.join(clash)}: these are set elsewhere, or a verdict couldn't be read")
        return value

    @model_validator(mode="after")
    def _both_prices(self) -> JudgeSettings:
        if (self.prompt_price is None) != (self.completion_price is None):
            raise ValueError("prompt_price and completion_price: give both, or neither")
        return self

    def api_key(self) -> str | None:
        """The key from the environment.

        Raises:
            ValueError: when the variable isn't set.
        """
        if self.api_key_env is None:
            return None
        if not (key := os.environ.get(self.api_key_env)):
            raise ValueError(
                f"api_key_env is {self.api_key_env}, but that environment variable is not set; export it, or leave "
                "api_key_env out if the endpoint needs no key"
            )
        return key
