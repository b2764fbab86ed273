"""What the commands print."""

from __future__ import annotations

import io

import pytest
from msgspec.structs import replace
from rich.console import Console

from subtitle.messages import AudioChoice, AudioTrack, JobFacts, ModelFacts, OpenFile, WorkerFacts
from subtitle.tables import model_note, model_state, print_job, print_stats, span_line
from unit.job_facts import FACTS
from unit.server_stats import STATS


@pytest.mark.parametrize(
    ("span", "line"),
    [
        ("5000 7250 lost with 3 workers", "0:05.0 to 0:07.2: lost with 3 workers"),
        ("3599999 3723400 no words", "59:59.9 to 1:02:03.4: no words"),
    ],
)
def test_stretches_of_speech_are_printed_as_positions(span: str, line: str) -> None:
    assert span_line(span) == line


def model(name: str, **changes: object) -> ModelFacts:
    return replace(ModelFacts(name=name, source=name, tasks=("transcribe",)), **changes)


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"slots": ("cpu0",)}, "loaded"),
        ({}, "not loaded"),
        ({"cause": "no model.bin"}, "unusable"),
        ({"preload": 1, "preload_cause": "no room"}, "not loaded"),
        ({"is_downloading": True}, "downloading"),
        ({"is_downloading": True, "downloaded_bytes": 30_000_000}, "downloading 30.0 MB"),
        (
            {"is_downloading": True, "downloaded_bytes": 30_000_000, "download_bytes": 120_000_000},
            "downloading 25 % of 120.0 MB",
        ),
    ],
)
def test_state_of_a_model_is_whether_it_can_be_used(changes: dict[str, object], state: str) -> None:
    assert model_state(model("base", **changes)) == state


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"preload": 1, "slots": ("cpu0", "cpu1")}, "kept by 1 of 1 worker, as configured"),
        (
            {"preload": 4096, "is_requested": True, "slots": ("cpu0", "cpu1")},
            "kept by 2 of 4096 workers, as an admin has requested",
        ),
        ({"preload": 2, "preload_cause": "no room"}, "kept by 0 of 2 workers, as configured: no room"),
        ({"is_requested": True}, "unloaded by an admin, until a job needs it"),
        ({"preload": 1, "cause": "no model.bin"}, "unusable: no model.bin"),
    ],
)
def test_note_of_a_model_is_how_many_workers_keep_it(changes: dict[str, object], note: str) -> None:
    assert model_note(model("base", **changes)) == f"model base: {note}"


def test_status_shows_the_models_of_each_worker_and_why_one_cannot_be_used() -> None:
    worker = WorkerFacts(
        slot="cpu0", role="transcribe", state="busy", incarnation=1, device="CPU 0", leases=1, job="",
        cause="", models=("base",), loading="small",
    )  # fmt: skip
    stats = replace(STATS, workers=(worker,), models=(model("base"), model("small", cause="no model.bin")))
    console = Console(file=io.StringIO(), width=120)
    print_stats(console, stats)
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert lines[1].split("  ")[-2:] == ["base, loading small", "-"]
    assert lines[-1] == "model small: unusable: no model.bin"


def printed(job: JobFacts) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    print_job(console, job)
    assert isinstance(console.file, io.StringIO)
    return [line.strip() for line in console.file.getvalue().splitlines()]


def test_the_status_of_a_job_names_its_track_and_mix_and_the_other_tracks() -> None:
    tracks = (
        AudioTrack(number=1, language="eng", title="Commentary", channels=2, flags=("default", "comment")),
        AudioTrack(number=2, channels=6),
    )
    lines = printed(replace(FACTS, audio=AudioChoice(track=2, mix="centre", tracks=tracks)))
    assert lines[-2:] == [
        "track  2 (no language, 6 channels); mix: centre",
        'not used  track 1 (eng, "Commentary", 2 channels, default, comment)',
    ]


def test_the_status_of_a_job_names_the_mix_of_later_speech() -> None:
    choice = AudioChoice(track=1, mix="left", fallback="right", tracks=(AudioTrack(number=1, channels=2),))
    assert printed(replace(FACTS, audio=choice))[-1] == (
        "track  1 (no language, 2 channels); mix: left, right where it has no speech"
    )


def test_the_status_of_a_job_lists_lost_audio() -> None:
    console = Console(file=io.StringIO(), width=80)
    print_job(console, replace(FACTS, state="done", damaged=((1.0, 2.5),)))
    assert isinstance(console.file, io.StringIO)
    line = console.file.getvalue().splitlines()[-1].strip()
    assert line == "damaged  0:01.0 to 0:02.5: the file is damaged or cut, this audio is lost"


def test_the_status_of_a_job_lists_speech_without_text() -> None:
    lines = printed(replace(FACTS, state="done", unheard=("1000 2500 no words", "61000 62000 no words")))
    assert lines[-2:] == [
        "unheard  0:01.0 to 0:02.5: no words",
        "unheard  1:01.0 to 1:02.0: no words",
    ]


def test_file_that_waits_for_its_writer_is_named() -> None:
    output = io.StringIO()
    waiting = OpenFile(path="/in/a\n.mp4", process="ffmpeg (pid 7)", seconds=90)
    print_stats(Console(file=output, width=200), replace(STATS, open_files=(waiting,)))
    line = "/in/a?.mp4 has been open for writing for 90 s by ffmpeg (pid 7): it waits until it is closed"
    assert line in output.getvalue()
