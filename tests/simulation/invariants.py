"""What must be true of a broker after every step, recomputed from its records."""

from __future__ import annotations

from collections import Counter

from action_checks import Violation
from fault_plan import WINDOW_SAMPLES
from memory_store import StoreTable

from subtitled.core.broker import Broker
from subtitled.core.live_jobs import BYTES_PER_SAMPLE, TextStage, started_entry
from subtitled.core.queue_order import queue_entry
from subtitled.core.records import Job, Role, Segment, SegmentKey
from subtitled.core.states import SEGMENT_FINAL, JobState, SegmentState, WorkerState

HOLDING = (WorkerState.BUSY, WorkerState.DRAINING)


def check(broker: Broker, store: StoreTable, pcm: dict[SegmentKey, int], files: set[str], now: float) -> None:
    """Raise Violation unless all invariants hold; `files` are the jobs whose files are being written."""
    _check_workers(broker)
    leased = _check_leases(broker)
    waiting = (*broker.prepare_dispatch._held.values(), *broker.prepare_dispatch._awaiting.values())
    held = {name for names in waiting for name in names}
    in_line = {name for *_, name in broker.prepare_dispatch._queue}
    ready = 0
    queued_bytes = 0
    for live in broker.live_jobs.jobs.values():
        job, segments = live.job, live.segments
        if not store.agrees_with(job, segments):
            raise Violation(f"job {job.id}: memory and store disagree")
        _check_progress(broker, job, in_line, held, files)
        is_fed = job.id in in_line | held or job.id in broker.prepare_dispatch._slot_of
        for segment in segments.values():
            ready += _check_place(broker, segment, leased, is_fed=is_fed)
        queued_bytes += _check_counts(broker, job, segments)
    if len(broker.lease_dispatch.ready) != ready:
        raise Violation(f"{len(broker.lease_dispatch.ready)} segments are in line, {ready} should be")
    _check_memory(broker, pcm, queued_bytes)
    _check_waiting(broker)
    if not broker.is_draining:
        _check_models_of_texts(broker, now)


def _check_models_of_texts(broker: Broker, now: float) -> None:
    """Check that no sentence waits for a model that cannot be used."""
    ready = broker.lease_dispatch.ready
    for model in ready.waiting():
        cause = broker.placement.obstacle(model, now)
        jobs = [
            job for job in ready.jobs_of(model) if broker.live_jobs.job(job).state is JobState.TRANSLATING
        ]
        if cause and jobs:
            raise Violation(f"sentences of {jobs} wait for {model!r}, which cannot be used: {cause}")


def _check_waiting(broker: Broker) -> None:
    """Check the audio that is still to be transcribed, the files that have no plan, and the jobs of each model."""
    live_jobs, jobs = broker.live_jobs, [live.job for live in broker.live_jobs.jobs.values()]
    states = (JobState.QUEUED, JobState.PREPARING)
    unread = [job.size for job in jobs if job.state in states and not job.is_planned]
    if (live_jobs.unread_files, live_jobs.unread_bytes) != (len(unread), sum(unread)):
        raise Violation(f"{live_jobs.unread_files} files are counted as unread, {len(unread)} are")
    if live_jobs.count_by_model != Counter(job.options.model for job in jobs):
        raise Violation(f"jobs by model are counted as {live_jobs.count_by_model}")
    every = [segment for live in broker.live_jobs.jobs.values() for segment in live.segments.values()]
    open_segments = [segment for segment in every if segment.state not in SEGMENT_FINAL]
    waiting = sum(segment.samples for segment in open_segments if segment.text is None)
    sentences = sum(len(segment.text.keys) for segment in open_segments if segment.text is not None)
    orders = (live_jobs.waiting, queue_entry, True), (live_jobs.started, started_entry, False)
    for order, entry_of, is_waiting in orders:
        expected = sorted(entry_of(job) for job in jobs if (job.state is JobState.QUEUED) is is_waiting)
        if list(order) != expected:
            raise Violation(f"the order of the jobs is {list(order)}, it should be {expected}")
    if broker.live_jobs.open_sentences != sentences:
        raise Violation(f"{broker.live_jobs.open_sentences} sentences are counted, {sentences} wait")
    if broker.live_jobs.open_samples != waiting:
        raise Violation(f"{broker.live_jobs.open_samples} samples are counted as waiting, {waiting} do")


def _check_workers(broker: Broker) -> None:
    worker_table = broker.worker_table
    for worker in worker_table.workers.values():
        if (worker.leases or worker.feed) and worker.state not in HOLDING:
            raise Violation(f"{worker.identity} is {worker.state.value} and holds work")
        if worker.state is WorkerState.BUSY and not worker.leases and not worker.feed:
            raise Violation(f"{worker.identity} is busy with nothing")
        resident_bytes = sum(broker.lease_dispatch.leases[lease].pcm_bytes for lease in worker.leases)
        if worker.is_remote:
            if len(worker.leases) > 1 and resident_bytes > broker.lease_dispatch.policy.max_in_flight_bytes:
                raise Violation(
                    f"{worker.identity} holds {resident_bytes} bytes, in {len(worker.leases)} leases"
                )
        elif len(worker.leases) > worker.credit:
            raise Violation(
                f"{worker.identity} holds {len(worker.leases)} leases, its credit is {worker.credit}"
            )
        is_reading = worker.feed is not None and not worker.feed.is_abandoned
        if (
            worker.feed
            and is_reading
            and broker.prepare_dispatch._slot_of.get(worker.feed.job) != worker.slot
        ):
            raise Violation(f"{worker.identity} reads job {worker.feed.job}, which is not known")
    feeds = sum(
        worker.feed is not None and not worker.feed.is_abandoned for worker in worker_table.workers.values()
    )
    if feeds != len(broker.prepare_dispatch._slot_of):
        raise Violation(f"{feeds} files are being read, {len(broker.prepare_dispatch._slot_of)} are known")
    for role in Role:
        idle = [worker.slot for worker in worker_table.of(role) if worker.state is WorkerState.IDLE]
        if sorted(idle) != sorted(worker_table._idle[role]):
            raise Violation(
                f"idle {role.value} workers are {idle}, known are {list(worker_table._idle[role])}"
            )


def _check_leases(broker: Broker) -> dict[SegmentKey, int]:
    """Check that each lease is in one worker's hands; return the leases that each segment is in."""
    lease_dispatch = broker.lease_dispatch
    held = [lease for worker in broker.worker_table.workers.values() for lease in worker.leases]
    if sorted(held) != sorted(lease_dispatch.leases):
        raise Violation(f"workers hold the leases {sorted(held)}, known are {sorted(lease_dispatch.leases)}")
    leased: dict[SegmentKey, int] = {}
    for lease in lease_dispatch.leases.values():
        for key in lease.keys:
            if lease_dispatch._lease_of.get(key) == lease.id:
                if key in leased:
                    raise Violation(f"{key} is in the leases {leased[key]} and {lease.id}")
                leased[key] = lease.id
    if leased != lease_dispatch._lease_of:
        raise Violation(f"segments in leases: {leased}; known are {lease_dispatch._lease_of}")
    return leased


def _check_progress(broker: Broker, job: Job, in_line: set[str], held: set[str], files: set[str]) -> None:
    """Check that a live job waits for something that will come."""
    is_read = job.id in broker.prepare_dispatch._slot_of
    match job.state:
        case JobState.RECEIVING:
            is_right = job.id not in in_line and not is_read  # its client, or its clock, ends that
        case JobState.QUEUED:
            is_right = job.id in in_line | held and not is_read
        case JobState.PREPARING:
            is_right = is_read
        case JobState.TRANSCRIBING:
            is_right = broker.live_jobs.jobs[job.id].open_segments > 0
        case JobState.TRANSLATING:
            live = broker.live_jobs.jobs[job.id]
            is_leasing = live.text_stage is TextStage.LEASING
            is_right = (live.open_segments > 0) is is_leasing and (job.id in files) is not is_leasing
        case JobState.WRITING | JobState.FAILED:
            is_right = job.id in files and not is_read and not broker.live_jobs.jobs[job.id].pcm_bytes
        case _:
            is_right = False  # it has ended and should be forgotten
    if not is_right:
        raise Violation(f"job {job.id} is {job.state.value} and nothing is done for it, or two things are")


def _check_place(broker: Broker, segment: Segment, leased: dict[SegmentKey, int], *, is_fed: bool) -> bool:
    """Check that a segment of a live job is where its state says; return whether it is in line."""
    key = segment.key
    is_live = broker.live_jobs.job(key.job).state is not JobState.FAILED
    is_ready = segment.is_ready
    if (key in broker.lease_dispatch.ready) is not is_ready:
        raise Violation(f"{key} is {segment.state.value}, in line: {not is_ready}")
    if (key in leased) is not (segment.state is SegmentState.LEASED):
        raise Violation(f"{key} is {segment.state.value}, its lease: {leased.get(key)}")
    if segment.text is not None:
        return is_ready
    if is_live and segment.state is SegmentState.PENDING and not segment.has_pcm and not is_fed:
        raise Violation(f"{key} is nowhere: it has no PCM, and no worker is to read its file")
    if segment.state is SegmentState.LEASED and not segment.has_pcm:
        raise Violation(f"{key} is leased and its PCM is dropped")
    return is_ready


def _check_counts(broker: Broker, job: Job, segments: dict[int, Segment]) -> int:
    """Check the sums that are kept for a job; return the bytes of its PCM."""
    live = broker.live_jobs.jobs[job.id]
    is_open = sum(segment.state not in SEGMENT_FINAL for segment in segments.values())
    starved = {
        index
        for index, segment in segments.items()
        if segment.state is SegmentState.PENDING and not segment.has_pcm and segment.text is None
    }
    count = sum(segment.samples * BYTES_PER_SAMPLE for segment in segments.values() if segment.has_pcm)
    kept = (live.open_segments, live.missing_pcm, live.pcm_bytes)
    if kept != (is_open, starved, count):
        raise Violation(f"job {job.id}: kept are {kept}, true are {(is_open, starved, count)}")
    return count


def _check_memory(broker: Broker, pcm: dict[SegmentKey, int], queued_bytes: int) -> None:
    """Check the PCM: counted right, in memory where a segment has it, and no more than allowed."""
    live_jobs, policy = broker.live_jobs, broker.prepare_dispatch.policy
    if not live_jobs.queued_bytes == queued_bytes == sum(pcm.values()):
        raise Violation(
            f"PCM: {live_jobs.queued_bytes} counted, {queued_bytes} true, {sum(pcm.values())} in memory"
        )
    if any((segment := live_jobs.find(key)) is None or not segment.has_pcm for key in pcm):
        raise Violation("PCM of a segment is in memory that should not be")
    # Beside the queue each prepare worker's file has its floor; and the last segment may overdraw its credit.
    prepare_workers = sum(1 for _ in broker.worker_table.of(Role.PREPARE))
    floor = policy.feed_floor_bytes + WINDOW_SAMPLES * BYTES_PER_SAMPLE
    if queued_bytes > policy.queue_bytes + prepare_workers * floor:
        raise Violation(
            f"{queued_bytes} bytes of PCM in memory, over {policy.queue_bytes} and {prepare_workers} floors"
        )
