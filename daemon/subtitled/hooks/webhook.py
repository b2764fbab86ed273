"""Send a signed JSON message to the operator's URL, with retries."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ssl
import threading
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from subtitled.hooks.journal_reader import JobEnded
from subtitled.version import VERSION

SIGNATURE = "X-Subtitled-Signature"
ATTEMPT_S = 10.0
"""Timeout of one attempt."""
FIRST_WAIT_S = 1.0
MAX_WAIT_S = 300.0


def sign(secret: bytes, body: bytes) -> str:
    """Return the signature of a body: `sha256=` and its HMAC-SHA256 (RFC 2104) in hexadecimal."""
    return f"sha256={hmac.new(secret, body, hashlib.sha256).hexdigest()}"


def deliver(
    url: str,
    secret_file: str,
    ended: JobEnded,
    stopping: threading.Event,
    *,
    attempts: int,
    first_wait_s: float = FIRST_WAIT_S,
) -> str | None:
    """Send a job's end; return why it failed, "" on success, None when the daemon stops first.

    A status of 200 to 299 is success. Anything else is retried, `attempts` times in all, after waits that double from
    `first_wait_s` up to MAX_WAIT_S. Redirects are not followed. The secret is read each time.
    """
    body = msgspec.json.encode(ended)
    fault = ""
    for attempt in range(attempts):
        if attempt and stopping.wait(min(MAX_WAIT_S, first_wait_s * 2 ** (attempt - 1))):
            return None
        if stopping.is_set():
            return None
        fault = _post(url, secret_file, ended, body)
        if not fault:
            return ""
    return f"{_public_part(url)}: {fault} ({attempts} attempts)"


def _post(url: str, secret_file: str, ended: JobEnded, body: bytes) -> str:
    """Send one message; return the error, or ""."""
    parts = urlsplit(url)
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"subtitled/{VERSION}",
        "X-Subtitled-Event": ended.event,
        "X-Subtitled-Delivery": ended.delivery,
    }
    connection: http.client.HTTPConnection | None = None
    try:
        if secret_file:
            headers[SIGNATURE] = sign(Path(secret_file).read_bytes().strip(), body)
        host = parts.hostname or ""
        if parts.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(host, parts.port, timeout=ATTEMPT_S, context=context)
        else:
            connection = http.client.HTTPConnection(host, parts.port, timeout=ATTEMPT_S)
        path = parts.path or "/"
        connection.request("POST", f"{path}?{parts.query}" if parts.query else path, body, headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException, ValueError) as error:
        return str(error) or type(error).__name__
    finally:
        if connection is not None:
            connection.close()
    return "" if 200 <= status < 300 else f"status {status}"


def _public_part(url: str) -> str:
    """Return scheme and host of a URL: its path may be a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
