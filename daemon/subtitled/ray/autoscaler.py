"""The process beside the daemon that speaks with Ray: it asks the daemon how much waits, and Ray for as many workers.

It is a client of the daemon as others are, and its workers join as others do: whatever becomes of it, or of Ray, becomes of
no job. It ends when Ray is gone for good; the daemon starts it again.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping

import msgspec

from subtitle import Client, StatsInfo, SubtitleError
from subtitle.keys import key_text
from subtitle.messages import WorkerFacts
from subtitled import log
from subtitled.config.checks import RAY_HOST
from subtitled.errors import ExitCode, SubtitledError
from subtitled.ray.actor import ActorSettings
from subtitled.ray.connection import RayConnection, why_unreachable
from subtitled.ray.scaling_policy import (
    ScalingCooldowns,
    ScalingLimits,
    ScalingMember,
    ScalingPolicy,
    backlog_ms,
)
from subtitled.ray.settings import RaySettings, endpoint_of
from subtitled.ray.worker_pool import DepartedWorker, PlacedWorker, RayWorkerPool, WorkerStage
from subtitled.runtime.processes import die_with_parent

TURN_S = 1.0
"""Seconds between two looks at the daemon and at Ray."""
HEAD_S = 10.0
"""Seconds between two looks whether Ray's head is there."""
LOST_S = 35.0
"""Ray's head may be away for so long; Ray itself would end this process after a minute, with less of a word."""
TYPICAL_S, TYPICAL_JOBS = 60.0, 20
"""How often, and from how many jobs that were done, the length of a file is judged."""
LATE_S = 60.0
"""A worker that has a node and has not joined by then is told of."""
GOODBYE_S = 8.0
"""At the end: what workers hold may take so long."""
CONNECT_S = 90.0
"""Connecting takes seconds; Ray waits for minutes."""
_log = log.get()


class Autoscaler:
    """`run` blocks until `stop`; belongs to the main thread. Without its head Ray may hold up any turn."""

    def __init__(self, errand: RaySettings, cluster: RayConnection) -> None:
        self._errand = errand
        self._cluster = cluster
        self._client = Client(errand.daemon, key="", timeout_s=5.0)
        self._endpoint = endpoint_of(errand, cluster.own_address())
        wanted = errand.ray
        self._crew = RayWorkerPool(
            self._orders, num_gpus=wanted.gpus_per_worker, num_cpus=wanted.cpus_per_worker
        )
        self._scaling = ScalingPolicy(
            ScalingLimits(
                min_workers=wanted.min_workers,
                max_workers=wanted.max_workers,
                hours_per_worker=wanted.hours_per_worker,
                idle_s=wanted.idle_s,
            )
        )
        self._pauses = ScalingCooldowns()
        self._is_over = threading.Event()
        self._joined: set[int] = set()
        self._missed: set[int] = set()
        """Those of whom the log has that they did not join."""
        self._typical_ms, self._judge_at = 0.0, 0.0

    def stop(self) -> None:
        """End `run` soon; may be called from a signal handler."""
        self._is_over.set()

    def run(self) -> None:
        """Keep as many workers as are wanted, and let all go in the end."""
        while not self._is_over.wait(TURN_S):
            self._turn(time.monotonic())
        self._crew.close(min(GOODBYE_S, self._errand.stop_timeout_s))
        self._client.close()

    def _turn(self, now: float) -> None:
        placed, gone = self._crew.look()
        for hand in placed:
            node = hand.node[:12]
            _log.info(log.RAY_PLACED, worker=_slot(hand), node=node, waited_s=round(now - hand.asked_at, 1))
        for one in gone:
            self._tell_of(one, now)
        self._heed_notices()
        try:
            stats = self._client.stats()
        except SubtitleError:
            return  # it starts or stops; what there is stays as it is
        self._scale(stats, now)

    # -- how many --------------------------------------------------------------------------------------------

    def _scale(self, stats: StatsInfo, now: float) -> None:
        members = self._members({worker.slot: worker for worker in stats.workers}, now)
        unread = stats.jobs.get("queued", 0)
        is_any = any(stats.jobs.get(state) for state in ("queued", "preparing", "transcribing"))
        backlog = backlog_ms(stats.queued_ms, unread, self._typical(now) if unread else 0.0)
        decision = self._scaling.decide(
            now, members, backlog, is_any=is_any, may_ask=self._pauses.may_ask(now)
        )
        if decision.ask:
            fields = {"workers": decision.ask, "wanted": decision.wanted, "there": len(members)}
            _log.info(log.RAY_REQUESTED, **fields, backlog_h=round(backlog / 3_600_000, 2))
        for _ in range(decision.ask):
            self._crew.ask()
        for number in decision.withdraw:
            _log.info(log.RAY_CANCELLED, worker=f"{RAY_HOST}/{number}", wanted=decision.wanted)
            self._crew.leave(number, 0.0)
        for number in decision.let_go:
            self._leave(self._crew.hands[number], "without work for ray.idle_s")

    def _members(self, workers: Mapping[str, WorkerFacts], now: float) -> list[ScalingMember]:
        members = []
        for hand in self._crew.hands.values():
            if hand.stage is WorkerStage.LEAVING:
                continue
            facts = workers.get(_slot(hand)) if hand.stage is WorkerStage.PLACED else None
            state = facts.state if facts else ""
            if state in {"idle", "busy"} and hand.number not in self._joined:
                self._joined.add(hand.number)
                self._pauses.succeeded()
            is_late = hand.stage is WorkerStage.PLACED and now - hand.placed_at > LATE_S
            if facts is None and is_late and hand.number not in self._missed | self._joined:
                self._missed.add(hand.number)
                cause = (
                    f"has not joined within {LATE_S:.0f} s; {self._endpoint} must be reachable from its node"
                )
                _log.warning(log.RAY_OVERDUE, worker=_slot(hand), node=hand.node[:12], cause=cause)
            members.append(
                ScalingMember(
                    number=hand.number,
                    is_placed=hand.stage is WorkerStage.PLACED,
                    is_idle=state == "idle",
                    audio_ms=facts.audio_ms if facts else 0,
                )
            )
        return members

    def _typical(self, now: float) -> float:
        """Return the mean length of the last files that were done; 0 while there are none."""
        if now >= self._judge_at:
            self._judge_at = now + TYPICAL_S
            try:
                lengths = [job.audio_ms for job in self._client.list(("done",), limit=TYPICAL_JOBS)]
            except SubtitleError:
                return self._typical_ms
            self._typical_ms = sum(lengths) / len(lengths) if lengths else 0.0
        return self._typical_ms

    # -- one worker ------------------------------------------------------------------------------------------

    def _orders(self, number: int) -> ActorSettings:
        wanted = self._errand.ray
        return ActorSettings(
            number=number,
            endpoint=self._endpoint,
            key=key_text(self._errand.key),
            device="cuda:0" if wanted.gpus_per_worker else "cpu",
            cpu_threads=0 if wanted.gpus_per_worker else max(1, int(wanted.cpus_per_worker)),
            stop_timeout_s=self._errand.stop_timeout_s,
            log_level=self._errand.log_level,
        )

    def _heed_notices(self) -> None:
        """Have the workers leave whose nodes are to go: they finish what they hold, and others are asked for elsewhere."""
        nodes = {hand.node for hand in self._crew.hands.values() if hand.stage is WorkerStage.PLACED}
        for node in (self._cluster.draining() & nodes) if nodes else ():
            for hand in list(self._crew.hands.values()):
                if hand.node == node and hand.stage is WorkerStage.PLACED:
                    self._leave(hand, "its node is to go")

    def _leave(self, hand: PlacedWorker, cause: str) -> None:
        _log.info(log.RAY_STOPPING, worker=_slot(hand), cause=cause)
        self._crew.leave(hand.number, self._errand.stop_timeout_s)

    def _tell_of(self, gone: DepartedWorker, now: float) -> None:
        hand = gone.hand
        fields = {"worker": _slot(hand), "node": hand.node[:12], "cause": gone.cause}
        has_joined = hand.number in self._joined
        self._joined.discard(hand.number)
        self._missed.discard(hand.number)
        if hand.stage is WorkerStage.LEAVING:
            _log.info(log.RAY_STOPPED, **fields)
            return
        if not gone.is_lost:
            self._pauses.failed(now, now - hand.placed_at if has_joined else 0.0, is_fatal=gone.is_fatal)
        tell = _log.error if gone.is_fatal else _log.warning
        tell(log.RAY_FAILED, **fields, again_in_s=round(self._pauses.left_s(now), 1))


def _slot(hand: PlacedWorker) -> str:
    """Return what the daemon calls a worker."""
    return f"{RAY_HOST}/{hand.place or hand.number}"


def main(parent_pid: int) -> int:
    """Do the errand that comes on standard input; return the exit status."""
    die_with_parent(parent_pid)
    errand = msgspec.json.decode(sys.stdin.buffer.read(), type=RaySettings)
    log.configure(errand.log_level, errand.log_format, sys.stderr)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # they go to the whole process group, and are the daemon's
    given_up = threading.Timer(CONNECT_S, _give_up, (errand.ray.address,))
    given_up.daemon = True
    given_up.start()
    try:
        cluster = RayConnection(errand.ray.address)
    except SubtitledError as error:
        _log.error(log.RAY_UNREACHABLE, address=errand.ray.address, cause=str(error))
        return ExitCode.UNREACHABLE
    given_up.cancel()
    engine = Autoscaler(errand, cluster)
    # Ray has set a handler of its own when it was connected.
    signal.signal(signal.SIGTERM, lambda *_: engine.stop())
    nodes = cluster.nodes()
    _log.info(
        log.RAY_CONNECTED,
        address=cluster.address,
        nodes=len(nodes),
        gpus=sum(node.gpus for node in nodes),
        cpus=sum(node.cpus for node in nodes),
    )
    threading.Thread(target=_watch_head, args=(cluster.address,), name="head", daemon=True).start()
    engine.run()
    cluster.close()
    return ExitCode.OK


def _watch_head(address: str) -> None:
    """Tell when Ray's head does not answer, and end this process, whatever holds it up, when it stays away."""
    lost_at: float | None = None
    while True:
        time.sleep(HEAD_S)
        cause = why_unreachable(address)
        if cause:
            lost_at = lost_at or time.monotonic()
            _log.warning(log.RAY_UNREACHABLE, address=address, cause=cause)
            if time.monotonic() - lost_at > LOST_S:
                os._exit(ExitCode.UNREACHABLE)
        elif lost_at is not None:
            lost_at = None
            _log.info(log.RAY_RESTORED, address=address)


def _give_up(address: str) -> None:
    cause = f"it has not let this machine in within {CONNECT_S:.0f} s; see the log of the head (ray status)"
    _log.error(log.RAY_UNREACHABLE, address=address, cause=cause)
    os._exit(ExitCode.UNREACHABLE)
