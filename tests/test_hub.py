"""A hub that breaks off in the midst of a download: tried again with a limit, then one clear sentence."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from library import write_model

pytestmark = pytest.mark.waits

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LOAD = """
import sys
from sparq_eval.hf import hub
from sparq_eval.hf.checkpoint import open_checkpoint
from sparq_eval.errors import UserError
hub.WAITS = (0.1, 0.1, 0.1)
try:
    checkpoint = open_checkpoint("tiny", "org/tiny")
    checkpoint.load(attention="eager")
    print(checkpoint.identity, len(checkpoint.tokenizer))
except UserError as error:
    print("UserError:", error)
"""


class Hub(ThreadingHTTPServer):
    """One repository. faults: how many answers to break off yet. damage: whether weights come with a wrong byte."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder, self.faults, self.damage, self.asked = folder, 0, False, Counter[str]()


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        self.server.asked[path] += body
        if path.startswith("/api/models/org/tiny"):
            names = sorted(file.name for file in self.server.folder.iterdir())
            if "/tree/" in path:
                files = sorted(self.server.folder.iterdir())
                sizes = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0" * 40} for f in files]
                return self.send(json.dumps(sizes).encode(), {"Content-Type": "application/json"}, body)
            found = {"id": "org/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            return self.send(json.dumps(found).encode(), {"Content-Type": "application/json"}, body)
        file = self.server.folder / path.rsplit("/", 1)[-1]
        if not file.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        content = file.read_bytes()
        large = file.suffix == ".safetensors"
        tag = hashlib.sha256(content).hexdigest() if large else hashlib.sha1(content).hexdigest()
        if large and self.server.damage:
            content = content[:-1] + bytes([content[-1] ^ 1])
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        self.send(content, headers, body, breaks=body and large and self.server.faults > 0)

    def send(self, content: bytes, headers: dict[str, str], body: bool, breaks: bool = False) -> None:
        first = int(self.headers["Range"].split("=")[1].split("-")[0]) if self.headers["Range"] else 0
        self.send_response(206 if first else 200)
        for name, value in {**headers, "Content-Length": str(len(content) - first)}.items():
            self.send_header(name, value)
        self.end_headers()
        if breaks:
            self.server.faults -= 1
            self.wfile.write(content[first : first + 100])
            self.wfile.flush()
            self.connection.close()
        elif body:
            self.wfile.write(content[first:])


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with Hub(write_model(tmp_path / "model")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def load(hub: Hub, home: Path) -> subprocess.CompletedProcess[str]:
    ours = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}", "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    ours |= {"HF_HUB_DISABLE_XET": "1", "SPARQ_EVAL_CACHE": str(home / "ours"), "NO_PROXY": "127.0.0.1"}
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **ours}
    return subprocess.run([sys.executable, "-c", LOAD], env=environment, capture_output=True, text=True, timeout=120)


def test_a_download_that_breaks_off_goes_on_and_what_came_is_used(hub: Hub, tmp_path: Path) -> None:
    hub.faults = 40
    failed = load(hub, tmp_path / "home")
    assert "UserError: model=tiny: the hub or the network failed 4 times, last with" in failed.stdout, failed
    assert failed.stderr.count("trying again in 0.1 s") == 3
    hub.faults = 2
    done = load(hub, tmp_path / "home")
    assert f"'revision': '{COMMIT}'" in done.stdout, done


def test_weights_that_were_damaged_on_their_way_are_refused(hub: Hub, tmp_path: Path) -> None:
    hub.damage = True
    done = load(hub, tmp_path / "home")
    assert "UserError: model=tiny: model.safetensors of org/tiny should have sha256" in done.stdout, done
