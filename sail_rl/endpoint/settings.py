"""A judge's settings in a recipe: endpoint, limits, cache, prices, and the behaviour when it fails."""

from __future__ import annotations

import os
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sail_rl.paths import UserPath

RESERVED = {"model", "messages", "response_format", "temperature", "max_tokens", "n", "stream"}
"""Request fields that `extra_body` can't set: other settings define them, or replies would become unreadable."""


class JudgeSettings(BaseModel):
    """Settings of one judge. All limits apply per process: with R ranks, the endpoint may see R times as much."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: str
    """Address of an OpenAI-compatible API up to its version, such as `http://127.0.0.1:8000/v1`."""
    model: str = Field(min_length=1)
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; None for an endpoint that needs no key."""

    temperature: float | None = Field(default=0.0, ge=0)
    """None omits the field, which some reasoning models refuse."""
    max_tokens: int | None = Field(default=1024, ge=1)
    """Longest reply in tokens, including a reasoning model's thought; None omits the field."""
    structured_output: bool = True
    """Whether to send the verdict's JSON schema as `response_format`; set False for an endpoint that refuses it."""
    extra_body: dict[str, Any] = {}
    """Further fields of every request, such as `{chat_template_kwargs: {enable_thinking: false}}`."""
    max_image_side: int = Field(default=1024, ge=28)
    """Pixels of the longer side above which pictures are scaled down for the judge."""

    concurrency: int = Field(default=16, ge=1)
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)
    """Prompt and completion tokens, estimated before a call (`limits.estimate_tokens`) and corrected after it."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Time limit of one call, from the request to the last byte of the reply."""
    batch_timeout_s: float = Field(default=900.0, gt=0)
    """Time limit of all calls for one batch, including retries and waiting."""
    max_attempts: int = Field(default=5, ge=1)
    backoff_s: float = Field(default=1.0, gt=0)
    """Mean wait before the first retry; it doubles with each retry up to `max_backoff_s`, with jitter."""
    max_backoff_s: float = Field(default=30.0, gt=0)
    breaker_failures: int = Field(default=3, ge=1)
    """Number of unanswered requests in a row after which further ones fail at once."""
    breaker_pause_s: float = Field(default=60.0, gt=0)
    """Seconds after which one call tries such an endpoint again."""
    on_failure: Literal["fail", "none", "zero"] = "fail"
    """Without a verdict after all retries: stop the run, or score None or 0, which is logged and counted."""

    cache: UserPath | None = None
    """SQLite file of verdicts, shared by all processes of one machine; None keeps no verdicts."""
    prompt_price: float | None = Field(default=None, ge=0)
    """Price of a million prompt tokens, in any currency."""
    completion_price: float | None = Field(default=None, ge=0)

    @field_validator("base_url")
    @classmethod
    def _address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{value!r} isn't an address; write http://HOST:PORT/v1 or https://HOST/v1")
        if parts.username or parts.password:
            raise ValueError(
                "contains a user name or password; put the key into an environment variable and name it in api_key_env"
            )
        if parts.path.rstrip("/").endswith("/chat/completions"):
            raise ValueError(f"{value!r}: leave out /chat/completions, which is added automatically")
        return value

    @field_validator("extra_body")
    @classmethod
    def _no_reserved_fields(cls, value: dict[str, Any]) -> dict[str, Any]:
        if clash := sorted(RESERVED & set(value)):
            raise ValueError(
                f"can't set {', '.join(clash)}: other settings define these, or replies would become unreadable"
            )
        return value

    @model_validator(mode="after")
    def _both_prices(self) -> JudgeSettings:
        if (self.prompt_price is None) != (self.completion_price is None):
            raise ValueError("prompt_price and completion_price: give both or neither")
        return self

    def api_key(self) -> str | None:
        """The key from the environment.

        Raises:
            ValueError: if the variable isn't set.
        """
        if self.api_key_env is None:
            return None
        if not (key := os.environ.get(self.api_key_env)):
            raise ValueError(
                f"api_key_env is {self.api_key_env}, but that environment variable is not set; export it, or leave "
                "api_key_env out if the endpoint needs no key"
            )
        return key
