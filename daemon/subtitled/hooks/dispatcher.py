"""What follows a job's end: the inboxes' commands, the webhook; told of in the log and in the journal when they fail."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from subtitled import log
from subtitled.config.schema import Config, InboxConfig
from subtitled.errors import NoSpaceError
from subtitled.hooks import commands, webhook
from subtitled.hooks.journal_reader import HookStop, JobEnded, JournalReader
from subtitled.storage.rows import JournalEntry
from subtitled.storage.store import Store

_log = log.get()


class HookDispatcher:
    """Follows the journal for commands and for the webhook, each on a thread of its own, so that neither waits for the other.

    Belongs to the thread of the server's loop, which it never holds up. `put` has a function called in that thread;
    `tell` is told what is added to the journal.
    """

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        store: Store,
        *,
        put: Callable[[Callable[[], None]], None],
        tell: Callable[[list[JournalEntry]], None],
    ) -> None:
        self._environ = environ
        self._store = store
        self._put = put
        self._tell_watchers = tell
        self._config = config
        self._database = Path(config.state.dir, "subtitled.sqlite")
        self._followers: dict[str, JournalReader] = {}

    def start(self) -> None:
        """Begin, with what a daemon that was killed did not get to."""
        self.reconfigure(self._config)

    def reconfigure(self, config: Config) -> None:
        """Take over another configuration, for what is delivered from now on."""
        self._config = config
        has_commands = any(inbox.on_done or inbox.on_failed for inbox in config.inbox)
        self._follow("commands", self._run_command, is_wanted=has_commands)
        self._follow("webhook", self._send, is_wanted=bool(config.webhook.url))

    def wake(self) -> None:
        """Say that the journal has grown."""
        for follower in self._followers.values():
            follower.wake()

    def close(self) -> None:
        """Stop; what is under way is done again after the next start."""
        for follower in self._followers.values():
            follower.stop()

    def _follow(self, name: str, deliver: Callable[[JobEnded, HookStop], bool], *, is_wanted: bool) -> None:
        mark = self._database.with_name(f"{name}.seq")
        if is_wanted and name not in self._followers:
            self._followers[name] = JournalReader(name, self._database, mark, deliver)
            self._followers[name].start(self._store.last_seq())
        elif not is_wanted:
            if follower := self._followers.pop(name, None):
                follower.stop()
            # What ends while nobody asks for it is not told later.
            mark.unlink(missing_ok=True)

    def _run_command(self, ended: JobEnded, stopping: HookStop) -> bool:
        inbox = next((one for one in self._config.inbox if _root(one) == ended.inbox), None)
        command = () if inbox is None else inbox.on_done if ended.event == "job.done" else inbox.on_failed
        if inbox is None or not command:
            return True
        fault = commands.run(command, ended, self._environ, inbox.command_timeout_s, stopping)
        return self._tell(ended, "command", command[0], fault)

    def _send(self, ended: JobEnded, stopping: HookStop) -> bool:
        hook = self._config.webhook
        fault = webhook.deliver(hook.url, hook.secret_file, ended, stopping, attempts=hook.attempts)
        return self._tell(ended, "webhook", "", fault)

    def _tell(self, ended: JobEnded, what: str, name: str, fault: str | None) -> bool:
        """Tell what came of a delivery; return whether anything did."""
        if fault is None:
            return False
        if fault:
            _log.error(log.HOOK_FAILED, job=ended.job, what=what, cause=fault)
            self._put(partial(self._note, ended, f"{what}_failed", fault))
        else:
            _log.info(log.HOOK_DONE, job=ended.job, what=what, **({"command": name} if name else {}))
        return True

    def _note(self, ended: JobEnded, event: str, cause: str) -> None:
        """Write a failure to the journal, in the loop's thread."""
        state = ended.event.removeprefix("job.")
        with contextlib.suppress(NoSpaceError):  # it is in the log
            self._tell_watchers([self._store.note(ended.job, state, event, cause)])


def _root(inbox: InboxConfig) -> str:
    return os.fsencode(Path(inbox.path).absolute()).decode("utf-8", "replace")
