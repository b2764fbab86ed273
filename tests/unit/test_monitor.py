"""The monitor's gauges and the daemon's health."""

from __future__ import annotations

from subtitled.core import events as ev
from subtitled.core.model_placement import ModelSpec
from subtitled.core.protocol import EndpointSettings, EngineSettings
from subtitled.core.records import Role, TextPlan
from subtitled.core.translation import TranslationRequest
from subtitled.observability.metrics import Metrics, ModelGauges
from subtitled.observability.monitor import STUCK_S, BusyMeter, Monitor, WaitMeter
from unit.broker_bench import Bench, bench


class MonitoredBroker:
    """A broker under virtual time with a monitor."""

    def __init__(self, b: Bench) -> None:
        self.bench = b
        self.metrics = Metrics()
        self.monitor = Monitor(self.metrics, clock=lambda: self.bench.now)

    def update(self, *, after_s: float = 0.0, is_stopping: bool = False) -> str:
        """Update after `after_s` and return why the daemon is not ready."""
        self.bench.now += after_s
        self.monitor.update(self.bench.broker, is_stopping=is_stopping)
        return self.monitor.health.readiness_fault()

    def value(self, name: str, **labels: str) -> float | None:
        """Return a metric."""
        return self.metrics.registry.get_sample_value(name, labels)


def test_daemon_without_a_loaded_model_is_not_ready_and_names_the_workers_states() -> None:
    b = bench()
    b.handle(ev.SlotAdded("gpu0", Role.TRANSCRIBE))
    monitored = MonitoredBroker(b)
    assert monitored.update() == "no transcribe worker is ready: gpu0 is starting"
    b.ready("gpu0.1")
    assert monitored.update(after_s=1) == ""


def test_daemon_with_only_broken_workers_is_not_ready() -> None:
    b = bench("gpu0", "gpu1")
    monitored = MonitoredBroker(b)
    assert monitored.update() == ""
    b.die("gpu0.1", is_fatal=True)
    assert monitored.update(after_s=1) == "", "the other one works"
    b.die("gpu1.1", is_fatal=True)
    assert monitored.update(after_s=1).startswith("no transcribe worker is ready: gpu0 is broken (")
    assert monitored.value("subtitled_worker_broken", slot="gpu0") == 1
    assert monitored.value("subtitled_workers", role="transcribe", state="broken") == 2


def test_series_and_tables_of_a_host_that_left_are_removed() -> None:
    """Its name may never return, as with autoscaled hosts."""
    b = bench("gpu0", forget_s=60.0)
    b.ready(b.join("gpu2/cuda0"))
    monitored = MonitoredBroker(b)
    monitored.update()
    metrics = monitored.metrics
    for slot in ("gpu0", "gpu2/cuda0"):
        metrics.count_load(slot, "base", 2.0)
        metrics.count_unload(slot, "base")
        for counter in (metrics.audio_seconds, metrics.worker_restarts):
            counter.labels(slot).inc()
        metrics.lease_seconds.labels(slot).observe(1)
        metrics.batch_fill.labels(slot).observe(1)
        metrics.worker_round_trip.labels(slot).set(1)
        metrics.worker_bytes.labels(slot, "sent").inc()
        metrics.worker_bytes.labels(slot, "received").inc()
        monitored.monitor.sent(slot)
        monitored.monitor.answered(slot, 1.0)
    b.die("gpu2/cuda0.1")
    for _ in range(3):
        b.wait(61.0)
    monitored.update(after_s=1)
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    slots = {sample.labels["slot"] for sample in samples if "slot" in sample.labels}
    assert slots == {"gpu0"}
    assert monitored.value("subtitled_model_load_seconds_total", model="base") == 4
    assert dict(monitored.monitor.busy_s) == {"gpu0": 1.0}
    assert monitored.value("subtitled_worker_broken", slot="gpu0") == 0


def test_models_have_their_workers_memory_and_jobs() -> None:
    b = bench("p0", "gpu0")
    b.broker.placement.configure([ModelSpec(), ModelSpec(name="small", engine=EngineSettings(model="small"))])
    monitored = MonitoredBroker(b)
    monitored.monitor.default_model = "base"
    b.submit()
    monitored.update()
    assert monitored.value("subtitled_model_workers", model="base") == 1
    assert monitored.value("subtitled_model_jobs", model="base") == 1
    assert monitored.value("subtitled_model_workers", model="small") == 0
    b.broker.placement.configure([ModelSpec()])
    monitored.update(after_s=1)
    assert monitored.value("subtitled_model_workers", model="small") is None


def test_gauges_of_a_model_are_there_during_an_update() -> None:
    """A scrape in another thread would miss the series of all models while they are removed and added again."""
    metrics = Metrics()
    gauges = [ModelGauges(name="base", workers=1, memory_bytes=2, jobs=3)]
    metrics.set_models(gauges)
    all_gauges = (metrics.model_workers, metrics.model_bytes, metrics.model_jobs)
    before = [gauge.labels("base") for gauge in all_gauges]
    metrics.set_models(gauges)
    assert all(gauge.labels("base") is one for gauge, one in zip(all_gauges, before, strict=True))


def test_stopping_daemon_is_not_ready() -> None:
    monitored = MonitoredBroker(bench("gpu0"))
    assert monitored.update(is_stopping=True) == "the daemon is stopping"
    assert monitored.monitor.health.liveness_fault() == ""


def test_daemon_with_waiting_segments_and_no_finished_lease_is_not_ready() -> None:
    b = bench("p0", "gpu0", batch_size=1, lease_min_s=30.0, lease_per_audio_s=1.0)
    monitored = MonitoredBroker(b)
    monitored.update(after_s=1_000)
    b.submit()
    for index in range(4):
        b.prepared(index)
    assert monitored.update(after_s=29) == "", "hours without work are no fault"
    assert monitored.value("subtitled_oldest_ready_seconds") == 0
    assert monitored.update(after_s=2).startswith("3 segments are waiting and no lease was finished for 31 s")
    assert monitored.value("subtitled_oldest_ready_seconds") == 2
    assert monitored.value("subtitled_ready_segments") == 3
    assert (monitored.value("subtitled_queue_audio_seconds") or 0) > 0
    monitored.monitor.answered("gpu0", 31.0)
    assert monitored.update(after_s=1) == ""


def test_text_that_waits_for_an_endpoint_leaves_the_daemon_ready() -> None:
    endpoint = EndpointSettings(url="http://localhost/v1", model="m")
    llm = ModelSpec(
        name="llm", engine=EngineSettings(kind="openai", endpoint=endpoint), endpoint_slot="endpoint-llm"
    )
    b = Bench((ModelSpec(), llm), silence_s=1e6)
    for slot in ("p0", "gpu0"):
        b.worker(slot)
    monitored = MonitoredBroker(b)
    b.submit(translate_to=("ja",))
    b.read(0)
    b.reply_to_all()
    b.handle(ev.OutputsWritten("a", b"a"))
    request = TranslationRequest(source="de", target="ja", sentences=("x",))
    text = TextPlan(model="llm", request=request, keys=("x",), terms=("",))
    b.handle(ev.TranslationsPlanned(job="a", number=1, texts=(text,)))
    monitored.update()
    assert monitored.update(after_s=10_000) == ""
    assert monitored.value("subtitled_ready_segments") == 1
    assert monitored.value("subtitled_waiting_sentences") == 1
    assert monitored.value("subtitled_queue_audio_seconds") == 0


def test_stuck_loop_is_neither_alive_nor_ready() -> None:
    monitored = MonitoredBroker(bench("gpu0"))
    monitored.update()
    monitored.bench.now += STUCK_S + 1
    assert monitored.monitor.health.liveness_fault() == "the loop has been stuck for 11 s"
    assert monitored.monitor.health.readiness_fault() == "the loop has been stuck for 11 s"
    assert monitored.update() == ""


def test_health_is_updated_once_a_second() -> None:
    monitored = MonitoredBroker(bench("gpu0"))
    monitored.update()
    state = monitored.monitor.health.state
    monitored.update(after_s=0.9)
    assert monitored.monitor.health.state is state
    monitored.update(after_s=0.2)
    assert monitored.monitor.health.state is not state


def test_busy_ratio_covers_the_last_minute() -> None:
    meter = BusyMeter()
    assert meter.ratio("gpu0", 0, is_busy=False) == 0
    meter.sent("gpu0", 0)
    assert meter.ratio("gpu0", 10, is_busy=True) == 1, "the current lease counts"
    meter.answered("gpu0", 10, 10)
    assert meter.ratio("gpu0", 20, is_busy=False) == 0.5
    assert meter.ratio("gpu0", 60, is_busy=False) == 10 / 60
    for second in range(61, 140):
        ratio = meter.ratio("gpu0", second, is_busy=False)
    assert ratio == 0


def test_wait_of_the_oldest_segment_is_known_to_a_second() -> None:
    meter = WaitMeter()
    assert meter.wait_s(0, None, 0.0) == 0
    assert meter.wait_s(3, 1, 5.0) == 0
    assert meter.wait_s(9, 2, 8.0) == 3
    assert meter.wait_s(9, 4, 9.0) == 1, "number 4 was first seen at 8"
    assert meter.wait_s(9, None, 50.0) == 0
    assert meter.wait_s(10, 10, 60.0) == 0
