"""A model hub on loopback: the part of the Hugging Face Hub's HTTP interface that a download uses."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeModelHub:
    """Serves one folder as the repository `repository`; a context manager."""

    def __init__(self, folder: Path, repository: str = "loop/back", *, status: int = 200) -> None:
        """With another `status` than 200 every request is answered with that."""
        self.status = status
        self.hangs = threading.Event()
        """While it is set, the content of model.bin waits; the other files arrive."""
        self.released = threading.Event()
        """Releases the waiting requests."""
        self.fetched: Counter[str] = Counter()
        """How often the content of each file was requested."""
        self._files = {file.name: file.read_bytes() for file in folder.iterdir()}
        self._repository = repository
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def environ(self) -> dict[str, str]:
        """Environment variables that make a client use this hub."""
        return {
            "HF_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DOWNLOAD_TIMEOUT": "600",
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Log nothing."""

            def do_HEAD(self) -> None:
                self._answer(has_body=False)

            def do_GET(self) -> None:
                self._answer(has_body=True)

            def _answer(self, *, has_body: bool) -> None:
                path = self.path.partition("?")[0]
                if hub.status != 200:
                    code = "RepoNotFound" if hub.status == 404 else ""
                    self._send(hub.status, b"{}", has_body=has_body, **{"X-Error-Code": code})
                elif path.startswith(f"/api/models/{hub._repository}/revision/"):
                    siblings = [{"rfilename": name} for name in hub._files]
                    info = {"_id": "1", "id": hub._repository, "sha": COMMIT, "siblings": siblings}
                    self._send(200, json.dumps(info).encode(), has_body=has_body)
                elif path.startswith(f"/api/models/{hub._repository}/tree/"):
                    tree = [
                        {"type": "file", "path": name, "size": len(data), "oid": _digest(data)}
                        for name, data in hub._files.items()
                    ]
                    self._send(200, json.dumps(tree).encode(), has_body=has_body)
                elif path.startswith(f"/{hub._repository}/resolve/"):
                    name = path.rpartition("/")[2]
                    data = hub._files[name]
                    if has_body:
                        hub.fetched[name] += 1
                    self._send(
                        200,
                        data,
                        has_body=has_body,
                        ETag=f'"{_digest(data)}"',
                        **{"X-Repo-Commit": COMMIT},
                    )
                else:
                    self._send(404, b"{}", has_body=has_body)

            def _send(self, status: int, data: bytes, *, has_body: bool, **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if has_body:
                    if hub.hangs.is_set() and self.path.endswith("/model.bin"):
                        hub.released.wait(600)
                    with contextlib.suppress(ConnectionError):  # the client was stopped
                        self.wfile.write(data)

        return Handler


def _digest(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
