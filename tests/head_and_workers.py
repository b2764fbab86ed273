"""A head and workers on other hosts, as processes that share only the daemon's port."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from msgspec import Struct
from msgspec.structs import replace

from daemon import DEADLINE_S, Daemon, eventually, free_port
from subtitle.keys import Key, new_pair, save_key
from subtitled.config import schema
from subtitled.config.load import to_toml
from subtitled.network.auth import server_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Head(Daemon):
    """A daemon that accepts workers on other hosts; by default without a device of its own."""

    def __init__(
        self,
        folder: Path,
        *,
        hosts: Sequence[str] = ("gpu2", "gpu3"),
        devices: tuple[str, ...] = (),
        remote: schema.RemoteConfig | None = None,
        **sections: Any,
    ) -> None:
        """Make a key for each host; `sections` as for a daemon."""
        state = folder / "state"
        self.server = server_key(state / "server.key").public
        self.keys = {host: self._key(host) for host in hosts}
        self.remote = f"tcp://127.0.0.1:{free_port()}"
        remote = replace(
            remote or schema.RemoteConfig(),
            listen=self.remote,
            keys={host: key.public for host, key in self.keys.items()},
        )
        pool = schema.PoolConfig(devices=devices, prepare_workers=1)
        super().__init__(folder, **{"pool": pool, "remote": remote, **sections})

    def _key(self, host: str) -> Key:
        public, secret = new_pair()
        return Key(name=host, public=public, secret=secret, server=self.server)

    def write_config(self, **sections: Struct) -> None:
        """Change the configuration file; the daemon reads it after SIGHUP."""
        self.config = replace(self.config, **sections)
        self.config_file.write_text(to_toml(self.config), "utf-8")

    def states(self) -> dict[str, str]:
        """Return the states of the transcribe workers, by slot."""
        return {worker.slot: worker.state for worker in self.stats().workers if worker.role == "transcribe"}

    def wait_for_workers(self, *slots: str) -> None:
        """Wait until these workers, and no others, are idle or have work."""

        def are_there() -> bool:
            states = {slot: state for slot, state in self.states().items() if state != "stopped"}
            return states.keys() == set(slots) and set(states.values()) <= {"idle", "busy"}

        self._with_log(lambda: eventually(are_there, f"{slots} work"))


class RemoteWorker:
    """`subtitled worker` as a process; a context manager that ends it in any case."""

    def __init__(
        self,
        head: Head,
        host: str,
        *,
        place: str = "cpu0",
        key: Key | None = None,
        options: Sequence[str] = (),
        program: Sequence[str] = ("-m", "subtitled"),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Start it; `program` runs the command `worker` differently."""
        self.slot = f"{host}/{place}"
        self._number = sum(1 for _ in head.folder.glob("worker-*.log"))
        self.log_file = head.folder / f"worker-{self._number}.log"
        key_file = head.folder / f"worker-{self._number}.toml"
        save_key(key_file, key or head.keys[host])
        command = [
            *(sys.executable, *program, "worker"),
            *("--connect", head.remote, "--key", str(key_file), "--device", "cpu", "--cpu-threads", "1"),
            *("--place", place, "--log-format", "json", *options),
        ]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=head.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def log(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return its log's lines, of one event or of all."""
        lines = self.log_file.read_text("utf-8").splitlines()
        entries: list[dict[str, Any]] = [json.loads(line) for line in lines if line.startswith("{")]
        return [entry for entry in entries if event is None or entry["event"] == event]

    def wait_for_log(self, event: str, text: str = "") -> dict[str, Any]:
        """Wait for a line of this event with `text` anywhere in it; return it."""

        def found() -> dict[str, Any] | None:
            return next((e for e in self.log(event) if text in json.dumps(e)), None)

        try:
            return eventually(found, f"{event} {text!r} in the worker's log")
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.log_file.read_text('utf-8')[-4000:]}") from None

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def wait_for_exit(self) -> int:
        """Wait for its end; return its exit status."""
        return self.process.wait(DEADLINE_S)
