"""Asks an OpenAI-compatible endpoint for verdicts, with rate limits, retries, time limits, a cache and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import openai
from pydantic import BaseModel, Field, ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_random_exponential

from .cache import OpenCache, VerdictCache
from .errors import CallFailedError, JudgeError, JudgeRefusedError
from .limits import Breaker, Pace, estimate_tokens
from .metrics import JudgeMetrics
from .replies import Verdict, parse_verdict, response_format
from .requests import Request, messages, request_key
from .settings import JudgeSettings

logger = logging.getLogger(__name__)

NONCE_BYTES = 8
WRONG_SETUP = {401: "the key (api_key_env)", 404: "the model's name or base_url"}
RETRYABLE = {408, 409, 425}  # besides 429 and all statuses from 500
SHOWN = 300  # characters of a reply that an error shows


class JudgeClient:
    """Asks one endpoint for verdicts, from one thread at a time; limits and the circuit breaker span batches.

    Raises:
        ValueError: if the key's environment variable isn't set, or the cache file can't be used.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self.settings = settings
        self.metrics = JudgeMetrics()
        self._key = settings.api_key()
        self._cache = VerdictCache(settings.cache) if settings.cache else None
        self._requests, self._tokens = Pace(settings.requests_per_minute), Pace(settings.tokens_per_minute)
        self._breaker = Breaker(settings.breaker_failures, settings.breaker_pause_s)
        self._backoff = wait_random_exponential(multiplier=2 * settings.backoff_s, max=settings.max_backoff_s)

    async def ask(self, requests: Sequence[Request]) -> list[Verdict | JudgeError]:
        """The verdict on each request in order, or the error that prevented it; equal requests are sent once.

        Raises:
            JudgeError: at the first request without a verdict, if `on_failure` is "fail"; cancels the other requests.
            JudgeRefusedError: if the endpoint, key or model is wrong.
        """
        keys = [request_key(request, self._parameters(request)) for request in requests]
        unique = dict(zip(keys, requests, strict=True))
        self.metrics.requests += len(keys)
        self.metrics.duplicates += len(keys) - len(unique)
        with self._cache.open() if self._cache else contextlib.nullcontext() as cache:
            known = cache.get(list(unique)) if cache else {}
            outcomes: dict[str, Verdict | JudgeError] = {
                key: unique[key].verdict.model_validate_json(text) for key, text in known.items()
            }
            self.metrics.cache_hits += len(known)
            todo = {key: request for key, request in unique.items() if key not in known}
            if todo:
                outcomes |= await self._ask_all(todo, cache)
        return [outcomes[key] for key in keys]

    async def _ask_all(self, todo: Mapping[str, Request], cache: OpenCache | None) -> dict[str, Verdict | JudgeError]:
        """Send all requests concurrently, within the limits; cancel unfinished ones at the batch's time limit."""
        slots = asyncio.Semaphore(self.settings.concurrency)
        # Without a key we pass a placeholder: openai would otherwise send OPENAI_API_KEY to this endpoint.
        async with openai.AsyncOpenAI(
            base_url=self.settings.base_url, api_key=self._key or "none", max_retries=0, timeout=self.settings.timeout_s
        ) as api:
            tasks = {
                key: asyncio.create_task(self._ask_one(api, slots, key, request, cache))
                for key, request in todo.items()
            }
            try:
                await asyncio.wait(
                    tasks.values(), timeout=self.settings.batch_timeout_s, return_when=asyncio.FIRST_EXCEPTION
                )
            finally:
                finished = {key for key, task in tasks.items() if task.done()}
                for task in tasks.values():
                    task.cancel()
                await asyncio.gather(*tasks.values(), return_exceptions=True)
        for key in finished:
            if (error := tasks[key].exception()) is not None:
                raise error
        late = JudgeError(
            f"{len(tasks) - len(finished)} of {len(tasks)} requests to {self._name} had no verdict after "
            f"{self.settings.batch_timeout_s:g} s; raise batch_timeout_s, concurrency or the rate limits"
        )
        self.metrics.failures += len(tasks) - len(finished)
        if len(finished) < len(tasks) and self.settings.on_failure == "fail":
            raise late
        return {key: task.result() if key in finished else late for key, task in tasks.items()}

    async def _ask_one(
        self, api: openai.AsyncOpenAI, slots: asyncio.Semaphore, key: str, request: Request, cache: OpenCache | None
    ) -> Verdict | JudgeError:
        """Send one request, with its retries."""
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self.settings.max_attempts),
            retry=retry_if_exception(self._worth_retrying),
            wait=self._wait,
            reraise=True,
        )
        try:
            async with slots:
                async for attempt in retrying:
                    with attempt:
                        verdict = await self._call(api, request, again=attempt.retry_state.attempt_number > 1)
        except CallFailedError as error:
            if error.dead:
                self._breaker.unanswered(str(error))
            self.metrics.failures += 1
            failure = JudgeError(self._explain(error, attempt.retry_state.attempt_number))
            if self.settings.on_failure == "fail":
                raise failure from error
            return failure
        if cache:
            cache.put(key, verdict.model_dump_json())
        return verdict

    async def _call(self, api: openai.AsyncOpenAI, request: Request, *, again: bool) -> Verdict:
        """Make one call, within its limits."""
        self._breaker.check()
        urls = [picture.url for picture in request.pictures]
        content = messages(request, nonce=secrets.token_hex(NONCE_BYTES), picture_urls=urls)
        words = content[0]["content"] + "".join(request.data.values())
        estimate = estimate_tokens(words, request.pictures, self.settings.max_tokens)
        await asyncio.sleep(max(self._requests.reserve(1), self._tokens.reserve(estimate)))
        self.metrics.calls += 1
        self.metrics.retries += again
        start = time.monotonic()
        try:
            async with asyncio.timeout(self.settings.timeout_s):  # openai's own limit applies to each chunk of a reply
                reply = await api.chat.completions.with_raw_response.create(
                    model=self.settings.model,
                    messages=cast(Any, content),  # openai's types spell out every kind of part
                    extra_body=self._parameters(request),
                )
        except openai.APIStatusError as error:
            raise self._status_error(error) from error
        except (TimeoutError, openai.APITimeoutError) as error:
            raise CallFailedError(
                f"no complete reply within timeout_s={self.settings.timeout_s:g}", dead=True
            ) from error
        except openai.APIConnectionError as error:
            raise CallFailedError(f"no connection: {error.__cause__ or error}", dead=True) from error
        body = _read_body(reply.text)
        self._breaker.answered()
        self.metrics.latencies_ms.append(1000 * (time.monotonic() - start))
        self._count_tokens(body.usage, estimate)
        return _read_verdict(body.choices[0], request.verdict)

    def _parameters(self, request: Request) -> dict[str, Any]:
        """The parameters of a call besides its messages."""
        settings = self.settings
        parameters: dict[str, Any] = {"model": settings.model, **settings.extra_body}
        if settings.temperature is not None:
            parameters["temperature"] = settings.temperature
        if settings.max_tokens is not None:
            parameters["max_tokens"] = settings.max_tokens
        if settings.structured_output:
            parameters["response_format"] = response_format(request.verdict)
        return parameters

    def _status_error(self, error: openai.APIStatusError) -> CallFailedError | JudgeRefusedError:
        status = error.status_code
        message = self._hide_key(f"status {status}: {error.response.text[:SHOWN]}")
        if status in WRONG_SETUP:
            return JudgeRefusedError(f"{self._name} refused: {message}; check {WRONG_SETUP[status]}")
        wait = _retry_after(error.response.headers.get("retry-after"))
        if wait is not None and status in (429, 503):
            if wait > self.settings.batch_timeout_s:
                return CallFailedError(f"{message}; the endpoint asks to wait {wait:.0f} s", retryable=False)
            self._requests.pause(wait)  # all requests: the endpoint would refuse the next one, too
        # If every attempt gets 429, the quota is used up, which is equivalent to a dead endpoint.
        dead = status >= 500 or status == 429
        return CallFailedError(message, retryable=dead or status in RETRYABLE, dead=dead, retry_after_s=wait)

    def _count_tokens(self, usage: Usage | None, estimate: float) -> None:
        if usage is None:
            self.metrics.calls_without_usage += 1
            return
        self.metrics.prompt_tokens += usage.prompt_tokens
        self.metrics.completion_tokens += usage.completion_tokens
        self._tokens.correct(usage.prompt_tokens + usage.completion_tokens - estimate)

    def _worth_retrying(self, error: BaseException) -> bool:
        return isinstance(error, CallFailedError) and error.retryable

    def _wait(self, state: RetryCallState) -> float:
        assert state.outcome is not None
        error = state.outcome.exception()
        asked = error.retry_after_s if isinstance(error, CallFailedError) else None
        return max(self._backoff(state), asked or 0.0)

    def _explain(self, error: CallFailedError, attempts: int) -> str:
        return (
            f"{self._name} gave no verdict after {attempts} attempt{'s' * (attempts > 1)}; the last error: {error}. "
            "Check that the server runs, and read its log; `on_failure: none` or `zero` continues without such verdicts"
        )

    def _hide_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    @property
    def _name(self) -> str:
        return f"judge {self.settings.model} at {self.settings.base_url}"


class Usage(BaseModel):
    """The endpoint's count of a call's tokens."""

    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(default=0, ge=0)


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Body(BaseModel):
    """The fields of a chat completion that we read; servers differ in the others."""

    choices: list[_Choice] = Field(min_length=1)
    usage: Usage | None = None


def _read_body(text: str) -> _Body:
    try:
        return _Body.model_validate_json(text)
    except ValidationError:
        raise CallFailedError(f"the reply isn't a chat completion: {text[:SHOWN]!r}", dead=True) from None


def _read_verdict(choice: _Choice, verdict: type[Verdict]) -> Verdict:
    if choice.finish_reason == "length":
        raise CallFailedError(
            "the judge's message was cut off; raise max_tokens, or turn its thinking off with extra_body"
        )
    return parse_verdict(choice.message.content or "", verdict)


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait by a Retry-After header (RFC 9110, section 10.2.3); None if it is neither seconds nor a date."""
    if value is None:
        return None
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    with contextlib.suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None
