"""A real daemon with three models: the bundled one, and Whisper base, where it was fetched, in two precisions.

`make real-model` fetches Whisper base.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import media
import real_model
from daemon import Daemon, InboxFolder, eventually
from subtitled.config import schema
from subtitled.cues.render import read_json
from subtitled.media.decode import open_media

if TYPE_CHECKING:
    from collections.abc import Mapping

CHECKOUT = Path(__file__).parents[2]
RECORDINGS = Path(os.environ.get("SUBTITLED_REAL_SPEECH") or CHECKOUT.parent / "shared" / "real-speech")
BASE = real_model.default_folder("base")
TIMEOUT_S = 3600.0
"""However slow the machine is."""
JOBS = 200
REAL_SPEECH = {
    "jfk-1": ("jfk.flac", 0.0, 4.0),
    "jfk-2": ("jfk.flac", 5.0, 11.0),
    "libri": ("libri1995.wav", 0.0, 5.0),
    "austen": ("austen-0890.wav", 0.0, 5.0),
}
"""Clips for Whisper base: file, start and end in seconds."""
COPIES = 5
"""Jobs of each of them; all other jobs are sentences of the bundled recording, for the bundled model."""
DECODING = schema.DecodingConfig(temperatures=(0.0,))
"""Further temperatures draw random samples."""

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not (RECORDINGS / "jfk.flac").is_file(), reason=f"no recordings: {RECORDINGS} is missing"
    ),
    pytest.mark.skipif(
        not real_model.is_complete(BASE, real_model.PINS["base"]),
        reason=f"no model in {BASE}: make real-model",
    ),
]


def real_clips(folder: Path) -> dict[str, Path]:
    """Return clips of recordings of real people by name."""
    clips = {}
    for name, (file, start_s, end_s) in REAL_SPEECH.items():
        with open_media(str(RECORDINGS / file)) as decoder:
            pcm = np.concatenate(list(decoder))
        clip = pcm[round(start_s * media.RATE) : round(end_s * media.RATE)]
        clips[name] = media.write_sound(folder / f"{name}.flac", clip)
    return clips


def bundled_clips(folder: Path) -> dict[str, Path]:
    """Return the sentences of the bundled recording by name."""
    pcm, clips = media.recording(), {}
    for place, sentence in enumerate(media.true_text()):
        name, around = f"sentence-{place}", media.RATE // 3
        start, end = (ms * media.RATE // 1000 for ms in (sentence.start_ms, sentence.end_ms))
        clips[name] = media.write_sound(folder / f"{name}.flac", pcm[max(0, start - around) : end + around])
    return clips


def daemon_in(
    folder: Path, model: str, models: tuple[schema.NamedModelConfig, ...] = (), compute_type: str = "auto"
) -> Daemon:
    """Return a daemon with two CPU slots: its inbox is for the default model, and each other model has an inbox of its name."""
    folder.mkdir(exist_ok=True)
    options = {"formats": ("json",), "language": "en"}
    named = [InboxFolder(name=one.name, options={**options, "model": one.name}) for one in models]
    return Daemon(
        folder,
        inboxes=(InboxFolder(options=options), *named),
        model=schema.ModelConfig(name=model, compute_type=compute_type, cpu_threads=1, batch_size=4),
        models=models,
        pool=schema.PoolConfig(devices=("cpu", "cpu"), prepare_workers=1),
        segments=schema.SegmentsConfig(),
        decoding=DECODING,
        recovery=schema.RecoveryConfig(lease_min_s=600.0),
    )


def texts(folder: Path) -> dict[str, str]:
    """Return the text of each transcript in a folder, by the name of its clip: the name up to a "+"."""
    found: dict[str, str] = {}
    for file in sorted(folder.glob("*.json")):
        transcript = read_json(file.read_bytes())
        text = " ".join(phrase.text for segment in transcript.segments for phrase in segment.phrases)
        name = file.name.partition(".")[0].partition("+")[0]
        assert found.setdefault(name, text) == text, f"{file.name}: jobs of one clip have other texts"
    return found


def texts_with_only(
    model: str, clips: Mapping[str, Path], folder: Path, compute_type: str = "auto"
) -> dict[str, str]:
    """Transcribe each clip with a daemon that has no other model."""
    with daemon_in(folder, model, compute_type=compute_type) as daemon:
        for name, clip in clips.items():
            daemon.drop(clip, f"{name}.flac")
        daemon.start()
        assert {job.state for job in daemon.wait_for_jobs(len(clips), TIMEOUT_S)} == {"done"}
        daemon.stop()
    return texts(folder / "inbox-out")


def test_mixed_queue_loads_each_model_once_on_a_slot_and_has_the_text_of_each_model_alone(
    tmp_path: Path,
) -> None:
    """200 jobs of three models on two CPU slots, and a worker that is killed in the middle.

    Each slot loads a model once at most, and the replacement of the killed worker once more.
    """
    bundled, real = bundled_clips(tmp_path), real_clips(tmp_path)
    base = schema.NamedModelConfig(name="base", source=str(BASE), batch_size=4)
    exact = schema.NamedModelConfig(name="exact", source=str(BASE), compute_type="float32", batch_size=4)
    mixed = tmp_path / "mixed"
    with daemon_in(mixed, "demo", (base, exact)) as daemon:
        for name, clip in real.items():
            daemon.drop(clip, f"{name}.flac", inbox=mixed / "exact")
            for copy in range(COPIES):
                daemon.drop(clip, f"{name}+{copy}.flac", inbox=mixed / "base")
        names = list(bundled)
        for number in range(JOBS - (COPIES + 1) * len(real)):
            name = names[number % len(names)]
            daemon.drop(bundled[name], f"{name}+{number}.flac")
        daemon.start()

        def holder_of_base() -> str | None:
            stats = daemon.stats()
            assert stats.jobs.get("done", 0) < JOBS, "no worker held both models before the end"
            is_midway = stats.jobs.get("done", 0) >= JOBS / 4
            holders = [one for one in stats.workers if "base" in one.models and one.state == "busy"]
            return f"{holders[0].slot}.{holders[0].incarnation}" if is_midway and holders else None

        victim = eventually(holder_of_base, "a worker with both models is at work, midway", TIMEOUT_S)
        os.kill(daemon.workers()[victim], signal.SIGKILL)
        assert "SIGKILL" in daemon.wait_for_log("worker.exited", worker=victim)["cause"]
        jobs = daemon.wait_for_jobs(JOBS, TIMEOUT_S)
        assert [job for job in jobs if job.state != "done"] == []
        loads = {model.name: model.loads for model in daemon.stats().models}
        assert 2 <= loads["demo"] <= 3
        assert 1 <= loads["base"] <= 3
        assert 1 <= loads["exact"] <= 3
        daemon.stop()
    assert texts(mixed / "inbox-out") == texts_with_only("demo", bundled, tmp_path / "demo")
    assert texts(mixed / "base-out") == texts_with_only(str(BASE), real, tmp_path / "base-alone")
    alone = texts_with_only(str(BASE), real, tmp_path / "exact-alone", compute_type="float32")
    assert texts(mixed / "exact-out") == alone
