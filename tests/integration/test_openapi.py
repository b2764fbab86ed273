"""Our own interface held to its OpenAPI document, by a program that makes requests of it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import media
from daemon import Daemon
from gateway_process import GatewayProcess

if TYPE_CHECKING:
    from pathlib import Path

SPENT_S = 30
"""For requests; what is found depends on the machine's speed, what is right does not."""


def test_responses_match_the_openapi_document(tmp_path: Path) -> None:
    """Requests by the document and against it, by schemathesis: no answer is a fault of ours, and each is one of the document's."""
    with (
        Daemon(tmp_path) as daemon,
        GatewayProcess(daemon.start(), tmp_path / "gateway", max_upload_mb=1) as gateway,
    ):
        daemon.client.submit(media.write_sound(tmp_path / "talk.wav", media.speech(8))).wait(120)
        done = subprocess.run(
            (
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{gateway.url}/api/openapi.json"),
                *("--max-time", f"{SPENT_S}", "--seed", "1", "--request-timeout", "60"),
                *("--generation-database", "none", "--no-color"),
                # A schema cannot say that one limit is below another, nor what is a language: what it allows may be refused.
                *("--exclude-checks", "positive_data_acceptance"),
            ),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr
