"""Run the inboxes' commands and the webhook after each job's end; failures go to the log and the journal."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from subtitled import log
from subtitled.config.schema import Config, InboxConfig
from subtitled.errors import NoSpaceError
from subtitled.hooks import commands, webhook
from subtitled.hooks.journal_reader import JobEnded, JournalReader
from subtitled.runtime.background import CallInLoop
from subtitled.storage.rows import JournalEntry
from subtitled.storage.store import Store

_log = log.get()


class HookDispatcher:
    """Reads the journal for commands and for the webhook, each in its own thread, so that neither delays the other.

    Belongs to the thread of the server's loop and does not block it. `send_to_watchers` receives new journal entries.
    """

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        store: Store,
        *,
        call_in_loop: CallInLoop,
        send_to_watchers: Callable[[list[JournalEntry]], None],
    ) -> None:
        self._environ = environ
        self._store = store
        self._call_in_loop = call_in_loop
        self._send_to_watchers = send_to_watchers
        self._config = config
        self._database = Path(config.state.dir, "subtitled.sqlite")
        self._readers: dict[str, JournalReader] = {}

    def start(self) -> None:
        """Start, with the ends that an earlier daemon did not deliver."""
        self.reconfigure(self._config)

    def reconfigure(self, config: Config) -> None:
        """Apply another configuration to further deliveries."""
        self._config = config
        has_commands = any(inbox.on_done or inbox.on_failed for inbox in config.inbox)
        self._set_reader("commands", self._run_command, is_wanted=has_commands)
        self._set_reader("webhook", self._send, is_wanted=bool(config.webhook.url))

    def wake(self) -> None:
        """Report that the journal has new entries."""
        for reader in self._readers.values():
            reader.wake()

    def close(self) -> None:
        """Stop; unfinished deliveries are repeated after the next start."""
        for name, reader in self._readers.items():
            reader.stop()
            self._save_mark(name, reader.seq)  # those that wait for the loop are not called any more

    def _set_reader(
        self, name: str, deliver: Callable[[JobEnded, threading.Event], bool], *, is_wanted: bool
    ) -> None:
        if is_wanted and name not in self._readers:
            reader = self._readers[name] = JournalReader(
                name,
                self._database,
                deliver,
                sync=self._store.sync,
                handled=lambda seq: self._call_in_loop(partial(self._save_mark, name, seq)),
            )
            mark = self._store.hook_position(name)
            if mark is None:
                mark = self._store.last_seq()
                self._save_mark(name, mark)
            reader.start(mark)
        elif not is_wanted:
            if removed := self._readers.pop(name, None):
                removed.stop()
            # Jobs that end without a hook are not delivered later.
            self._save_mark(name, None)

    def _save_mark(self, name: str, seq: int | None) -> None:
        if seq is not None and name not in self._readers:
            return  # from a reader that was removed meanwhile
        with contextlib.suppress(NoSpaceError):  # the end is then delivered again after the next start
            self._store.save_hook_position(name, seq)

    def _run_command(self, ended: JobEnded, stopping: threading.Event) -> bool:
        inbox = next((one for one in self._config.inbox if _root(one) == ended.inbox), None)
        command = () if inbox is None else inbox.on_done if ended.event == "job.done" else inbox.on_failed
        if inbox is None or not command:
            return True
        fault = commands.run(command, ended, self._environ, inbox.command_timeout_s, stopping)
        return self._report(ended, "command", command[0], fault)

    def _send(self, ended: JobEnded, stopping: threading.Event) -> bool:
        hook = self._config.webhook
        fault = webhook.deliver(hook.url, hook.secret_file, ended, stopping, attempts=hook.attempts)
        return self._report(ended, "webhook", "", fault)

    def _report(self, ended: JobEnded, what: str, name: str, fault: str | None) -> bool:
        """Log the outcome of a delivery; return whether it was completed."""
        if fault is None:
            return False
        if fault:
            _log.error(log.HOOK_FAILED, job=ended.job, what=what, cause=fault)
            self._call_in_loop(partial(self._note, ended, f"{what}_failed", fault))
        else:
            _log.info(log.HOOK_DONE, job=ended.job, what=what, **({"command": name} if name else {}))
        return True

    def _note(self, ended: JobEnded, event: str, cause: str) -> None:
        """Append a failure to the journal, in the loop's thread."""
        state = ended.event.removeprefix("job.")
        with contextlib.suppress(NoSpaceError):  # it is in the log
            self._send_to_watchers([self._store.append_event(ended.job, state, event, cause)])


def _root(inbox: InboxConfig) -> str:
    return os.fsencode(Path(inbox.path).absolute()).decode("utf-8", "replace")
