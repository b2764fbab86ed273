"""A client written from docs/protocol.md alone, without our code: it sends a file, waits, and prints its subtitles.

python foreign_client.py ENDPOINT FILE
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import msgpack
import zmq

ANSWER_MS = 60_000


class Server:
    """One DEALER socket to a subtitled server."""

    def __init__(self, endpoint: str) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.connect(endpoint)

    def send(self, kind: str, request: int, *blobs: bytes, **fields: Any) -> None:
        """Send a message: version, header, blobs."""
        header = msgpack.packb({"type": kind, "request": request, **fields})
        self._socket.send_multipart([b"\x01", header, *blobs])

    def receive(self, request: int) -> tuple[dict[str, Any], list[bytes]]:
        """Return the next answer to a request, with its blobs; answers to others are passed over."""
        while self._socket.poll(ANSWER_MS):
            _, header, *blobs = self._socket.recv_multipart()
            answer: dict[str, Any] = msgpack.unpackb(header)
            if answer["type"] == "Error" and answer["request"] in {0, request}:
                sys.exit(f"{answer['code']}: {answer['message']}")
            if answer["request"] == request:
                return answer, blobs
        sys.exit(f"no answer within {ANSWER_MS} ms")

    def upload(self, path: Path) -> str:
        """Send a file, or what the server does not have of it yet; return its job's id."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            self.send("Submit", 1, name=path.name, size=size, sha256=digest)
            answer, _ = self.receive(1)
            if answer["type"] == "JobInfo":  # this file was sent before
                return str(answer["job"]["id"])
            job, offset, written = answer["job"], answer["offset"], answer["offset"]
            window, chunk = answer["window_bytes"], answer["chunk_bytes"]
            file.seek(offset)
            while written < size:
                while offset < size and offset < written + window:
                    blob = file.read(min(chunk, written + window - offset))
                    self.send("Chunk", 1, blob, job=job, offset=offset)
                    offset += len(blob)
                written = self.receive(1)[0]["offset"]
        self.send("Commit", 2, job=job)
        return str(self.receive(2)[0]["job"]["id"])

    def wait(self, job: str) -> str:
        """Return the state in which a job has ended."""
        self.send("Watch", 3, job=job)
        while True:
            event, _ = self.receive(3)
            if event["subject"] == "job" and event["after"] in {"done", "failed", "cancelled"}:
                return str(event["after"])

    def fetch(self, job: str) -> bytes:
        """Return a job's subtitles as SRT."""
        self.send("Fetch", 4, job=job, format="srt")
        return self.receive(4)[1][0]


if __name__ == "__main__":
    server = Server(sys.argv[1])
    sent = server.upload(Path(sys.argv[2]))
    if (state := server.wait(sent)) != "done":
        sys.exit(f"job {sent} is {state}")
    sys.stdout.buffer.write(server.fetch(sent))
