"""The autoscaler: a process beside the daemon that requests Ray workers by the amount of queued audio.

It is an ordinary client of the daemon, and its workers join like others: its failure, or Ray's, affects no job. It exits
when Ray's head stays away; the daemon restarts it.
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
"""Seconds between two turns."""
HEAD_S = 10.0
"""Seconds between two checks of Ray's head."""
LOST_S = 35.0
"""Exit if Ray's head is away for so long; Ray itself would end this process after a minute without a useful message."""
TYPICAL_S, TYPICAL_JOBS = 60.0, 20
"""How often, and from how many finished jobs, the typical length of a file is estimated."""
JOIN_TIMEOUT_S = 60.0
"""A placed worker that has not joined after this is logged."""
CLOSE_TIMEOUT_S = 8.0
"""Time limit for the workers' leases when this process ends."""
CONNECT_S = 90.0
"""Time limit for connecting; Ray itself waits for minutes."""
_log = log.get()


class Autoscaler:
    """`run` blocks until `stop`; belongs to the main thread. Without its head Ray may block any turn."""

    def __init__(self, settings: RaySettings, cluster: RayConnection) -> None:
        self._settings = settings
        self._cluster = cluster
        self._client = Client(settings.daemon, key="", timeout_s=5.0)
        self._endpoint = endpoint_of(settings, cluster.own_address())
        ray = settings.ray
        self._pool = RayWorkerPool(
            self._actor_settings, num_gpus=ray.gpus_per_worker, num_cpus=ray.cpus_per_worker
        )
        self._scaling = ScalingPolicy(
            ScalingLimits(
                min_workers=ray.min_workers,
                max_workers=ray.max_workers,
                hours_per_worker=ray.hours_per_worker,
                idle_s=ray.idle_s,
            )
        )
        self._cooldowns = ScalingCooldowns()
        self._stopped = threading.Event()
        self._joined: set[int] = set()
        self._overdue: set[int] = set()
        """Workers that were logged as overdue."""
        self._typical_ms, self._estimate_at = 0.0, 0.0

    def stop(self) -> None:
        """End `run` soon; may be called from a signal handler."""
        self._stopped.set()

    def run(self) -> None:
        """Keep the desired number of workers until `stop`, then stop them all."""
        while not self._stopped.wait(TURN_S):
            self._turn(time.monotonic())
        self._pool.close(min(CLOSE_TIMEOUT_S, self._settings.stop_timeout_s))
        self._client.close()

    def _turn(self, now: float) -> None:
        placed, departed = self._pool.poll()
        for worker in placed:
            node = worker.node[:12]
            _log.info(
                log.RAY_PLACED, worker=_slot(worker), node=node, waited_s=round(now - worker.requested_at, 1)
            )
        for one in departed:
            self._log_departed(one, now)
        self._stop_on_draining_nodes()
        try:
            stats = self._client.stats()
        except SubtitleError:
            return  # the daemon starts or stops; the number of workers stays
        self._scale(stats, now)

    # -- the number of workers -------------------------------------------------------------------------------

    def _scale(self, stats: StatsInfo, now: float) -> None:
        members = self._members({worker.slot: worker for worker in stats.workers}, now)
        unread = stats.jobs.get("queued", 0)
        is_any = any(stats.jobs.get(state) for state in ("queued", "preparing", "transcribing"))
        backlog = backlog_ms(stats.queued_ms, unread, self._typical(now) if unread else 0.0)
        decision = self._scaling.decide(
            now, members, backlog, is_any=is_any, may_request=self._cooldowns.may_request(now)
        )
        if decision.request:
            fields = {"workers": decision.request, "desired": decision.desired, "present": len(members)}
            _log.info(log.RAY_REQUESTED, **fields, backlog_h=round(backlog / 3_600_000, 2))
        for _ in range(decision.request):
            self._pool.request()
        for number in decision.cancel:
            _log.info(log.RAY_CANCELLED, worker=f"{RAY_HOST}/{number}", desired=decision.desired)
            self._pool.stop(number, 0.0)
        for number in decision.stop:
            self._stop_worker(self._pool.workers[number], "idle for ray.idle_s")

    def _members(self, workers: Mapping[str, WorkerFacts], now: float) -> list[ScalingMember]:
        members = []
        for worker in self._pool.workers.values():
            if worker.stage is WorkerStage.STOPPING:
                continue
            facts = workers.get(_slot(worker)) if worker.stage is WorkerStage.PLACED else None
            state = facts.state if facts else ""
            if state in {"idle", "busy"} and worker.number not in self._joined:
                self._joined.add(worker.number)
                self._cooldowns.succeeded()
            is_late = worker.stage is WorkerStage.PLACED and now - worker.placed_at > JOIN_TIMEOUT_S
            if facts is None and is_late and worker.number not in self._overdue | self._joined:
                self._overdue.add(worker.number)
                cause = f"has not joined within {JOIN_TIMEOUT_S:.0f} s; {self._endpoint} must be reachable from its node"
                _log.warning(log.RAY_OVERDUE, worker=_slot(worker), node=worker.node[:12], cause=cause)
            members.append(
                ScalingMember(
                    number=worker.number,
                    is_placed=worker.stage is WorkerStage.PLACED,
                    is_idle=state == "idle",
                    audio_ms=facts.audio_ms if facts else 0,
                )
            )
        return members

    def _typical(self, now: float) -> float:
        """Return the mean length of the last finished files; 0 while there are none."""
        if now >= self._estimate_at:
            self._estimate_at = now + TYPICAL_S
            try:
                lengths = [job.audio_ms for job in self._client.list(("done",), limit=TYPICAL_JOBS)]
            except SubtitleError:
                return self._typical_ms
            self._typical_ms = sum(lengths) / len(lengths) if lengths else 0.0
        return self._typical_ms

    # -- one worker ------------------------------------------------------------------------------------------

    def _actor_settings(self, number: int) -> ActorSettings:
        ray = self._settings.ray
        return ActorSettings(
            number=number,
            endpoint=self._endpoint,
            key=key_text(self._settings.key),
            device="cuda:0" if ray.gpus_per_worker else "cpu",
            cpu_threads=0 if ray.gpus_per_worker else max(1, int(ray.cpus_per_worker)),
            stop_timeout_s=self._settings.stop_timeout_s,
            log_level=self._settings.log_level,
        )

    def _stop_on_draining_nodes(self) -> None:
        """Stop the workers on draining nodes: they finish their leases, and others are requested elsewhere."""
        nodes = {worker.node for worker in self._pool.workers.values() if worker.stage is WorkerStage.PLACED}
        for node in (self._cluster.draining() & nodes) if nodes else ():
            for worker in list(self._pool.workers.values()):
                if worker.node == node and worker.stage is WorkerStage.PLACED:
                    self._stop_worker(worker, "its node is being drained")

    def _stop_worker(self, worker: PlacedWorker, cause: str) -> None:
        _log.info(log.RAY_STOPPING, worker=_slot(worker), cause=cause)
        self._pool.stop(worker.number, self._settings.stop_timeout_s)

    def _log_departed(self, departed: DepartedWorker, now: float) -> None:
        worker = departed.worker
        fields = {"worker": _slot(worker), "node": worker.node[:12], "cause": departed.cause}
        has_joined = worker.number in self._joined
        self._joined.discard(worker.number)
        self._overdue.discard(worker.number)
        if worker.stage is WorkerStage.STOPPING:
            _log.info(log.RAY_STOPPED, **fields)
            return
        if not departed.is_lost:
            self._cooldowns.failed(
                now, now - worker.placed_at if has_joined else 0.0, is_fatal=departed.is_fatal
            )
        tell = _log.error if departed.is_fatal else _log.warning
        tell(log.RAY_FAILED, **fields, again_in_s=round(self._cooldowns.left_s(now), 1))


def _slot(worker: PlacedWorker) -> str:
    """Return a worker's slot in the daemon."""
    return f"{RAY_HOST}/{worker.place or worker.number}"


def main(parent_pid: int) -> int:
    """Run the autoscaler with the settings on standard input; return the exit status."""
    die_with_parent(parent_pid)
    settings = msgspec.json.decode(sys.stdin.buffer.read(), type=RaySettings)
    log.configure(settings.log_level, settings.log_format, sys.stderr)
    log.forward_lines(os.environ)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # sent to the whole process group, but meant for the daemon
    connect_timer = threading.Timer(CONNECT_S, _connect_timed_out, (settings.ray.address,))
    connect_timer.daemon = True
    connect_timer.start()
    try:
        cluster = RayConnection(settings.ray.address)
    except SubtitledError as error:
        _log.error(log.RAY_UNREACHABLE, address=settings.ray.address, cause=str(error))
        return ExitCode.UNREACHABLE
    connect_timer.cancel()
    autoscaler = Autoscaler(settings, cluster)
    # Ray sets its own handler when it connects.
    signal.signal(signal.SIGTERM, lambda *_: autoscaler.stop())
    nodes = cluster.nodes()
    _log.info(
        log.RAY_CONNECTED,
        address=cluster.address,
        nodes=len(nodes),
        gpus=sum(node.gpus for node in nodes),
        cpus=sum(node.cpus for node in nodes),
    )
    threading.Thread(target=_watch_head, args=(cluster.address,), name="head", daemon=True).start()
    autoscaler.run()
    cluster.close()
    return ExitCode.OK


def _watch_head(address: str) -> None:
    """Log when Ray's head does not answer, and exit this process, even if it is blocked, when it stays away."""
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


def _connect_timed_out(address: str) -> None:
    cause = f"no connection within {CONNECT_S:.0f} s; see the log of the head (ray status)"
    _log.error(log.RAY_UNREACHABLE, address=address, cause=cause)
    os._exit(ExitCode.UNREACHABLE)
