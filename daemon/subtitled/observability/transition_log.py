"""Log and count the broker's transitions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from msgspec import Struct

from subtitle.messages import AudioChoice
from subtitled import log
from subtitled.config.schema import SAMPLE_RATE
from subtitled.core import actions as ac
from subtitled.core.records import FIRST_TEXT
from subtitled.core.states import JobEvent, JobState, SegmentEvent, WorkerState
from subtitled.cues.transcript import MissingSpan, Transcript
from subtitled.observability.metrics import Metrics
from subtitled.storage.rows import JobRow

MAX_LOGGED_SPANS = 20
"""Stretches of lost audio, or of speech without text, in one log line; the status of the job has all."""
MAX_LOGGED_TRACKS = 20
"""Tracks in one log line; the status of the job has all."""
_log = log.get()


class JobSummary(Struct, frozen=True, kw_only=True):
    """Figures of a finished job for its log line."""

    segments: int
    silent: int
    """Segments without speech."""
    skipped: int
    """Spans of speech too short to decode."""
    missing: int
    unheard: tuple[MissingSpan, ...]
    """Speech without text."""
    damaged: tuple[tuple[float, float], ...]
    """Lost audio, in seconds."""
    removed: int
    """Hallucinated phrases."""
    duration_s: float
    wall_s: float
    retries: int
    devices: tuple[str, ...]
    language: str | None
    outputs: tuple[str, ...] = ()
    """Paths of the written subtitles."""
    audio: AudioChoice | None

    @property
    def speed(self) -> float:
        """Speed against real time."""
        return self.duration_s / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def unheard_s(self) -> float:
        """Length of the speech without text, in s with two decimals."""
        return round(sum(span.end_ms - span.start_ms for span in self.unheard) / 1000, 2)


def job_report(row: JobRow, transcript: Transcript, *, now_ms: int) -> JobSummary:
    """Return a job's figures at `now_ms`."""
    # A segment with several languages has several entries.
    segments = {segment.index: segment for segment in transcript.segments}
    return JobSummary(
        segments=len(segments),
        silent=sum(not segment.phrases for segment in segments.values()),
        skipped=len(transcript.skipped),
        missing=len(transcript.missing),
        unheard=transcript.unheard,
        damaged=transcript.damaged,
        removed=len(transcript.removed),
        duration_s=transcript.duration_ms / 1000,
        wall_s=(now_ms - (row.started_ms or row.created_ms)) / 1000,
        retries=sum(segment.attempts - 1 for segment in segments.values()),
        devices=transcript.devices,
        language=transcript.language,
        audio=transcript.audio,
    )


class TransitionLog:
    """Logs and counts actions; belongs to the thread of the server's loop."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.jobs: dict[str, JobSummary] = {}
        """Figures of the jobs that are being written; removed by the job's last line."""

    def record(self, action: ac.Action) -> None:
        """Log and count an action."""
        match action:
            case ac.SaveNewJob(job=job):
                self._metrics.jobs.labels("accepted").inc()
                _log.info(log.JOB_ACCEPTED, job=job.id, path=os.fsdecode(job.source), size=job.size)
            case ac.SaveJob():
                self._record_job(action)
            case ac.SaveSegment():
                self._record_segment(action)
            case ac.SaveText():
                self._record_text(action)
            case ac.SaveWorker():
                self._record_worker(action)
            case ac.SpawnWorker(slot=slot, incarnation=incarnation):
                if incarnation > 1:
                    self._metrics.worker_restarts.labels(slot).inc()
                _log.info(log.WORKER_STARTING, slot=slot, incarnation=incarnation)
            case ac.KillWorker(worker=worker, cause=cause):
                _log.warning(log.WORKER_LOST, worker=worker, cause=cause)
            case ac.SendLease(lease=lease):
                audio_s = round(lease.samples / SAMPLE_RATE, 2)
                _log.debug(
                    log.LEASE_SENT,
                    lease=lease.id,
                    worker=lease.worker,
                    segments=len(lease.keys),
                    audio_s=audio_s,
                )
            case ac.LeaseLost(lease=lease, cause=cause):
                _log.warning(
                    log.LEASE_LOST, lease=lease.id, worker=lease.worker, segments=len(lease.keys), cause=cause
                )
            case ac.ResultStale(worker=worker, lease=lease_id):
                _log.warning(log.LEASE_STALE, lease=lease_id, worker=worker)
            case _:
                pass

    def stage(self, name: str) -> AbstractContextManager[object]:
        """Return a context manager that measures a stage; thread-safe."""
        return self._metrics.stage_seconds.labels(name).time()

    def _record_job(self, action: ac.SaveJob) -> None:
        job, event = action.job, action.event
        if event is None:
            return
        file = Path(os.fsdecode(job.source)).name
        match job.state:
            case JobState.DONE if job.is_already_subtitled:
                self.jobs.pop(job.id, None)
                self._metrics.jobs.labels("already_subtitled").inc()
                _log.info(log.JOB_ALREADY_SUBTITLED, job=job.id, file=file, cause=job.cause)
            case JobState.DONE if action.before is JobState.TRANSLATING and job.translation_cause:
                self._metrics.jobs.labels("untranslated").inc()
            case JobState.DONE if action.before is JobState.TRANSLATING:
                self._metrics.jobs.labels("translated").inc()
                languages = ",".join(job.translate_to)
                _log.info(
                    log.JOB_TRANSLATED,
                    job=job.id,
                    file=file,
                    languages=languages,
                    is_cancelled=event is JobEvent.CANCEL,
                )
            case JobState.DONE | JobState.TRANSLATING if action.before is JobState.WRITING:
                self._metrics.jobs.labels("done").inc()
                summary = self.jobs.pop(job.id, None)
                _log.info(log.JOB_DONE, job=job.id, file=file, **_figures(summary))
                if summary and summary.damaged:
                    damaged_s = round(sum(end - start for start, end in summary.damaged), 2)
                    _log.warning(
                        log.JOB_DAMAGED,
                        job=job.id,
                        file=file,
                        damaged_s=damaged_s,
                        **_times(summary.damaged),
                    )
                if summary and summary.unheard:
                    spans = [(span.start_ms / 1000, span.end_ms / 1000) for span in summary.unheard]
                    _log.warning(
                        log.JOB_UNHEARD,
                        job=job.id,
                        file=file,
                        unheard_s=summary.unheard_s,
                        **_times(spans),
                    )
            case JobState.FAILED if event is JobEvent.REJECTED:
                # Such as a text file: a mistake of its user, and no fault of the daemon.
                self._metrics.jobs.labels("rejected").inc()
                _log.warning(log.JOB_FAILED, job=job.id, file=file, cause=job.cause)
            case JobState.FAILED:
                self._metrics.jobs.labels("failed").inc()
                _log.error(log.JOB_FAILED, job=job.id, file=file, cause=job.cause)
            case JobState.CANCELLED:
                self._metrics.jobs.labels("cancelled").inc()
                _log.info(log.JOB_CANCELLED, job=job.id, file=file, cause=job.cause)
            case JobState.QUEUED if event is JobEvent.RETRY:
                self._metrics.retries.labels("job").inc()
            case JobState.QUEUED if event is JobEvent.LOST:
                self._metrics.retries.labels("file").inc()
                _log.warning(log.JOB_REQUEUED, job=job.id, file=file, losses=job.losses)
            case JobState.TRANSCRIBING if event is JobEvent.PLANNED:
                _log.info(log.JOB_PLANNED, job=job.id, file=file)
            case _:
                pass

    def _record_segment(self, action: ac.SaveSegment) -> None:
        segment = action.segment
        slot = action.worker.rpartition(".")[0]
        where = {"job": segment.key.job, "segment": segment.key.index}
        match action.event:
            case SegmentEvent.DONE | SegmentEvent.SKIPPED:
                self._metrics.segments.labels(action.event.value).inc()
                self._metrics.audio_seconds.labels(slot).inc(segment.samples / SAMPLE_RATE)
                name = log.SEGMENT_DONE if action.event is SegmentEvent.DONE else log.SEGMENT_SKIPPED
                audio_s = round(segment.samples / SAMPLE_RATE, 2)
                _log.info(name, worker=slot, **where, audio_s=audio_s, language=segment.language)
            case SegmentEvent.LOST | SegmentEvent.LANGUAGE_CHANGED:
                self._metrics.segments.labels(action.event.value).inc()
                if action.event is SegmentEvent.LOST:
                    self._metrics.retries.labels("segment").inc()
                _log.warning(log.SEGMENT_LOST, **where, losses=segment.losses, cause=segment.cause)
            case SegmentEvent.EXHAUSTED:
                self._metrics.segments.labels("failed").inc()
                _log.error(log.SEGMENT_FAILED, **where, losses=segment.losses, cause=segment.cause)
            case _:
                pass

    def _record_text(self, action: ac.SaveText) -> None:
        segment = action.segment
        where = {
            "job": segment.key.job,
            "segment": segment.key.index - FIRST_TEXT,
            "language": action.target,
        }
        for row in action.translations:
            result = "untranslated" if row.problem else "translated"
            self._metrics.sentences.labels(row.model, result).inc()
        match action.event:
            case SegmentEvent.DONE:
                problems = [row.problem for row in action.translations if row.problem]
                _log.info(
                    log.TEXT_TRANSLATED,
                    **where,
                    sentences=len(action.translations),
                    untranslated=len(problems),
                )
                if problems:
                    _log.warning(log.TEXT_UNTRANSLATED, **where, sentences=len(problems), cause=problems[0])
            case SegmentEvent.LOST:
                self._metrics.retries.labels("text").inc()
                _log.warning(log.SEGMENT_LOST, **where, losses=segment.losses, cause=segment.cause)
            case SegmentEvent.EXHAUSTED:
                _log.warning(
                    log.TEXT_UNTRANSLATED, **where, sentences=len(action.translations), cause=segment.cause
                )
            case _:
                pass

    def _record_worker(self, action: ac.SaveWorker) -> None:
        worker = f"{action.slot}.{action.incarnation}"
        match action.after:
            case WorkerState.BROKEN:
                _log.error(log.WORKER_BROKEN, worker=worker, cause=action.cause)
            case WorkerState.BACKOFF:
                _log.warning(log.WORKER_EXITED, worker=worker, cause=action.cause)
            case WorkerState.STOPPED:
                _log.info(log.WORKER_STOPPED, worker=worker, cause=action.cause)
            case _:
                pass


def _times(spans: Sequence[tuple[float, float]]) -> dict[str, object]:
    return {
        "times_s": [f"{start:.1f}-{end:.1f}" for start, end in spans[:MAX_LOGGED_SPANS]],
        "omitted": max(0, len(spans) - MAX_LOGGED_SPANS),
    }


def _figures(summary: JobSummary | None) -> dict[str, object]:
    if summary is None:
        return {}
    return {
        "segments": summary.segments,
        "silent": summary.silent,
        "skipped": summary.skipped,
        "unheard_s": summary.unheard_s,
        "removed": summary.removed,
        "duration_s": round(summary.duration_s, 2),
        "wall_s": round(summary.wall_s, 2),
        "speed": f"{summary.speed:.1f}x real time",
        "retries": summary.retries,
        "devices": ",".join(summary.devices),
        "language": summary.language,
        **({"outputs": list(summary.outputs)} if summary.outputs else {}),
        **_audio_fields(summary.audio),
    }


def _audio_fields(audio: AudioChoice | None) -> dict[str, object]:
    """Return the track and mix that were transcribed, and the other tracks."""
    if audio is None:
        return {}
    others = "; ".join(track.summary for track in audio.others[:MAX_LOGGED_TRACKS])
    optional = {"split_tracks": audio.split_tracks, "fallback_mix": audio.fallback, "other_tracks": others}
    return {
        "track": audio.track,
        "mix": audio.mix,
        **{name: value for name, value in optional.items() if value},
    }
