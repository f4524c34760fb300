"""One vLLM server as the trainer sees it: given weights, asked for groups, found missing."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx

from .transfers import Transfer

logger = logging.getLogger(__name__)
HEALTH_TIMEOUT = 5.0  # seconds


class ServerError(Exception):
    """A server isn't there, or didn't do what it was asked; another one may."""


@dataclass(slots=True)
class Server:
    """`version` of the weights it holds; 0: it takes no requests, because of `problem`."""

    address: str
    model: str = ""
    version: int = 0
    problem: str = ""

    async def push(self, transfer: Transfer, version: int, *, timeout: float) -> None:
        """Let it load what `transfer` keeps, with requests aborted and caches dropped. All of it, or `version` stays 0.

        Raises:
            ServerError: any step failed; the server may be half-way, and must not be asked for anything.
        """
        self.version = 0
        async with httpx.AsyncClient(base_url=self.address, timeout=timeout) as client:
            await _send(client, "GET", "/health", timeout=HEALTH_TIMEOUT)
            await _send(client, "POST", "/pause", params={"mode": "abort", "clear_cache": "true"})
            try:
                await transfer.give(self.address, partial(_send, client, "POST"), timeout=timeout)
            except (httpx.HTTPError, RuntimeError, TimeoutError) as error:
                raise ServerError(f"weights didn't reach it: {_said(error)}") from error
            await _send(client, "POST", "/resume")
            await self._ready(client, version)

    async def look(self, version: int) -> None:
        """See whether it holds this version, which another rank has pushed.

        Raises:
            ServerError: it doesn't, or isn't there.
        """
        async with httpx.AsyncClient(base_url=self.address, timeout=HEALTH_TIMEOUT) as client:
            found = (await _send(client, "GET", "/weight_info")).get("weight_version")
            if found != str(version):
                raise ServerError(f"it has weights {found} instead of {version}")
            await self._ready(client, version)

    async def ask(self, client: httpx.AsyncClient, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The choices of a chat completion, in order.

        Raises:
            ServerError: it failed.
            ValueError: the request is at fault.
        """
        try:
            response = await client.post("/v1/chat/completions", json={"model": self.model, **body})
            if response.status_code == 400:
                raise ValueError(f"the server refuses it: {response.text:.500}")
            choices = response.raise_for_status().json()["choices"]
            choices.sort(key=lambda choice: choice["index"])
            whole = len(choices) == body["n"] and all(
                choice["finish_reason"] in ("stop", "length")
                and len(choice["token_ids"]) == len(choice["logprobs"]["content"])
                for choice in choices
            )
        except (httpx.HTTPError, KeyError, TypeError) as error:
            raise ServerError(_said(error)) from error
        if not whole:  # an aborted request, or nonsense
            raise ServerError("its answer is incomplete")
        return choices

    async def _ready(self, client: httpx.AsyncClient, version: int) -> None:
        models = await _send(client, "GET", "/v1/models")
        if self.problem:
            logger.info("rollout server %s is there", self.address)
        self.model, self.version, self.problem = models["data"][0]["id"], version, ""


async def _send(client: httpx.AsyncClient, method: str, path: str, **content: Any) -> Any:
    """The answer's JSON ({} if it has none)."""
    try:
        response = await client.request(method, path, **content)
    except httpx.HTTPError as error:
        raise ServerError(f"{path}: {_said(error)}") from error
    if response.status_code == 404:
        raise ServerError(f"it has no {path}: start it with VLLM_SERVER_DEV_MODE=1")
    if response.is_error:
        raise ServerError(f"{path} gave {response.status_code}: {response.text:.500}")
    return response.json() if "json" in response.headers.get("content-type", "") else {}


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
