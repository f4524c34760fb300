"""Exported folders: what is in them, what their card says, and how they get to the hub."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sail_rl.cli.main import main
from sail_rl.stages.export import card, export_model, lineage_of, push


def test_a_model_without_lineage_can_be_exported_but_not_over_something(
    tiny_dir: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tiny_dir()), str(tmp_path / "out")]) == 0
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.safetensors", "chat_template.jinja", "tokenizer.json", "generation_config.json"} <= files
    assert "How it was made" not in (tmp_path / "out/README.md").read_text()
    assert main(["export", str(tiny_dir()), str(tmp_path / "out")]) == 2
    assert "is not empty; give a new folder" in capsys.readouterr().err
    assert not (tmp_path / "out.partial").exists()


def test_lineage_goes_back_to_the_beginning_and_through_harvests(tmp_path: Path) -> None:
    def write(name: str, parents: list[str], data: dict) -> None:
        lineage = {"stage": name, "parents": [{"stage": parent} for parent in parents], "data": data}
        lineage |= {"metrics": {"heldout_accuracy_before": 0.5, "heldout_accuracy_after": 0.75}}
        lineage |= {"settings": {"kind": "sft"}}
        (tmp_path / "stages" / name / "model").mkdir(parents=True)
        for folder in (tmp_path / "stages" / name, tmp_path / "stages" / name / "model"):
            (folder / "lineage.json").write_text(json.dumps(lineage))

    (tmp_path / "recipe.yaml").touch()
    write("first", ["base"], {"rows": {"hash": "f"}})
    write("harvest", [], {"first": {"stage": "first"}})
    write("second", ["first"], {"harvest": {"stage": "harvest"}})
    found = lineage_of(tmp_path / "stages/second/model")
    assert [entry["stage"] for entry in found] == ["first", "harvest", "second"]
    (tmp_path / "stages/second/model").rename(tmp_path / "away")
    assert [entry["stage"] for entry in lineage_of(tmp_path / "away")] == ["second"], "a copy has lost its ancestors"
    text = card("org/name", found, {"parameters": "2M"}, curves=True)
    assert "| second | sft | first | harvest | 50.0% → 75.0% |" in text
    assert "![Curves of training](curves.png)" in text


class Hub:
    """The part of the hub's API that an upload uses, on loopback; keeps what it was sent."""

    def __init__(self) -> None:
        self.created: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        self.refuse = False
        self.address = ""

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if self.refuse:
            return 403, {"error": "You have no right to do that"}
        if path.endswith("/repos/create"):
            self.created = json.loads(body)
            return 200, {"url": f"{self.address}/owner/name"}
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            return 200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        if "/commit/" in path:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            return 200, {"commitUrl": f"{self.address}/owner/name/commit/1", "commitOid": "1", "success": True}
        return 200, {}


@pytest.fixture
def hub() -> Iterator[tuple[Hub, str]]:
    found = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, reply = found.answer(self.path, body)
            content = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found.address = f"http://127.0.0.1:{server.server_port}"
    yield found, found.address
    server.shutdown()


def test_pushing_sends_every_file_to_a_private_repository(
    hub: tuple[Hub, str], tiny_dir: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, address = hub
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    export_model(tiny_dir(), tmp_path / "out", name="owner/name")
    assert push(tmp_path / "out", "owner/name", endpoint=address) == f"{address}/owner/name"
    assert found.created["name"] == "name"
    assert found.created["visibility"] == "private"
    assert found.files == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert b"owner/name" in found.files["README.md"]


def test_what_the_hub_refuses_is_said(hub: tuple[Hub, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, address = hub
    found.refuse = True
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(ValueError, match=r"(?s)owner/name can't be pushed to the hub .*no right to do that"):
        push(tmp_path, "owner/name", endpoint=address)
