"""The engine's handle of one vLLM server: it pushes weights, checks the server's version and asks for groups."""

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
    """A server is unreachable, or failed a request that another server may fulfil."""


@dataclass(slots=True)
class ServerHandle:
    """One server. `version` is that of its weights; 0 means that it takes no requests, because of `problem`."""

    address: str
    model: str = ""
    version: int = 0
    problem: str = ""

    async def push(self, transfer: Transfer, version: int, *, timeout: float) -> None:
        """Abort the server's requests, drop its caches and let it load the weights that `transfer` keeps.

        `version` is 0 until the server has all of them.

        Raises:
            ServerError: a step failed; the server may hold a part of the weights, and must not be asked for groups.
        """
        self.version = 0
        async with httpx.AsyncClient(base_url=self.address, timeout=timeout) as client:
            await _send(client, "GET", "/health", timeout=HEALTH_TIMEOUT)
            await _send(client, "POST", "/pause", params={"mode": "abort", "clear_cache": "true"})
            try:
                await transfer.give(self.address, partial(_send, client, "POST"), timeout=timeout)
            except (httpx.HTTPError, RuntimeError, TimeoutError) as error:
                raise ServerError(f"the weights did not reach it: {_described(error)}") from error
            await _send(client, "POST", "/resume")
            await self._ready(client, version)

    async def check(self, version: int) -> None:
        """Check that the server holds this version, which another rank has pushed.

        Raises:
            ServerError: it holds another version, or is unreachable.
        """
        async with httpx.AsyncClient(base_url=self.address, timeout=HEALTH_TIMEOUT) as client:
            found = (await _send(client, "GET", "/weight_info")).get("weight_version")
            if found != str(version):
                raise ServerError(f"it has weights of version {found} instead of {version}")
            await self._ready(client, version)

    async def ask(self, client: httpx.AsyncClient, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The choices of a group, in order.

        Raises:
            ServerError: the server failed.
            ValueError: the server refuses the request.
        """
        try:
            response = await client.post("/inference/v1/generate", json={"model": self.model, **body})
            if response.status_code == 404:
                raise ValueError(f"{self.address} has no /inference/v1/generate: start it with --enable-scale-out")
            if response.status_code in (400, 422):
                raise ValueError(f"the server refuses the request: {response.text:.500}")
            choices = response.raise_for_status().json()["choices"]
            choices.sort(key=lambda choice: choice["index"])
            complete = len(choices) == body["sampling_params"]["n"] and all(
                choice["finish_reason"] in ("stop", "length")
                and len(choice["token_ids"]) == len(choice["logprobs"]["content"])
                for choice in choices
            )
        except (httpx.HTTPError, KeyError, TypeError) as error:
            raise ServerError(_described(error)) from error
        if not complete:  # an aborted request, or a malformed answer
            raise ServerError("its answer is incomplete")
        return choices

    async def _ready(self, client: httpx.AsyncClient, version: int) -> None:
        models = await _send(client, "GET", "/v1/models")
        if self.problem:
            logger.info("rollout server %s is reachable", self.address)
        self.model, self.version, self.problem = models["data"][0]["id"], version, ""


async def _send(client: httpx.AsyncClient, method: str, path: str, **content: Any) -> Any:
    """The JSON of the response, or {} if it has none."""
    try:
        response = await client.request(method, path, **content)
    except httpx.HTTPError as error:
        raise ServerError(f"{path}: {_described(error)}") from error
    if response.status_code == 404:
        raise ServerError(f"it has no {path}: start it with VLLM_SERVER_DEV_MODE=1")
    if response.is_error:
        raise ServerError(f"{path} gave {response.status_code}: {response.text:.500}")
    return response.json() if "json" in response.headers.get("content-type", "") else {}


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
