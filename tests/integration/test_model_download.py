"""A model that is not on the machine is brought there once, before any worker starts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import media
import translation_models
from daemon import DEADLINE_S, TWO_SLOTS, Daemon, eventually
from fake_model_hub import FakeModelHub
from subtitle import JobOptions
from subtitled.asr.hub import convert
from subtitled.config import schema
from subtitled.errors import ExitCode, ModelError

if TYPE_CHECKING:
    from subtitle import WorkerFacts

MODEL = schema.ModelConfig(name="loop/back", cpu_threads=1, batch_size="auto")


def daemon_with(hub: FakeModelHub, folder: Path) -> Daemon:
    environ = {**hub.environ, "HF_HOME": str(folder / "models")}
    return Daemon(folder, pool=TWO_SLOTS, model=MODEL, environ=environ)


def transcribers(daemon: Daemon) -> list[WorkerFacts]:
    """Return the transcribe workers that are ready."""
    return [w for w in daemon.stats().workers if w.role == "transcribe" and w.state in {"idle", "busy"}]


def test_a_model_is_downloaded_once_for_all_workers_and_found_again_without_the_hub(tmp_path: Path) -> None:
    with FakeModelHub(media.DEMO / "model") as hub, daemon_with(hub, tmp_path) as daemon:
        source = daemon.drop(media.clip(), "talk.flac")
        daemon.start()
        eventually(lambda: len(transcribers(daemon)) == 2, "both workers have the model")
        assert hub.fetched["model.bin"] == 1
        assert daemon.wait_for(source).state == "done"
        events = [entry["event"] for entry in daemon.log() if entry.get("slot", "").startswith("cpu")]
        assert events[0] == "worker.starting"
        names = [entry["event"] for entry in daemon.log()]
        assert names.index("model.downloading") < names.index("model.downloaded")
        started = next(i for i, e in enumerate(daemon.log()) if e.get("slot") == "cpu0")
        assert names.index("model.downloaded") < started
        daemon.stop()
        hub.status = 503
        daemon.start()
        eventually(lambda: len(transcribers(daemon)) == 2, "the model is found again")
        assert hub.fetched["model.bin"] == 1
        daemon.stop()


@pytest.mark.long
def test_a_hub_that_does_not_answer_is_asked_again(tmp_path: Path) -> None:
    """The daemon lives on, and takes up its work when the hub is back."""
    with FakeModelHub(media.DEMO / "model", status=503) as hub, daemon_with(hub, tmp_path) as daemon:
        daemon.start()
        missing = daemon.wait_for_log("model.missing", level="warning")
        assert "cannot be downloaded now" in missing["cause"]
        assert missing["again_s"] > 0
        assert transcribers(daemon) == []
        hub.status = 200
        eventually(lambda: len(transcribers(daemon)) == 2, "the workers have the model")
        daemon.stop()


def test_download_of_a_further_model_is_shown_while_the_default_works(tmp_path: Path) -> None:
    """Its own jobs wait for it."""
    fetched = schema.NamedModelConfig(name="fetched", source="loop/back")
    folder = media.DEMO / "model"
    with (
        FakeModelHub(folder) as hub,
        Daemon(
            tmp_path, environ={**hub.environ, "HF_HOME": str(tmp_path / "models")}, models=(fetched,)
        ) as daemon,
    ):
        hub.hangs.set()
        daemon.start()

        sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
        small = sum(sizes.values()) - sizes["model.bin"]

        def has_small_files() -> bool:
            facts = daemon.stats().models[1]
            return (facts.downloaded_bytes, facts.download_bytes) == (small, sum(sizes.values()))

        eventually(has_small_files, "all files but the weights are there")
        facts = daemon.stats().models[1]
        assert facts.is_downloading
        assert facts.slots == ()
        shown = subprocess.run(
            [Path(sys.executable).with_name("subtitle"), "models", "--server", daemon.endpoint],
            capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"},
        ).stdout  # fmt: skip
        assert re.search(r"^fetched +downloading \d+ % of [\d.]+ MB .* loop/back *$", shown, re.MULTILINE), (
            shown
        )
        assert re.search(r"^demo \(default\) +loaded .* demo *$", shown, re.MULTILINE), shown
        talk = media.DEMO / "demo-zh.flac"
        waiting = daemon.client.submit(talk, options=JobOptions(model="fetched"))
        assert daemon.client.submit(talk).wait(timeout_s=DEADLINE_S).state == "done"
        assert daemon.client.status(waiting.id).state not in {"done", "failed"}
        hub.released.set()
        done = waiting.wait(timeout_s=DEADLINE_S)
        assert (done.state, done.model) == ("done", "fetched")
        facts = daemon.stats().models[1]
        assert not facts.is_downloading
        assert facts.slots
        logged = [line for line in daemon.log("model.downloading") if "done_mb" in line]
        assert logged[0]["total_mb"] == round(facts.download_bytes / 1e6, 1)
        daemon.stop()


def test_sigterm_ends_a_download_at_once(tmp_path: Path) -> None:
    with FakeModelHub(media.DEMO / "model") as hub, daemon_with(hub, tmp_path) as daemon:
        hub.hangs.set()
        daemon.start()
        eventually(lambda: hub.fetched["model.bin"], "the download has begun")
        eventually(
            lambda: any("done_mb" in e for e in daemon.log("model.downloading")), "its progress is logged"
        )
        fetcher = eventually(lambda: daemon.workers().get("model.1"), "the process is there")
        daemon.stop()
        eventually(lambda: fetcher not in daemon.workers().values(), "the process is gone")
        assert daemon.log("worker.broken") == []


def test_a_repository_that_is_not_there_ends_the_daemon(tmp_path: Path) -> None:
    with FakeModelHub(media.DEMO / "model", status=404) as hub, daemon_with(hub, tmp_path) as daemon:
        daemon.spawn()
        assert daemon.wait_for_exit() == ExitCode.FATAL
        assert "loop/back" in daemon.log("model.missing")[-1]["cause"]


def test_a_repository_without_a_converted_model_ends_the_daemon(tmp_path: Path) -> None:
    """It would be downloaded again and again."""
    folder = tmp_path / "hub"
    shutil.copytree(media.DEMO / "model", folder)
    (folder / "model.bin").unlink()
    with FakeModelHub(folder) as hub, daemon_with(hub, tmp_path) as daemon:
        daemon.spawn()
        assert daemon.wait_for_exit() == ExitCode.FATAL
        assert "is not in CTranslate2 format" in daemon.log("model.missing")[-1]["cause"]


# -- checkpoints of Transformers -------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Return a folder that looks like a fine-tuned model as Transformers saves it."""
    folder = tmp_path / "fine-tuned"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "whisper", "vocab_size": 51865}), "utf-8")
    (folder / "model.safetensors").write_bytes(b"weights")
    shutil.copy(media.DEMO / "model" / "tokenizer.json", folder)
    return folder


def test_a_converted_checkpoint_appears_whole(checkpoint: Path, tmp_path: Path) -> None:
    """With a converter that copies, in the place of CTranslate2's own, which needs torch."""
    program = "import shutil, sys; a = sys.argv; shutil.copytree(a[a.index('--model') + 1], a[a.index('--output_dir') + 1])"
    target = tmp_path / "cache" / "converted"
    convert(checkpoint, target, [sys.executable, "-c", program])
    assert (target / "tokenizer.json").is_file()
    assert list(target.parent.iterdir()) == [target]


def test_a_converter_that_fails_leaves_nothing_and_says_why(checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "cache" / "converted"
    with pytest.raises(ModelError, match=r"fine-tuned': cannot be converted: .*torch"):
        convert(checkpoint, target)
    assert list(target.parent.iterdir()) == []


def test_a_checkpoint_that_cannot_be_converted_here_is_refused_with_the_command(
    checkpoint: Path, tmp_path: Path
) -> None:
    with Daemon(tmp_path, model=schema.ModelConfig(name=str(checkpoint))) as daemon:
        daemon.spawn()
        assert daemon.wait_for_exit() == ExitCode.FATAL
        command = f"ct2-transformers-converter --model {checkpoint} --output_dir {checkpoint}-ct2 --copy_files tokenizer.json"
        assert command in daemon.log_file.read_text("utf-8")


def test_translation_model_is_fetched_by_its_hub_id(tmp_path: Path) -> None:
    """The languages of a Marian model may be in its name alone; one that is not converted is refused with the command."""
    name = "loop/opus-mt-en-zh"
    folder = translation_models.marian(tmp_path / "model", languages=None)
    program = (
        "import sys; from subtitled.asr.hub import fetch;\n"
        "print(sorted(file.name for file in fetch(sys.argv[1], print).iterdir()))"
    )

    def fetched(home: str) -> subprocess.CompletedProcess[str]:
        with FakeModelHub(folder, name) as hub:
            environ = {**os.environ, **hub.environ, "HF_HOME": str(tmp_path / home)}
            return subprocess.run(
                [sys.executable, "-c", program, name],
                env=environ, capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip

    done = fetched("first")
    assert done.returncode == 0, done.stderr
    assert str(sorted(file.name for file in folder.iterdir())) in done.stdout
    (folder / "model.bin").unlink()
    refused = fetched("second").stderr
    assert "not in CTranslate2 format" in refused
    assert f"--model {name} --output_dir FOLDER --copy_files source.spm target.spm" in refused
