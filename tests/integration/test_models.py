"""Several models in one daemon: jobs name them, workers load them when they are needed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2 as httpx
import pytest
from msgspec import structs

import media
from daemon import Daemon, InboxFolder, eventually
from gateway_process import GatewayProcess
from subtitle import JobFailedError, JobOptions, ServerError
from subtitled.asr.model import locate
from subtitled.config import schema
from subtitled.config.load import to_toml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from subtitle.messages import ModelFacts

WAIT_S = 120.0
POOL = schema.PoolConfig(devices=("cpu",), prepare_workers=1)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Start a daemon with one worker: the demo model, a copy of it that is for Hakka, and one with damaged weights."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(locate("demo"), folder / "copy")
    shutil.copytree(locate("demo"), folder / "damaged")
    (folder / "damaged" / "model.bin").write_bytes(b"no weights")
    models = (
        schema.NamedModelConfig(
            name="copy", source=str(folder / "copy"), languages=("hak",), tasks=("transcribe",)
        ),
        schema.NamedModelConfig(name="damaged", source=str(folder / "damaged")),
    )
    inbox = InboxFolder(options={"model": "copy"})
    with Daemon(folder, inboxes=(inbox,), pool=POOL, models=models) as running:
        yield running.start()
        running.stop()


def sound(folder: Path, seconds: float) -> Path:
    """Return an English recording of this length."""
    return media.write_sound(folder / f"talk-{seconds:g}.flac", media.speech(seconds))


def text_of(daemon: Daemon, path: Path, model: str) -> str:
    """Transcribe a file with a model; return the subtitles."""
    job = daemon.client.submit(path, options=JobOptions(model=model, language="en"))
    done = job.wait(timeout_s=WAIT_S)
    assert (done.state, done.model) == ("done", model or "demo"), done.cause
    return daemon.client.fetch(job.id, "srt")[1].decode()


def test_jobs_of_two_models_share_a_worker(daemon: Daemon, tmp_path: Path) -> None:
    talk = sound(tmp_path, 8)
    by_default, by_copy = text_of(daemon, talk, ""), text_of(daemon, talk, "copy")
    assert "morning" in by_default
    assert by_copy == by_default
    assert daemon.wait_for_log("model.loaded", model="copy", worker="cpu0.1")["load_s"] > 0
    loads = len([line for line in daemon.log("model.loaded") if line["model"] == "copy"])
    assert text_of(daemon, sound(tmp_path, 7), "copy")
    assert len([line for line in daemon.log("model.loaded") if line["model"] == "copy"]) == loads


def test_inbox_names_the_model_of_its_jobs(daemon: Daemon, tmp_path: Path) -> None:
    dropped = daemon.drop(sound(tmp_path, 6), "dropped.flac")
    job = daemon.wait_for(dropped)
    assert (job.state, job.model, job.model_reason) == ("done", "copy", "requested")


def test_model_is_chosen_by_the_language(daemon: Daemon, tmp_path: Path) -> None:
    job = daemon.client.submit(sound(tmp_path, 5), options=JobOptions(language="hak"))
    facts = job.wait(timeout_s=WAIT_S)
    assert (facts.model, facts.model_reason) == ("copy", 'language "hak": copy is configured for it')
    assert facts.language == "hak"


def test_damaged_model_fails_its_own_jobs_with_the_reason(daemon: Daemon, tmp_path: Path) -> None:
    talk = sound(tmp_path, 4)
    job = daemon.client.submit(talk, options=JobOptions(model="damaged"))
    with pytest.raises(JobFailedError, match=r"the model cannot be loaded: .*/damaged"):
        job.wait(timeout_s=WAIT_S)
    assert text_of(daemon, talk, "")
    assert "cpu0.1" in daemon.workers(), "the worker was not replaced"


def test_unknown_model_is_refused_with_the_list(daemon: Daemon, tmp_path: Path) -> None:
    with pytest.raises(
        ServerError, match=r"'huge' is not configured; use one of: demo \(default\), copy, dam"
    ):
        daemon.client.submit(sound(tmp_path, 3), options=JobOptions(model="huge"))
    assert daemon.client.ping().models == ("demo", "copy", "damaged")


def test_stats_have_the_models_and_the_workers_that_hold_them(daemon: Daemon, tmp_path: Path) -> None:
    assert text_of(daemon, sound(tmp_path, 3.5), "copy")
    default, copy, damaged = daemon.client.stats().models
    assert (default.name, default.is_default, default.slots) == ("demo", True, ("cpu0",))
    assert (copy.name, copy.languages, copy.slots) == ("copy", ("hak",), ("cpu0",))
    assert copy.loads >= 1
    assert copy.memory_bytes > 0
    assert (damaged.name, damaged.slots, damaged.loads) == ("damaged", (), 0)
    (worker,) = (worker for worker in daemon.stats().workers if worker.role == "transcribe")
    assert worker.models == ("demo", "copy")
    counted = daemon.scrape()
    assert counted['subtitled_model_leases_total{model="copy"}'] >= 1
    assert counted['subtitled_model_load_seconds_total{model="copy"}'] > 0
    eventually(lambda: daemon.scrape()['subtitled_model_workers{model="copy"}'] == 1, "the gauge is set")


def test_page_and_openai_interface_list_the_models(daemon: Daemon, tmp_path: Path) -> None:
    assert text_of(daemon, sound(tmp_path, 3.2), "copy")
    with (
        GatewayProcess(daemon, tmp_path / "gateway", models=("whisper-1=copy",)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=WAIT_S) as http,
    ):
        listed = {model["id"]: model["owned_by"] for model in http.get("/v1/models").json()["data"]}
        assert list(listed)[:3] == ["demo", "copy", "damaged"]
        assert set(listed.values()) == {"subtitled"}
        page = http.get("/").text
        panel = page[page.index('id="models"') :]
        assert re.findall(r'<h3 class="ellipsis" title="[^"]+">(\w+)', panel)[:3] == [
            "demo",
            "copy",
            "damaged",
        ]
        assert "on cpu0" in panel
        assert '<option value="copy">copy</option>' in page
        upload = {"file": ("talk.flac", sound(tmp_path, 3.1).read_bytes())}
        answer = http.post("/upload", files=upload, data={"model": "copy"}, follow_redirects=True)
        assert answer.status_code == 200
        (job,) = daemon.client.list(limit=1)
        assert (job.source, job.model, job.model_reason) == ("talk.flac", "copy", "requested")
        assert "copy <span" in http.get(f"/jobs/{job.id}").text
        chinese = http.get("/", headers={"Accept-Language": "zh-TW"}).text
        assert ">模型</h2>" in chinese
        eventually(lambda: daemon.client.status(job.id).state == "done", "the job is done")


def test_an_admin_loads_and_unloads_models(daemon: Daemon, tmp_path: Path) -> None:
    client = daemon.client

    def held() -> set[str]:
        (worker,) = (worker for worker in client.stats().workers if worker.role == "transcribe")
        return set(worker.models)

    def facts(name: str) -> ModelFacts:
        return next(model for model in client.stats().models if model.name == name)

    for name in ("demo", "copy"):
        client.unload_model(name)
    eventually(lambda: not held(), "the worker has unloaded both models")
    assert facts("demo").state == "not_loaded"
    command = [str(Path(sys.executable).with_name("subtitle")), "models", "load", "copy"]
    done = subprocess.run(
        [*command, "--server", daemon.endpoint], capture_output=True, text=True, timeout=WAIT_S, check=True
    )
    assert done.stdout == "copy: 1 worker will load it and keep it; see `subtitle models`\n"
    eventually(lambda: held() == {"copy"}, "the worker has loaded the model")
    listed = subprocess.run(
        [command[0], "models", "--server", daemon.endpoint],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    ).stdout
    assert "model copy: kept by 1 of 1 worker, as an admin has requested\n" in listed
    assert "model demo: unloaded by an admin, until a job needs it\n" in listed
    assert (facts("copy").preload, facts("copy").is_requested) == (1, True)
    with (
        GatewayProcess(daemon, tmp_path / "gateway") as gateway,
        httpx.Client(base_url=gateway.url, timeout=WAIT_S) as http,
    ):
        assert "loaded by an admin, kept by 1 of 1 worker" in http.get("/operate").text
        assert http.post("/api/operate", json={"unload_model": "copy"}).status_code == 200
        eventually(lambda: not held(), "the worker has unloaded the model")
        assert http.post("/operate", data={"load_model": "demo"}).status_code == 303
        eventually(lambda: held() == {"demo"}, "the worker has loaded the model")
        before = http.get("/api/operate").json()
        changes = {"is_paused": True, "log_level": "error" if before["log_level"] != "error" else "info"}
        for models, status in (
            ({"load_model": "huge"}, 404),
            ({"load_model": "demo", "unload_model": "copy"}, 400),
        ):
            assert http.post("/api/operate", json={**changes, **models}).status_code == status
            after = http.get("/api/operate").json()
            assert {name: after[name] for name in changes} == {name: before[name] for name in changes}
        assert http.post("/api/operate", json={"load_model": "demo", "workers": 0}).status_code == 400
    assert text_of(daemon, sound(tmp_path, 2.2), "copy"), "a job loads it again"
    assert held() == {"demo", "copy"}
    with pytest.raises(ServerError, match=r"'huge' is not configured; use one of: demo, copy"):
        client.unload_model("huge")
    state = facts("damaged").state  # "unusable" after the job of another test
    client.load_model("damaged")
    eventually(lambda: "not kept in memory" in facts("damaged").preload_cause, "the load has failed")
    assert facts("damaged").state == state, "jobs can use it as far as the server knew before"
    assert client.unload_model("damaged").preload_cause == ""
    assert "cpu0.1" in daemon.workers(), "the worker was not replaced"
    assert daemon.log("model.load_requested")[0]["by"] == "a client on the local socket"


def test_one_model_transcribes_and_another_translates(daemon: Daemon) -> None:
    texts = {}
    for model in ("", "copy"):
        options = JobOptions(model=model, language="zh", tasks=("transcribe", "translate"))
        job = daemon.client.submit(media.DEMO / "demo-zh.flac", options=options)
        facts = job.wait(timeout_s=WAIT_S)
        assert (facts.state, facts.tasks) == ("done", ("transcribe", "translate"))
        texts[model] = [
            daemon.client.fetch(job.id, "srt", task="transcribe")[1],
            daemon.client.fetch(job.id, "srt", task="translate")[1],
        ]
    assert facts.model_reason.startswith("requested; demo translates: ")
    assert texts["copy"] == texts[""]
    assert texts[""][0] != texts[""][1]
    found = json.loads(daemon.client.fetch(job.id, "json", task="translate")[1])
    assert found["model"] == "demo"


def test_worker_that_is_killed_while_it_changes_models_is_replaced(tmp_path: Path) -> None:
    """The worker holds one model at most, so it has to unload one to load the other."""
    shutil.copytree(locate("demo"), tmp_path / "copy")
    models = (schema.NamedModelConfig(name="copy", source=str(tmp_path / "copy")),)
    with Daemon(tmp_path, pool=structs.replace(POOL, max_models=1), models=models) as daemon:
        daemon.start()
        talk = sound(tmp_path, 4)
        text = text_of(daemon, talk, "")
        victim = daemon.workers()["cpu0.1"]
        os.kill(victim, signal.SIGSTOP)
        job = daemon.client.submit(talk, options=JobOptions(model="copy", language="en"))
        eventually(
            lambda: [one.state for one in daemon.stats().workers if one.slot == "cpu0"] == ["busy"],
            "the worker has the lease for which it changes its model",
        )
        os.kill(victim, signal.SIGKILL)
        assert job.wait(timeout_s=WAIT_S).state == "done"
        assert daemon.client.fetch(job.id, "srt")[1].decode() == text
        (worker,) = (one for one in daemon.stats().workers if one.slot == "cpu0")
        assert (worker.models, worker.incarnation) == (("copy",), 2)
        assert text_of(daemon, talk, "") == text


def test_reload_adds_and_removes_models(daemon: Daemon, tmp_path: Path) -> None:
    added = schema.NamedModelConfig(name="added", source=str(daemon.folder / "copy"))
    changed = structs.replace(daemon.config, models=(daemon.config.models[0], added))
    daemon.config_file.write_text(to_toml(changed), "utf-8")
    os.kill(daemon.pid, signal.SIGHUP)
    daemon.wait_for_log("config.loaded")
    assert daemon.client.ping().models == ("demo", "copy", "added")
    assert text_of(daemon, sound(tmp_path, 2.5), "added")
    daemon.config_file.write_text(to_toml(daemon.config), "utf-8")
    os.kill(daemon.pid, signal.SIGHUP)
