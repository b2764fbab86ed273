"""Jobs are translated by a chat endpoint, from the inbox, a client and the command line; a failure costs no transcript."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from httpx2 import Client

from chat_endpoint import ChatEndpoint, translation_of
from daemon import Daemon, InboxFolder, eventually
from gateway_process import GatewayProcess
from media import speech, write_sound
from subtitle import ServerError
from subtitle.messages import EditedCue
from subtitled.config import schema
from subtitled.cues.render import read_json


@pytest.fixture(scope="module")
def endpoint() -> Iterator[ChatEndpoint]:
    with ChatEndpoint() as server:
        yield server


@pytest.fixture(scope="module")
def daemon(endpoint: ChatEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("translations")
    (folder / "names.toml").write_text('dog = "狗"\n', "utf-8")
    options = {
        "translate_to": ("zh_tw",),
        "is_bilingual": True,
        "formats": ("srt", "json"),
        "glossary": str(folder / "names.toml"),
    }
    with Daemon(
        folder,
        inboxes=(InboxFolder(options=options),),
        models=(schema.NamedModelConfig(name="llm", endpoint=endpoint.url, endpoint_model="tiny"),),
        pool=schema.PoolConfig(devices=("cpu",), prepare_workers=1),
    ) as running:
        yield running.start()


@pytest.fixture(scope="module")
def job(daemon: Daemon) -> str:
    """Return the id of a job of the inbox that is translated to zh-TW."""
    sound = daemon.folder / "talk.flac"
    write_sound(sound, speech(8))
    source = daemon.drop(sound, "talk.flac")
    return daemon.wait_for(source).id


def command(daemon: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from subtitle.cli import main; main()", "--server", daemon.endpoint, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=daemon.folder,
        timeout=120,
    )


def test_an_inbox_writes_transcript_translation_and_both_languages(daemon: Daemon, job: str) -> None:
    facts = daemon.client.status(job)
    assert facts.state == "done"
    names = {path.name for path in daemon.outbox.iterdir()}
    assert names >= {
        f"talk.{tag}.{form}" for tag in ("en", "zh-TW", "bilingual.zh-TW") for form in ("srt", "json")
    }
    made = read_json((daemon.outbox / "talk.zh-TW.json").read_bytes())
    assert made.translation is not None
    assert (made.translation.target, made.translation.untranslated) == ("zh-TW", 0)
    for sentence in made.translation.sentences:
        assert sentence.text == translation_of(sentence.source)
        assert (sentence.model, sentence.engine, sentence.version) == ("llm", "openai", "tiny-translator-2")
    both = read_json((daemon.outbox / "talk.bilingual.zh-TW.json").read_bytes())
    assert all(len(cue.lines) == 2 for cue in both.cues)
    translation = facts.translations[0]
    assert translation.language == "zh-TW"
    assert translation.done == translation.sentences == len(made.translation.sentences)


def test_a_translation_is_fetched_in_any_format(daemon: Daemon, job: str) -> None:
    name, body = daemon.client.fetch(job, "txt", language="Traditional Chinese")
    assert name == "talk.zh-TW.txt"
    assert body.decode().startswith("這是")
    name, body = daemon.client.fetch(job, "vtt", language="zh-TW", is_bilingual=True)
    assert name == "talk.bilingual.zh-TW.vtt"
    with pytest.raises(ServerError, match="is not translated to ko; its translations: zh-TW"):
        daemon.client.fetch(job, language="ko")
    with pytest.raises(ServerError, match="unknown language 'klingon'"):
        daemon.client.fetch(job, language="klingon")


def test_a_language_is_added_from_the_command_line(daemon: Daemon, job: str, endpoint: ChatEndpoint) -> None:
    count = len(endpoint.calls)
    done = command(daemon, "translate", job, "--to", "zh-HK", "--bilingual", "-o", str(daemon.folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert [Path(path).name for path in done.stdout.split()] == [
        "talk.zh-HK.srt", "talk.zh-HK.json", "talk.bilingual.zh-HK.srt", "talk.bilingual.zh-HK.json",
    ]  # fmt: skip
    again = command(daemon, "translate", job, "--to", "zh-HK", "-o", str(daemon.folder))
    assert again.returncode == 0
    named = command(
        daemon, "translate", job, "--to", "Traditional Chinese", "--format", "vtt", "-o", str(daemon.folder)
    )
    assert [Path(path).name for path in named.stdout.split()] == ["talk.zh-TW.vtt"]
    retried = command(daemon, "translate", job, "--retry", "--format", "txt", "-o", str(daemon.folder))
    assert {Path(path).name for path in retried.stdout.split()} >= {"talk.zh-TW.txt", "talk.zh-HK.txt"}
    assert "--to is empty" in command(daemon, "translate", str(daemon.folder / "talk.zh-TW.vtt")).stderr
    assert len(endpoint.calls) > count
    assert "zh-HK" in command(daemon, "status", job).stdout
    refused = command(daemon, "translate", job, "--to", "klingon")
    assert refused.returncode == 3
    assert "klingon" in refused.stderr


def test_an_edit_translates_only_what_it_changes(daemon: Daemon, job: str, endpoint: ChatEndpoint) -> None:
    made = read_json(daemon.client.fetch(job, "json")[1])
    count = len(endpoint.calls)
    cues = [EditedCue(start_ms=cue.start_ms, end_ms=cue.end_ms, lines=cue.lines) for cue in made.cues]
    cues[0] = EditedCue(start_ms=cues[0].start_ms, end_ms=cues[0].end_ms, lines=("Something else.",))
    daemon.client.save_cues(job, cues, version=0)

    def is_translated() -> bool:
        facts = daemon.client.status(job)
        body = daemon.client.fetch(job, "json", language="zh-TW")[1]
        found = read_json(body).translation
        return (
            facts.state == "done"
            and found is not None
            and found.sentences[0].text == translation_of("Something else.")
        )

    eventually(is_translated, "the changed sentence is translated")
    asked = {line for call in range(count, len(endpoint.calls)) for line in endpoint.sentences(call)}
    assert asked == {"Something else."}


def test_an_endpoint_that_fails_leaves_the_transcript_and_names_the_reason(
    daemon: Daemon, endpoint: ChatEndpoint
) -> None:
    sound = daemon.folder / "other.flac"
    write_sound(sound, speech(3))
    endpoint.faults.extend(["404"] * 3)
    done = command(
        daemon, "submit", str(sound), "--wait", "--translate-to", "zh-TW", "-o", str(daemon.folder)
    )
    endpoint.faults.clear()
    assert "zh-TW: 1 of 1 sentences are not translated" in done.stderr
    (facts,) = [one for one in daemon.client.list() if one.source == "other.flac"]
    assert (facts.state, facts.translations[0].untranslated) == ("done", 1)
    found = read_json(daemon.client.fetch(facts.id, "json", language="zh-TW")[1]).translation
    assert found is not None
    assert "status 404" in found.sentences[0].problem
    assert found.sentences[0].text == found.sentences[0].source
    retried = command(
        daemon, "translate", facts.id, "--to", "zh-TW", "--retry", "-o", str(daemon.folder / "retried.srt")
    )
    assert (retried.returncode, retried.stderr) == (0, "")
    assert "這是" in (daemon.folder / "retried.srt").read_text("utf-8")


def test_a_subtitle_file_is_translated_beside_it(daemon: Daemon) -> None:
    """Its name has its language, which the text does not show."""
    file = daemon.folder / "film.fr.srt"
    file.write_text("1\n00:00:01,000 --> 00:00:03,000\n- Hop!\n- 42 ?\n", "utf-8")
    done = command(daemon, "translate", str(file), "--to", "zh-TW", "--bilingual")
    assert done.returncode == 0, done.stderr
    assert [Path(path).name for path in done.stdout.split()] == [
        "film.zh-TW.srt",
        "film.bilingual.zh-TW.srt",
    ]
    text = (daemon.folder / "film.zh-TW.srt").read_text("utf-8")
    assert text == "1\n00:00:01,000 --> 00:00:03,000\n- 這是好。\n- 42 ?\n"
    (facts,) = [one for one in daemon.client.list() if one.source == "film.fr.srt"]
    assert facts.language == "fr"


def test_translations_over_http_and_on_the_page(daemon: Daemon, job: str, tmp_path: Path) -> None:
    with GatewayProcess(daemon, tmp_path) as gateway, Client(base_url=gateway.url, timeout=60) as http:
        answer = http.post(f"/api/jobs/{job}/translate", params={"to": "zh-TW, zh-CN"})
        assert answer.status_code == 200
        assert {one["language"] for one in answer.json()["translations"]} >= {"zh-TW", "zh-CN"}
        eventually(lambda: daemon.client.status(job).state == "done", "the translation is done")
        result = http.get(f"/api/jobs/{job}/result", params={"language": "zh-CN", "is_bilingual": "true"})
        assert "talk.bilingual.zh-CN.srt" in result.headers["content-disposition"]
        assert "这是" in result.text or "這是" in result.text  # without OpenCC
        page = http.get(f"/jobs/{job}").text
        assert f"/api/jobs/{job}/result?format=srt&amp;language=zh-CN" in page
        posted = http.post(f"/jobs/{job}/translate", data={"to": "klingon"}, headers={"Origin": gateway.url})
        assert posted.status_code == 400
        assert "klingon" in posted.text
        assert http.post(f"/api/jobs/{job}/translate", params={"is_retry": "maybe"}).status_code == 400
