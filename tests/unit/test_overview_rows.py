"""Health summary and rows of the overview page."""

from __future__ import annotations

import asyncio
import io
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace
from rich.console import Console

from subtitle import StatsInfo, WorkerFacts
from subtitle.eta import Speed
from subtitle.messages import HungFolder, ModelFacts, OpenFile, Subtitles, TranslationFacts
from subtitle.tables import print_job
from subtitled.languages import NATIVE_NAMES, code_of, name_of
from subtitled.web import bulk, rendering
from subtitled.web.i18n import Translator, language_choices
from subtitled.web.operate import model_controls
from subtitled.web.view_models import (
    RECENT_MS,
    health_summary,
    job_row,
    model_row,
    recent_faults,
    recently_failed,
    worker_row,
)
from unit import job_facts
from unit.server_stats import STATS

if TYPE_CHECKING:
    from collections.abc import Callable

    from subtitle.messages import JobFacts

ENGLISH = Translator("en")
FACTS = replace(job_facts.FACTS, id="0194f3a6c21b7d0e", source="/srv/in/talk.mp4", size=40_000_000)


def worker(state: str = "idle", **changes: object) -> WorkerFacts:
    facts = WorkerFacts(
        slot="gpu0",
        role="transcribe",
        state=state,
        incarnation=1,
        device="NVIDIA RTX",
        leases=0,
        job="",
        cause="",
    )
    return replace(facts, **changes)


OPEN = (OpenFile(path="/srv/in/a.mp4", process="ffmpeg (pid 7)", seconds=90),)
HUNG = (HungFolder(path="/mnt/in", seconds=12),)


def stats(*states: str, **changes: object) -> StatsInfo:
    facts = replace(STATS, workers=(worker("broken", role="prepare"), *map(worker, states)), uptime_s=1.0)
    return replace(facts, **changes)


@pytest.mark.parametrize(
    ("states", "changes", "failed", "level", "sentence"),
    [
        (("idle", "busy"), {}, 0, "ok", "Everything is running"),
        (("idle", "busy"), {}, 3, "warn", "3 files failed in the last 24 hours"),
        (("idle",), {}, 50, "warn", "At least 50 files failed in the last 24 hours"),
        (("idle", "starting"), {}, 3, "warn", "1 of 2 workers is starting"),
        (("starting", "backoff"), {}, 0, "warn", "The workers are starting"),
        (("busy", "broken", "lost"), {}, 0, "warn", "1 of 3 workers is not working"),
        (("busy", "a state of the future"), {}, 0, "warn", "1 of 2 workers is not working"),
        (("busy",), {"is_disk_full": True}, 1, "bad", "The disk is full; new files are not processed"),
        (
            ("busy",),
            {"is_state_lost": True, "is_disk_full": True},
            1,
            "bad",
            "The state folder was deleted; restart the daemon",
        ),
        (("busy",), {"hung_folders": HUNG}, 1, "bad", "A folder does not answer; its files wait"),
        (("busy",), {"open_files": OPEN}, 0, "warn", "A file waits: a process has it open for writing"),
        (("busy",), {"hung_folders": HUNG * 2}, 1, "bad", "2 folders do not answer; their files wait"),
        (
            ("broken", "stopped"),
            {"is_disk_full": True},
            0,
            "bad",
            "No worker is working; nothing can be transcribed",
        ),
        ((), {}, 0, "warn", "No worker is running yet"),
        (("stopped", "draining"), {"is_draining": True}, 0, "warn", "The daemon is stopping"),
    ],
)
def test_the_health_summary_names_the_most_severe_problem(
    states: tuple[str, ...], changes: dict[str, object], failed: int, level: str, sentence: str
) -> None:
    summary = health_summary(stats(*states, **changes), failed, max_failed=50)
    assert (summary.level, ENGLISH(summary.message, n=summary.n, total=summary.total)) == (level, sentence)


def test_failures_count_for_24_hours() -> None:
    now_ms = 10 * RECENT_MS
    new, old = (replace(FACTS, id=str(age), ended_ms=now_ms - age) for age in (1, RECENT_MS + 1))
    assert recently_failed([new, old], now_ms) == (new,)


def test_file_without_audio_is_no_fault_of_the_daemon() -> None:
    """Someone dropped a text file: it is listed, and the health summary stays."""
    text, media = (
        replace(FACTS, state="failed"),
        replace(FACTS, state="failed", segments={"failed": 1, "done": 3}),
    )
    assert recent_faults([text, media]) == (media,)


@pytest.mark.parametrize(("state", "is_shown"), [("done", True), ("cancelled", False), ("failed", False)])
def test_only_a_job_that_is_done_has_a_speed(state: str, *, is_shown: bool) -> None:
    output = io.StringIO()
    ended = replace(FACTS, state=state, started_ms=1_000, ended_ms=3_000, audio_ms=60_000)
    print_job(Console(file=output, width=100), ended)
    assert "2.0 s" in output.getvalue()
    assert ("real time" in output.getvalue()) == is_shown


@pytest.mark.parametrize(
    ("changes", "details", "percent"),
    [
        ({"state": "receiving", "received_bytes": 10_000_000}, ("10 MB of 40 MB received",), "25%"),
        ({"state": "receiving", "size": 0, "received_bytes": 9}, ("9 B received",), ""),
        ({"state": "queued"}, ("40 MB",), ""),
        ({"state": "preparing", "decoded_ms": 720_000}, ("12 min decoded",), ""),
        (
            {
                "state": "transcribing",
                "audio_ms": 7_200_000,
                "language": "ja",
                "segments": {"done": 1, "leased": 3},
            },
            ("2 h", "Japanese"),
            "25%",
        ),
        (
            {"state": "done", "audio_ms": 7_200_000, "started_ms": 1, "ended_ms": 180_001, "owner": "ann"},
            ("2 h", "took 3 min, 40\N{MULTIPLICATION SIGN} real time", "ann"),
            "100%",
        ),
    ],
)
def test_a_job_row_shows_what_is_known(
    changes: dict[str, object], details: tuple[str, ...], percent: str
) -> None:
    row = job_row(replace(FACTS, **changes), ENGLISH)
    assert (row.name, row.path, row.details) == ("talk.mp4", "/srv/in/talk.mp4", details)
    assert row.percent == percent
    assert row.fraction is None or 0 <= row.fraction <= 1


def test_a_waiting_job_shows_its_position() -> None:
    queued = replace(FACTS, state="queued")
    assert job_row(queued, ENGLISH, 7).state_text == "waiting (7th)"
    assert job_row(queued, Translator("zh-Hant"), 7).state_text.startswith("等待中")
    assert job_row(queued, ENGLISH).state_text == "waiting"
    assert job_row(replace(FACTS, state="done"), ENGLISH, 7).state_text == "done"


def test_job_row_has_its_model_if_the_server_has_several() -> None:
    facts = replace(FACTS, model="base")
    assert "base" not in job_row(facts, ENGLISH).details
    assert job_row(facts, ENGLISH, has_models=True).details[-1] == "base"


def test_model_row_shows_where_it_is_loaded_and_what_it_needs() -> None:
    facts = ModelFacts(
        name="hakka", source="user/hakka", languages=("zh", "hak"), slots=("cpu0", "cpu1"),
        memory_bytes=3_100_000_000, jobs=1,
    )  # fmt: skip
    row = model_row(facts, ENGLISH)
    assert (row.state, row.icon, row.downloaded, row.cause) == ("loaded", "done", "", "")
    assert row.details == ("on cpu0, cpu1", "3.1 GB of memory", "Chinese, hak", "1 job")
    unused = model_row(replace(facts, slots=(), memory_bytes=0, jobs=0, languages=()), ENGLISH)
    assert (unused.state, unused.icon, unused.details) == ("not_loaded", "off", ())


def test_model_row_shows_the_progress_of_its_download() -> None:
    facts = ModelFacts(name="base", source="base", is_downloading=True, downloaded_bytes=36_000_000)
    row = model_row(facts, ENGLISH)
    assert (row.state, row.icon, row.downloaded, row.download_fraction) == (
        "downloading",
        "wait",
        "36 MB",
        None,
    )
    row = model_row(replace(facts, download_bytes=144_000_000), ENGLISH)
    assert (row.downloaded, row.download_fraction) == ("36 MB of 144 MB", 0.25)


def test_health_names_the_download_that_the_workers_wait_for() -> None:
    base = ModelFacts(name="base", source="base", is_default=True, is_downloading=True)
    assert health_summary(stats(models=(base,)), 0, 50).message == "health.downloading"
    other = replace(base, is_default=False)
    assert health_summary(stats(models=(other,)), 0, 50).message == "health.no_worker"


def test_pages_show_no_character_that_hides_or_reorders_others() -> None:
    template = rendering._templates().from_string("{{ name }}")
    assert template.render(name="in\u202egnp.<b>\x1b[31m\n.mp3") == "in\ufffdgnp.&lt;b&gt;\ufffd[31m\n.mp3"
    assert template.render(name="שלום \u202bמה\u202c") == "שלום \u202bמה\u202c"


def test_names_in_a_zip_file_are_unique_and_stay_in_its_folder() -> None:
    assert bulk.folder_of("../a\u202e/C:\\x/ . /") == ["a_", "C__x"]
    assert bulk.folder_of("第一課\u3000講義/نمی\u200cشود/") == ["第一課\u3000講義", "نمی\u200cشود"]
    assert bulk.folder_of("monday") == []
    names: dict[str, int] = {}
    unique = [bulk._unique(name, names) for name in ("a/x.srt", "a/x (2).srt", "a/x.srt", "a/x.srt", "x.srt")]
    assert unique == ["a/x.srt", "a/x (2).srt", "a/x (3).srt", "a/x (4).srt", "x.srt"]
    name = f"{'長' * 81}.zh-TW.srt"
    assert [bulk._unique(name, names) for _ in range(2)] == [name, f"{'長' * 80} (2).zh-TW.srt"]


def test_files_of_one_job_with_the_same_name_are_all_in_the_zip_file() -> None:
    contents = {"": b"spoken", "en": b"spoken", "ja": b"translated"}
    facts = replace(
        FACTS, state="done", translations=tuple(TranslationFacts(language=code) for code in ("en", "ja"))
    )

    class Client:
        async def status(self, _job: str) -> JobFacts:
            return facts

        async def subtitles(
            self, job: str, form: str, *, task: str | None = None, language: str = ""
        ) -> tuple[Subtitles, bytes]:
            answer = Subtitles(request=1, job=job, format=form, language="en", name="talk.en.srt", version=0)
            return answer, contents[task or language]

    class Gateway:
        client = Client()

        async def retry_while_busy(
            self, send: Callable[..., Any], *args: object, **keywords: object
        ) -> object:
            return await send(*args, **keywords)

    async def packed() -> bytes:
        gateway: Any = Gateway()
        return b"".join([chunk async for chunk in bulk.zip_chunks(gateway, ["job"], ["srt"])])

    with zipfile.ZipFile(io.BytesIO(asyncio.run(packed()))) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    assert found == {"talk.en.srt": b"spoken", "talk (2).en.srt": b"translated"}


def test_a_stale_copy_of_a_model_can_be_unloaded() -> None:
    t = Translator("en")
    assert not model_controls(ModelFacts(name="m", source="s"), t)["is_unloadable"]
    row = model_controls(ModelFacts(name="m", source="s", stale_slots=("gpu0", "gpu1")), t)
    assert row["is_unloadable"]
    assert "a copy by an earlier configuration is in memory on gpu0, gpu1" in row["details"]


def test_a_worker_row_shows_jobs_speed_memory_and_link() -> None:
    facts = worker("busy", jobs=("a", "b"), memory_used_bytes=6 * 10**9, memory_total_bytes=24 * 10**9)
    row = worker_row(facts, Speed(total=9.0, slots={"gpu0": 43.2}), {"a": "talk.mp4"}, ENGLISH)
    assert row.jobs == (("a", "talk.mp4"), ("b", "b"))
    assert (row.speed, row.memory, row.memory_fraction) == (
        "43\N{MULTIPLICATION SIGN}",
        "6.0 GB of 24 GB",
        0.25,
    )
    assert (row.icon, row.link) == ("busy", "")
    away = replace(facts, host="gpu2", round_trip_ms=4.25, sent_bytes=2 * 10**9, received_bytes=10**6)
    assert (
        worker_row(away, Speed(total=9.0), {}, ENGLISH).link
        == "round trip 4.2 ms, 2.0 GB sent, 1.0 MB received"
    )
    idle = worker_row(worker(), Speed(total=9.0, slots={"gpu0": 43.2}), {}, ENGLISH)
    assert (idle.speed, idle.memory, idle.icon) == ("", "", "done")


def test_a_worker_host_that_has_left_is_not_a_problem() -> None:
    gone = worker("stopped", slot="gpu2/cuda0")
    here = replace(stats("busy"), workers=(worker("busy"), gone))
    assert health_summary(here, 0, max_failed=50).message == "health.ok"


@pytest.mark.parametrize(("state", "icon"), [("broken", "bad"), ("backoff", "warn"), ("starting", "wait")])
def test_a_worker_that_is_not_working_has_its_own_icon(state: str, icon: str) -> None:
    assert worker_row(worker(state), Speed(total=None), {}, ENGLISH).icon == icon


def test_every_language_choice_is_one_of_whispers() -> None:
    assert [code for code in NATIVE_NAMES if code_of(code) != code or name_of(code) == code] == []
    assert len(language_choices(ENGLISH)) == len(NATIVE_NAMES) == len(dict(language_choices(ENGLISH)))
