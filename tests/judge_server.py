"""A judge's endpoint that follows a script: a real HTTP server of the standard library, in threads, on loopback."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What the server does: waits `delay`, sends `status`, `headers` and `body`, `trickle` seconds between bytes."""

    body: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    trickle: float = 0.0


def says(content: str, *, usage: tuple[int, int] | None = (100, 10), finish: str = "stop") -> Reply:
    """A chat completion with this message."""
    body: dict[str, Any] = {
        "choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": finish}]
    }
    if usage:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return Reply(json.dumps(body))


def verdict(**fields: Any) -> Reply:
    """A chat completion whose message is a verdict."""
    return says(json.dumps(fields))


Script = Callable[[int, dict[str, Any]], Reply]
"""From the number of a request (0, 1, …) and its body to the reply."""


class ScriptedServer:
    """Follows `script`; keeps what was asked, when, and how many requests were in flight at once."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        self.ending = threading.Event()
        self.url = ""

    def texts(self) -> list[str]:
        """The user messages' text, in the order of arrival."""
        contents = [body["messages"][1]["content"] for body in self.bodies]
        return [content if isinstance(content, str) else content[-1]["text"] for content in contents]

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            number = len(self.bodies)
            self.bodies.append(body)
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
            self.times.append(time.monotonic())
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            self.send(handler, self.script(number, body))
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has given up
        finally:
            with self.lock:
                self.in_flight -= 1

    def send(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        self.ending.wait(reply.delay)
        content = reply.body.encode()
        handler.send_response(reply.status)
        for name, value in (
            {"Content-Type": "application/json", "Content-Length": str(len(content))} | reply.headers
        ).items():
            handler.send_header(name, value)
        handler.end_headers()
        if not reply.trickle:
            handler.wfile.write(content)
            return
        for byte in content:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            if self.ending.wait(reply.trickle):
                return


@contextmanager
def serving(script: Script) -> Iterator[ScriptedServer]:
    """A running server; ended, with all its threads, afterwards."""
    scripted = ScriptedServer(script)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            scripted.handle(self)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = False  # joined by server_close
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Handler)
    scripted.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield scripted
    finally:
        scripted.ending.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
