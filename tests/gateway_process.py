"""A real gateway process for the tests, connected to a real daemon."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec
from httpx2 import Client, ConnectError

from daemon import DEADLINE_S, Daemon, eventually, free_port
from subtitled.config import schema
from subtitled.config.load import to_toml

if TYPE_CHECKING:
    from collections.abc import Mapping


class GatewayProcess:
    """`subtitled http` as a process; a context manager that ends it in any case."""

    def __init__(self, daemon: Daemon, folder: Path, **http: object) -> None:
        """`http`: keys of the section that replace defaults."""
        folder.mkdir(exist_ok=True)
        self.listen = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.listen}"
        self.config_file = folder / "gateway.toml"
        section = msgspec.convert(
            {"listen": self.listen, "server": daemon.endpoint, **http}, schema.HttpConfig
        )
        whole = msgspec.structs.replace(daemon.config, http=section)
        self.config_file.write_text(to_toml(whole), "utf-8")
        self.log_file = folder / "gateway.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, environ: Mapping[str, str] | None = None, *, max_descriptors: int | None = None) -> Self:
        """Start the process, with a limit of open files if given, and wait until it answers."""
        limit = (
            ("/bin/sh", "-c", 'ulimit -n "$0" && exec "$@"', str(max_descriptors)) if max_descriptors else ()
        )
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                (*limit, sys.executable, "-m", "subtitled", "http", "--config", str(self.config_file)),
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        eventually(self._answers, "the gateway answers")
        return self

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> int:
        """Stop it as systemd does; return its exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(DEADLINE_S)

    def close(self) -> None:
        """Kill it if it runs; may be repeated."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log_file.read_text("utf-8")
        try:
            with Client() as client:
                client.get(f"{self.url}/v1/models", timeout=20)
        except ConnectError:
            return False
        return True
