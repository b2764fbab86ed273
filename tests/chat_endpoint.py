"""A chat endpoint with OpenAI's interface: a real HTTP server that translates by rule and fails on demand."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self

Fault = Literal[
    "slow", "garbage", "few", "twice", "wrong_language", "cut", "empty", "429", "500", "hang_up", "no_json", "401", "404",
    "too_long", "drip", "redirect", "huge", "parts", "no_counts", "many_tokens",
]  # fmt: skip
"""What a call answers in place of the translations; "slow" holds it until the server closes or `release` is called."""

WAIT_S = 60
TOKENS = 7
"""Of the input, and of the output, of each call."""


def translation_of(text: str) -> str:
    """Return the translation of a sentence: Chinese of about its length, with its numbers."""
    numbers = "".join(f" {number} " for number in re.findall(r"\d+", text))
    return f"這是{'好' * max(1, len(text) // 6)}{numbers}。"


class ChatEndpoint:
    """Serves /v1/chat/completions on a free port; keeps the bodies of all calls."""

    def __init__(
        self,
        *,
        key: str = "",
        rejects: tuple[str, ...] = (),
        rejection: str = "Unsupported parameter: '{}'",
        refuses: tuple[str, ...] = (),
    ) -> None:
        """`rejects`: parameters that cause status 400, with `rejection` as the message; `refuses`: sentences that do."""
        self.faults: deque[Fault] = deque()
        """Of the next calls, in order."""
        self.calls: list[dict[str, Any]] = []
        self.most_at_once = 0
        self._key = key
        self._rejects = rejects
        self._rejection = rejection
        self._refuses = refuses
        self._lock = threading.Condition()
        self._at_once = 0
        self._released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The base address, as `endpoint` of the configuration."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def release(self) -> None:
        """Answer the calls that are held, and those that come."""
        self._released.set()

    def wait_for_calls(self, count: int) -> None:
        """Wait until so many calls have come."""
        with self._lock:
            assert self._lock.wait_for(lambda: len(self.calls) >= count, WAIT_S)

    def sentences(self, call: int) -> list[str]:
        """Return the sentences that a call asked for."""
        return lines_of(self.calls[call])

    def close(self) -> None:
        """Stop the server."""
        self._released.set()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            """One connection."""

            def do_POST(self) -> None:
                """Answer a call."""
                length = int(self.headers["Content-Length"])
                body = json.loads(self.rfile.read(length))
                with endpoint._lock:
                    endpoint.calls.append(body)
                    endpoint._lock.notify_all()
                    fault = endpoint.faults.popleft() if endpoint.faults else None
                    endpoint._at_once += 1
                    endpoint.most_at_once = max(endpoint.most_at_once, endpoint._at_once)
                self._is_counted = True
                try:
                    self._answer(body, fault)
                finally:
                    self._end_count()

            def _end_count(self) -> None:
                """Count the call as ended, before its client can send the next one."""
                with endpoint._lock:
                    endpoint._at_once -= self._is_counted
                    self._is_counted = False

            def _answer(self, body: dict[str, Any], fault: Fault | None) -> None:
                if self.path != "/v1/chat/completions":
                    self._send(404, {"error": {"message": "no such path"}})
                    return
                if endpoint._key and self.headers.get("Authorization") != f"Bearer {endpoint._key}":
                    given = self.headers.get("Authorization", "none").removeprefix("Bearer ")
                    self._send(401, {"error": {"message": f"Incorrect API key provided: {given}"}})
                    return
                for name in endpoint._rejects:
                    if name in body:
                        self._send(400, {"error": {"message": endpoint._rejection.format(name)}})
                        return
                if any(line in endpoint._refuses for line in lines_of(body)):
                    self._send(400, {"error": {"message": "the content is not allowed"}})
                    return
                self._fail_or_translate(body, fault)

            def _fail_or_translate(self, body: dict[str, Any], fault: Fault | None) -> None:
                rows = [
                    {"number": number, "text": translation_of(text)}
                    for number, text in enumerate(lines_of(body), 1)
                ]
                match fault:
                    case "slow":
                        endpoint._released.wait()
                    case "garbage":
                        self._send(200, {"object": "list", "data": []})
                        return
                    case "few":
                        rows = rows[: len(rows) // 2]
                    case "twice":
                        rows.append({"number": 1, "text": "另一個答案在這裡。"})
                    case "wrong_language":
                        rows = [{**row, "text": "Ceci n'est pas du chinois."} for row in rows]
                    case "empty":
                        rows = [{**row, "text": " "} for row in rows]
                    case "429":
                        self._send(429, {"error": {"message": "too many requests"}}, {"Retry-After": "0"})
                        return
                    case "500" | "401" | "404":
                        self._send(int(fault), {"error": {"message": "a fault on demand"}})
                        return
                    case "too_long":
                        self._send(413, {"error": {"message": "the prompt is too long"}})
                        return
                    case "redirect":
                        self._send(307, {}, {"Location": "http://127.0.0.1:9/elsewhere"})
                        return
                    case "hang_up":
                        self.connection.shutdown(socket.SHUT_RDWR)
                        return
                    case "drip":
                        self._drip()
                        return
                    case "cut" | "no_json" | "huge" | "parts" | "no_counts" | "many_tokens" | None:
                        pass
                content = json.dumps({"translations": rows}, ensure_ascii=False)
                if fault == "cut":
                    content = content[: content.index("}") + 5]
                elif fault == "no_json":
                    content = "Here you are:\n" + "\n".join(f"{row['number']}. {row['text']}" for row in rows)
                elif fault == "huge":
                    content = "x" * 5 * 2**20
                counts: Any = {"no_counts": None, "many_tokens": 2**63}.get(fault or "", TOKENS)
                if fault == "parts":
                    half = len(content) // 2
                    parts = [{"type": "thinking", "thinking": []}]
                    parts += [{"type": "text", "text": text} for text in (content[:half], content[half:])]
                self._send(
                    200,
                    {
                        "model": "tiny-translator-2",
                        "choices": [
                            {
                                "index": 0,
                                "message": {
                                    "role": "assistant",
                                    "content": parts if fault == "parts" else content,
                                },
                            }
                        ],
                        "usage": {"prompt_tokens": counts, "completion_tokens": counts},
                    },
                )

            def _drip(self) -> None:
                """Send a byte now and then, without end."""
                self.send_response(200)
                self.end_headers()
                while not endpoint._released.wait(0.05):
                    try:
                        self.wfile.write(b" ")
                    except OSError:
                        return

            def _send(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
                data = json.dumps(value, ensure_ascii=False).encode()
                self._end_count()
                try:
                    self.send_response(status)
                    for name, text in (headers or {}).items():
                        self.send_header(name, text)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    self.close_connection = True  # the client has given up

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        return Handler


def lines_of(body: dict[str, Any]) -> list[str]:
    """Return the sentences that a call asks for."""
    prompt = body["messages"][-1]["content"]
    lines = prompt.partition("Translate these")[2].partition("The sentences after")[0]
    return [found[1] for found in re.finditer(r"^\d+\. (.*)$", lines, re.MULTILINE)]
