"""How things stand, and the verdicts on it."""

from __future__ import annotations

from subtitled.core import events as ev
from subtitled.core.records import Role
from subtitled.observability.metrics import Metrics
from subtitled.observability.monitor import STUCK_S, BusyMeter, Monitor, WaitMeter
from unit.broker_bench import Bench, bench


class Watched:
    """A broker under virtual time, looked at as the loop does."""

    def __init__(self, b: Bench) -> None:
        self.bench = b
        self.metrics = Metrics()
        self.vitals = Monitor(self.metrics, clock=lambda: self.bench.now)

    def look(self, *, after_s: float = 0.0, is_stopping: bool = False) -> str:
        """Look after so many seconds, and return why the daemon is not ready."""
        self.bench.now += after_s
        self.vitals.look(self.bench.broker, is_stopping=is_stopping)
        return self.vitals.health.why_not_ready()

    def value(self, name: str, **labels: str) -> float | None:
        """Return a metric."""
        return self.metrics.registry.get_sample_value(name, labels)


def test_a_daemon_without_a_model_is_not_ready_and_says_which_worker_is_where() -> None:
    b = bench()
    b.happen(ev.SlotAdded("gpu0", Role.TRANSCRIBE))
    watched = Watched(b)
    assert watched.look() == "no transcribe worker is ready: gpu0 is starting"
    b.ready("gpu0.1")
    assert watched.look(after_s=1) == ""


def test_broken_workers_alone_make_no_daemon_that_is_ready() -> None:
    b = bench("gpu0", "gpu1")
    watched = Watched(b)
    assert watched.look() == ""
    b.die("gpu0.1", is_fatal=True)
    assert watched.look(after_s=1) == "", "the other one works"
    b.die("gpu1.1", is_fatal=True)
    assert watched.look(after_s=1).startswith("no transcribe worker is ready: gpu0 is broken (")
    assert watched.value("subtitled_worker_broken", slot="gpu0") == 1
    assert watched.value("subtitled_workers", role="transcribe", state="broken") == 2


def test_a_host_that_has_left_for_good_leaves_no_gauges() -> None:
    """Its name may never come again, as those of autoscaled hosts do not."""
    b = bench("gpu0", forget_s=60.0)
    b.ready(b.join("gpu2/cuda0"))
    watched = Watched(b)
    watched.look()
    assert watched.value("subtitled_worker_broken", slot="gpu2/cuda0") == 0
    b.die("gpu2/cuda0.1")
    for _ in range(3):
        b.wait(61.0)
    watched.look(after_s=1)
    assert watched.value("subtitled_worker_broken", slot="gpu2/cuda0") is None
    assert watched.value("subtitled_worker_busy_ratio", slot="gpu2/cuda0") is None
    assert watched.value("subtitled_worker_broken", slot="gpu0") == 0


def test_a_daemon_that_stops_is_not_ready() -> None:
    watched = Watched(bench("gpu0"))
    assert watched.look(is_stopping=True) == "the daemon is stopping"
    assert watched.vitals.health.why_not_alive() == ""


def test_segments_that_wait_while_no_lease_ends_make_a_daemon_that_is_not_ready() -> None:
    b = bench("p0", "gpu0", batch_size=1, lease_min_s=30.0, lease_per_audio_s=1.0)
    watched = Watched(b)
    watched.look(after_s=1_000)
    b.submit()
    for index in range(4):
        b.prepared(index)
    assert watched.look(after_s=29) == "", "hours without work are no fault"
    assert watched.value("subtitled_oldest_ready_seconds") == 0
    assert watched.look(after_s=2).startswith("3 segments wait, and no lease has been finished for 31 s")
    assert watched.value("subtitled_oldest_ready_seconds") == 2
    assert watched.value("subtitled_ready_segments") == 3
    assert (watched.value("subtitled_queue_audio_seconds") or 0) > 0
    watched.vitals.answered("gpu0", 31.0)
    assert watched.look(after_s=1) == ""


def test_a_loop_that_does_not_turn_is_neither_alive_nor_ready() -> None:
    watched = Watched(bench("gpu0"))
    watched.look()
    watched.bench.now += STUCK_S + 1
    assert watched.vitals.health.why_not_alive() == "the loop has not turned for 11 s"
    assert watched.vitals.health.why_not_ready() == "the loop has not turned for 11 s"
    assert watched.look() == ""


def test_the_loop_looks_once_a_second_however_often_it_turns() -> None:
    watched = Watched(bench("gpu0"))
    watched.look()
    condition = watched.vitals.health.condition
    watched.look(after_s=0.9)
    assert watched.vitals.health.condition is condition
    watched.look(after_s=0.2)
    assert watched.vitals.health.condition is not condition


def test_the_busy_ratio_is_that_of_the_last_minute() -> None:
    meter = BusyMeter()
    assert meter.look("gpu0", 0, is_busy=False) == 0
    meter.sent("gpu0", 0)
    assert meter.look("gpu0", 10, is_busy=True) == 1, "the lease that it is at counts"
    meter.answered("gpu0", 10, 10)
    assert meter.look("gpu0", 20, is_busy=False) == 0.5
    assert meter.look("gpu0", 60, is_busy=False) == 10 / 60
    for second in range(61, 140):
        ratio = meter.look("gpu0", second, is_busy=False)
    assert ratio == 0


def test_what_has_waited_longest_is_known_to_a_second() -> None:
    meter = WaitMeter()
    assert meter.look(0, None, 0.0) == 0
    assert meter.look(3, 1, 5.0) == 0
    assert meter.look(9, 2, 8.0) == 3
    assert meter.look(9, 4, 9.0) == 1, "number 4 was first seen at 8"
    assert meter.look(9, None, 50.0) == 0
    assert meter.look(10, 10, 60.0) == 0
