"""A stand-in for the hub, over real HTTP on 127.0.0.1, and processes that download from it."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from kvproof.gpt2 import hub

from .. import _child

COMMIT = "c0ffee" + "0" * 34
VARIANTS = Path(__file__).parents[1] / "data" / "variants"
PLAIN = {path.name: path.read_bytes() for path in (VARIANTS / "plain").iterdir()}
SHARDED = {path.name: path.read_bytes() for path in (VARIANTS / "sharded-safetensors").iterdir()}
MERGES = {"merges.txt": b"#version: 0.2\n"}
NEEDED = PLAIN | MERGES
LARGE = NEEDED | {"model.safetensors": bytes(range(256)) * 400}  # its half outgrows a file object's buffer
CLUTTER = {"pytorch_model.bin": b"p" * 9999, "tf_model.h5": b"t", "onnx/model.safetensors": b"o", "README.md": b"r"}
MEDIUM = hub.KNOWN["gpt2-medium"]

# The package's own __init__ would import torch, which takes longer than everything else here. Small chunks, so that
# half of a small file reaches the disk before it is cut off.
PROGRAM = f"""
import sys, types
from pathlib import Path
package = types.ModuleType("kvproof.gpt2")
package.__path__ = [{str(Path(hub.__file__).parent)!r}]
sys.modules["kvproof.gpt2"] = package
from huggingface_hub import constants
from kvproof.gpt2 import hub
from kvproof.gpt2.checkpoint import hub_cache
constants.DOWNLOAD_CHUNK_SIZE = 512
try:
    print(hub.fetch(sys.argv[1], *map(Path, sys.argv[2:])))
except hub.HubError as error:
    sys.exit(f"HubError: {{error}}")
"""


class HubServer(ThreadingHTTPServer):
    """Serves repositories from memory and keeps a log of what was asked.

    repos    "owner/name" -> {revision: (commit, {file name: bytes})}
    trusted  the path of every request that carried a token
    asked    (method, path, Range header or None) of every request, in order
    sent     bytes of file contents that went out
    cut      how many more answers with a big file's bytes stop after half of what was asked
    stall    True: such an answer then keeps the connection open and says nothing more
    corrupt  True: a big file's bytes go out with one bit flipped, its length and digest unchanged
    ill      True: every answer is 503
    """

    daemon_threads = True
    BIG = 4096  # bytes; what is larger is stored elsewhere, as weights are: under another host name, "localhost"

    def __init__(self, repos):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos = repos
        self.asked: list[tuple[str, str, str | None]] = []
        self.trusted: list[str] = []
        self.sent, self.cut, self.stall, self.corrupt, self.ill = 0, 0, False, False, False
        self.over = threading.Event()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def gets(self) -> list[tuple[str, str | None]]:
        """(file name, Range) of every request for a file's bytes."""
        return [(path.rsplit("/", 1)[-1], span) for method, path, span in self.asked if is_file(method, path)]

    def handle_error(self, request, client_address):
        """A client that is killed resets its connection; that is no news."""

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.shutdown()
        self.server_close()


def is_file(method: str, path: str) -> bool:
    return method == "GET" and re.match(r"/storage/|/[^/]+/[^/]+/resolve/", path) is not None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append((self.command, path, self.headers.get("Range")))
        if "Authorization" in self.headers:
            self.server.trusted.append(path)
        if self.server.ill:
            return self.reply(503, {}, b"")
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path.removeprefix("/storage"))
        match = api or file
        if match is None:
            return self.reply(404, {}, b"no such endpoint")
        revisions = self.server.repos.get(match[1])
        if revisions is None:
            return self.reply(401, {"X-Error-Code": "RepoNotFound"}, b"")
        by_commit = {commit: (commit, files) for commit, files in revisions.values()}
        found = (revisions | by_commit).get(match[2])
        if found is None:
            return self.reply(404, {"X-Error-Code": "RevisionNotFound"}, b"")
        commit, files = found
        if file is None:
            siblings = [{"rfilename": name} for name in files]
            return self.reply(
                200, {}, json.dumps({"id": match[1], "modelId": match[1], "sha": commit, "siblings": siblings}).encode()
            )
        if file[3] not in files:
            return self.reply(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b"")
        return self.send_file(files[file[3]], commit, path)

    do_HEAD = do_GET

    def send_file(self, content: bytes, commit: str, path: str):
        big = len(content) > self.server.BIG
        git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        etag = hashlib.sha256(content).hexdigest() if big else git
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if big and not path.startswith("/storage/"):
            where = f"http://localhost:{self.server.server_address[1]}/storage{path}"
            linked = {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content)), "ETag": '"of the redirect"'}
            return self.reply(302, headers | linked | {"Location": where}, b"")
        if big and self.server.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(span[1]) if span else 0
        if span:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self.reply(206 if span else 200, headers, content[start:], cuttable=big)

    def reply(self, status: int, headers: dict, body: bytes, cuttable: bool = False):
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if cuttable and self.server.cut:
            self.server.cut -= 1
            self.close_connection = True
            body = body[: len(body) // 2]
        self.wfile.write(body)
        self.wfile.flush()
        self.server.sent += len(body) if cuttable else 0
        if cuttable and self.close_connection and self.server.stall:
            self.server.over.wait(30)


def start(server: HubServer, home: Path, *words, **env: str) -> subprocess.Popen:
    """A process that runs hub.fetch(*words) against the server, with its cache under home."""
    env = os.environ | {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(home)} | env
    return _child.Popen(
        [sys.executable, "-c", env.pop("PROGRAM", PROGRAM), *map(str, words)],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def fetch(server: HubServer, home: Path, *words, **env: str) -> tuple[Path, str]:
    """(the folder, standard error) of hub.fetch(*words) in a process of its own; no folder, Path(), after an error."""
    run = start(server, home, *words, **env)
    out, err = run.communicate(timeout=60)
    assert "Traceback" not in err, err
    assert (run.returncode == 0) == ("HubError" not in err), err
    return Path(out.strip()), err


def repositories() -> dict:
    """What the tests download: the variants' model in several states, and stand-ins under published names."""
    return {
        "ann/plain": {"main": (COMMIT, NEEDED | CLUTTER)},
        "ann/bare": {"main": (COMMIT, {name: data for name, data in NEEDED.items() if name not in MERGES})},
        "ann/large": {"main": (COMMIT, LARGE)},
        "ann/sharded": {"main": (COMMIT, SHARDED | MERGES)},
        "ann/pickled": {"main": (COMMIT, {"config.json": b"{}", "pytorch_model.bin": b"p"})},
        "openai-community/gpt2": {"main": (hub.KNOWN["gpt2"].revision, NEEDED)},
        MEDIUM.repo: {"main": ("f" * 40, {}), "v1": (MEDIUM.revision, NEEDED)},
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
