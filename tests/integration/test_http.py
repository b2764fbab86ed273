"""The HTTP interfaces of a real gateway and daemon."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import msgspec
import pytest

import media
from daemon import Daemon, eventually, free_port, is_running
from gateway_process import GatewayProcess
from lazy_import import lazy_import
from subtitled.config import schema
from subtitled.config.load import to_toml
from subtitled.runtime.processes import NICENESS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import openai
else:
    openai = lazy_import("openai")

SPOKEN_S = 4
WAIT_S = 120.0
DEMO = Path(str(files("subtitled") / "demo"))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("daemon"), uploads=schema.UploadsConfig(max_open=8)) as running:
        yield running.start()


@pytest.fixture(scope="module")
def gateway(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(daemon, tmp_path_factory.mktemp("gateway"), max_upload_mb=64) as running:
        yield running


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return media.write_sound(tmp_path_factory.mktemp("media") / "talk.wav", media.speech(SPOKEN_S))


@pytest.fixture(scope="module")
def transcript(daemon: Daemon, talk: Path) -> str:
    """Return the transcript that a client of the daemon gets."""
    job = daemon.client.submit(talk, formats=("txt",))
    job.wait(WAIT_S)
    return " ".join(job.text("txt").split())


@pytest.fixture
def http(gateway: GatewayProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=WAIT_S) as client:
        yield client


@pytest.fixture
def ai(gateway: GatewayProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", timeout=WAIT_S, max_retries=0) as client:
        yield client


def curl(*words: str) -> str:
    done = subprocess.run(
        ["curl", "-sS", *words], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- OpenAI ------------------------------------------------------------------------------------------------------


def test_a_file_alone_is_enough_for_a_transcription(
    gateway: GatewayProcess, talk: Path, transcript: str
) -> None:
    answer = json.loads(curl("-F", f"file=@{talk}", f"{gateway.url}/v1/audio/transcriptions"))
    assert answer == {"text": transcript, "usage": {"type": "duration", "seconds": SPOKEN_S}}


def test_form_fields_may_follow_the_file(gateway: GatewayProcess, talk: Path) -> None:
    """As in OpenAI's own examples; the daemon needs the granularity before transcription starts."""
    words = (
        "file=@" + str(talk),
        "timestamp_granularities[]=word",
        "model=whisper-1",
        "response_format=verbose_json",
    )
    answer = json.loads(
        curl(*(part for word in words for part in ("-F", word)), f"{gateway.url}/v1/audio/transcriptions")
    )
    assert answer["words"]
    assert "segments" not in answer
    assert [word["start"] for word in answer["words"]] == sorted(word["start"] for word in answer["words"])


def test_the_openai_package_gets_every_format(ai: openai.OpenAI, talk: Path, transcript: str) -> None:
    create = ai.audio.transcriptions.create
    assert create(file=talk, model="whisper-1").text == transcript
    assert create(file=talk, model="demo", response_format="text") == f"{transcript}\n"
    assert create(file=talk, model="whisper-1", response_format="srt").startswith("1\n00:00:0")
    assert create(file=talk, model="whisper-1", response_format="vtt", prompt="A talk.").startswith(
        "WEBVTT\n"
    )
    verbose = create(
        file=talk,
        model="whisper-1",
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
        language="en",
        temperature=0.0,
    )
    assert (verbose.text, verbose.language, verbose.duration) == (transcript, "english", float(SPOKEN_S))
    assert verbose.segments
    assert verbose.words
    assert " ".join(segment.text.strip() for segment in verbose.segments) == transcript
    assert "".join(word.word for word in verbose.words) == transcript.replace(" ", "")
    assert all(0 <= segment.start < segment.end <= SPOKEN_S for segment in verbose.segments)


def test_chinese_phrases_are_joined_without_spaces(ai: openai.OpenAI) -> None:
    text = ai.audio.transcriptions.create(file=DEMO / "demo-zh.flac", model="whisper-1").text
    assert "请打开蓝色的窗户" in text
    assert " " not in text


def test_a_streamed_transcription_has_the_same_text(ai: openai.OpenAI, talk: Path, transcript: str) -> None:
    events = list(ai.audio.transcriptions.create(file=talk, model="whisper-1", stream=True))
    parts = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert "".join(parts) == transcript
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == transcript


def test_models_are_the_daemons_model_and_its_aliases(ai: openai.OpenAI) -> None:
    assert [model.id for model in ai.models.list()][:2] == ["demo", "whisper-1"]
    assert ai.models.retrieve("demo").object == "model"
    with pytest.raises(openai.NotFoundError, match="use 'demo'"):
        ai.models.retrieve("gpt-5")


def test_invalid_requests_get_openais_errors(ai: openai.OpenAI, daemon: Daemon, talk: Path) -> None:
    create: Any = ai.audio.transcriptions.create
    for words, param in (
        ({"response_format": "diarized_json"}, "response_format"),
        ({"temperature": 7.0}, "temperature"),
        ({"timestamp_granularities": ["line"], "response_format": "verbose_json"}, "timestamp_granularities"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            create(file=talk, model="whisper-1", **words)
        assert (refused.value.param, refused.value.type) == (param, "invalid_request_error")
    with pytest.raises(openai.NotFoundError) as unknown:
        create(file=talk, model="tts-1")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="klingon"):
        create(file=talk, model="whisper-1", language="klingon")
    assert daemon.client.list(("receiving",)) == ()


def test_a_translation_is_a_job_with_the_task_translate(
    ai: openai.OpenAI, daemon: Daemon, talk: Path
) -> None:
    with pytest.deprecated_call():  # by the package; other programs ask it all the same
        answer = ai.audio.translations.create(
            file=("foreign.wav", talk.read_bytes()), model="whisper-1", response_format="verbose_json"
        )
    assert (answer.language, answer.duration) == ("english", float(SPOKEN_S))
    assert {job.task for job in daemon.client.list(tag="openai") if job.source == "foreign.wav"} == {
        "translate"
    }


def test_a_file_that_is_not_media_is_a_client_error(ai: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="not media") as refused:
        ai.audio.transcriptions.create(file=("talk.mp3", b"not media"), model="whisper-1")
    assert refused.value.code == "invalid_media"
    with pytest.raises(openai.APIError, match="not media"):
        list(ai.audio.transcriptions.create(file=("talk.mp3", b"not media"), model="whisper-1", stream=True))


# -- Bazarr ------------------------------------------------------------------------------------------------------


def samples(path: Path) -> bytes:
    """Return a WAV file's samples without the header, as Bazarr sends them."""
    return path.read_bytes()[44:]


def test_bazarr_gets_subtitles_for_raw_samples(http: httpx.Client, talk: Path) -> None:
    """The request of its provider `whisperai`, which reads an SRT file from `r.content`."""
    answer = http.post(
        "/asr",
        params={"task": "transcribe", "language": "en", "output": "srt", "encode": "false"},
        files={"audio_file": samples(talk)},
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    whole = http.post(
        "/asr", params={"language": "en", "output": "srt"}, files={"audio_file": talk.read_bytes()}
    )
    assert answer.text == whole.text
    assert answer.text.startswith("1\n00:00:0")


def test_bazarr_gets_the_language_of_raw_samples(http: httpx.Client, daemon: Daemon, talk: Path) -> None:
    """It reads `detected_language` and `language_code`; a long file is transcribed up to the language vote."""
    for content in (samples(talk), samples(talk) * 100):
        answer = http.post(
            "/detect-language", params={"encode": "false"}, files={"audio_file": content}
        ).json()
        assert (answer["detected_language"], answer["language_code"]) == ("english", "en")
    short, long = sorted(daemon.client.list(tag="asr", limit=2), key=lambda job: job.size)
    assert long.size <= 600 * 32_000 + 44

    def ended(job: str) -> str | None:
        facts = daemon.client.status(job)
        return facts.state if facts.ended_ms else None

    assert eventually(lambda: ended(short.id), "the short one ended") == "done"
    assert eventually(lambda: ended(long.id), "the long one ended") == "cancelled"


def test_silence_has_an_undetermined_language_that_clients_can_read(
    http: httpx.Client, ai: openai.OpenAI, tmp_path: Path
) -> None:
    """Bazarr reads both fields of a detection; the packages of OpenAI's clients require a string."""
    params = {"encode": "false"}
    detected = http.post("/detect-language", params=params, files={"audio_file": bytes(64_000)})
    assert (detected.status_code, detected.json()) == (
        200,
        {"detected_language": "undetermined", "language_code": "und"},
    )
    silence = media.write_sound(tmp_path / "silence.wav", media.silence(2))
    verbose = ai.audio.transcriptions.create(file=silence, model="whisper-1", response_format="verbose_json")
    assert (verbose.language, verbose.text, verbose.duration) == ("undetermined", "", 2.0)
    asr = http.post("/asr", params={"output": "json"}, files={"audio_file": silence.read_bytes()}).json()
    assert asr == {"text": "", "segments": [], "language": "und"}
    job = http.post("/api/jobs", files={"file": silence.read_bytes()}).json()["id"]
    events_of(http, job)
    assert http.get(f"/api/jobs/{job}/cues").json()["language"] == "und"


def test_a_long_prompt_is_cut_to_its_end(http: httpx.Client, ai: openai.OpenAI, talk: Path) -> None:
    prompt = f"{'start ' * 400}end"
    assert ai.audio.transcriptions.create(file=talk, model="whisper-1", prompt=prompt).text
    assert http.post(
        "/asr", params={"initial_prompt": prompt}, files={"audio_file": talk.read_bytes()}
    ).is_success
    for form in ({"initial_prompt": prompt}, {"options": json.dumps({"initial_prompt": prompt})}):
        answer = http.post("/api/jobs", data=form, files={"file": talk.read_bytes()})
        assert answer.is_success, answer.text
    for path, name in (("/v1/audio/transcriptions", "prompt"), ("/api/jobs", "initial_prompt")):
        answer = http.post(path, data={name: "語" * 30_000}, files={"file": talk.read_bytes()})
        assert answer.is_success, answer.text


def test_asr_returns_every_output_format(http: httpx.Client, talk: Path, transcript: str) -> None:
    file = {"audio_file": ("talk.wav", talk.read_bytes())}
    answers = {
        form: http.post("/asr", params={"output": form}, files=file) for form in ("txt", "vtt", "tsv", "json")
    }
    assert " ".join(answers["txt"].text.split()) == transcript
    assert answers["vtt"].text.startswith("WEBVTT\n")
    assert answers["tsv"].text.startswith("start\tend\ttext\n")
    assert answers["json"].headers["content-disposition"] == 'attachment; filename="talk.wav.json"'
    whole = answers["json"].json()
    assert (whole["text"], whole["language"]) == (transcript, "en")
    known = {"id", "seek", "start", "end", "text", "tokens", "temperature"}
    known |= {"avg_logprob", "compression_ratio", "no_speech_prob"}
    assert all(set(segment) == known for segment in whole["segments"])
    params = {"output": "json", "word_timestamps": "true", "vad_filter": "true", "initial_prompt": "A talk."}
    words = http.post("/asr", params=params, files=file).json()["segments"][0]["words"]
    assert all(set(word) == {"word", "start", "end", "probability"} for word in words)


def test_asr_errors_have_the_form_its_clients_expect(http: httpx.Client) -> None:
    for params, why in (
        ({"output": "ass"}, "output: 'ass' is not allowed (txt, vtt, srt, tsv, json)"),
        ({"task": "summarize"}, "task: 'summarize' is not allowed"),
        ({"encode": "perhaps"}, "encode: 'perhaps' is not allowed"),
    ):
        answer = http.post("/asr", params=params, files={"audio_file": b"x"})
        assert (answer.status_code, list(answer.json())) == (422, ["detail"])
        assert answer.json()["detail"].startswith(why)
    answer = http.post("/asr", files={"file": ("a.wav", b"x")})
    assert (answer.status_code, "'audio_file'" in answer.json()["detail"]) == (400, True)


# -- REST -----------------------------------------------------------------------------------------------------


def events_of(http: httpx.Client, job: str, **headers: str) -> list[dict[str, str]]:
    """Return all events of a job."""
    text = http.get(f"/api/jobs/{job}/events", headers=headers).text
    blocks = [block.splitlines() for block in text.split("\n\n") if block and not block.startswith(":")]
    return [dict(line.split(": ", 1) for line in lines) for lines in blocks]


def test_a_job_is_submitted_followed_and_fetched(http: httpx.Client, talk: Path, transcript: str) -> None:
    data = {"name": "rest.wav", "tag": "rest", "formats": "txt,vtt"}
    sent = http.post("/api/jobs", files={"file": talk.read_bytes()}, data=data)
    assert sent.status_code == 201, sent.text
    job = sent.json()
    assert (job["source"], job["formats"]) == ("rest.wav", ["txt", "vtt"])
    assert http.get(sent.headers["location"]).json()["id"] == job["id"]
    events = events_of(http, job["id"])
    assert (events[-1]["event"], json.loads(events[-1]["data"])["state"]) == ("end", "done")
    assert [int(event["id"]) for event in events[:-1]] == sorted({int(event["id"]) for event in events[:-1]})
    assert json.loads(events[0]["data"])["after"] == "receiving"
    result = http.get(f"/api/jobs/{job['id']}/result", params={"format": "txt"})
    assert " ".join(result.text.split()) == transcript
    assert result.headers["content-disposition"] == "attachment; filename*=UTF-8''rest.en.txt"
    assert job["id"] in {
        one["id"] for one in http.get("/api/jobs", params={"tag": "rest", "state": "done"}).json()["jobs"]
    }


def test_events_resume_after_the_last_event_id(http: httpx.Client, daemon: Daemon, talk: Path) -> None:
    job = daemon.client.submit(talk, tag="events")
    job.wait(WAIT_S)
    events = events_of(http, job.id)
    rest = events_of(http, job.id, **{"Last-Event-ID": events[1]["id"]})
    assert rest == events[2:]
    nothing_more = http.get(f"/api/jobs/{job.id}/events", params={"after": events[-2]["id"]})
    assert nothing_more.status_code == 204


def test_the_request_body_may_be_the_file(gateway: GatewayProcess, talk: Path) -> None:
    """The request of `curl -T`."""
    url = f"{gateway.url}/api/jobs?name=put.wav&language=en&options=" + '{"layout":{"max_lines":1}}'
    sent = json.loads(curl("-g", "-X", "POST", "-T", str(talk), url))
    assert (sent["source"], sent["size"]) == ("put.wav", talk.stat().st_size)


def test_a_server_without_allowed_hosts_accepts_no_address(http: httpx.Client) -> None:
    refused = http.post("/api/jobs", data={"url": "https://example.org/a"})
    assert refused.status_code == 400
    assert "set url.allowed_hosts" in refused.json()["message"]
    assert 'id="url"' not in http.get("/").text


def test_jobs_can_be_cancelled_and_retried(http: httpx.Client, daemon: Daemon, tmp_path: Path) -> None:
    long = media.write_sound(tmp_path / "long.flac", media.recording())
    job = http.post("/api/jobs", files={"file": ("cancelled.flac", long.read_bytes())}).json()["id"]
    assert http.delete(f"/api/jobs/{job}").json()["state"] == "cancelled"
    again = http.delete(f"/api/jobs/{job}")
    assert (again.status_code, again.json()["code"]) == (409, "wrong_state")
    broken = http.post("/api/jobs", files={"file": ("broken.mp3", b"not media")}).json()["id"]
    eventually(
        lambda: daemon.client.status(broken).state == "failed" and daemon.is_closed(broken), "the job failed"
    )
    assert http.post(f"/api/jobs/{broken}/retry").json()["id"] == broken


def test_ended_job_is_deleted_on_request(http: httpx.Client, tmp_path: Path) -> None:
    long = media.write_sound(tmp_path / "long.flac", media.recording())
    job = http.post("/api/jobs", files={"file": ("deleted.flac", long.read_bytes())}).json()["id"]
    live = http.delete(f"/api/jobs/{job}", params={"delete": "true"})
    assert (live.status_code, live.json()["code"]) == (409, "wrong_state")
    http.delete(f"/api/jobs/{job}")
    assert http.delete(f"/api/jobs/{job}", params={"delete": "true"}).json()["id"] == job
    assert http.get(f"/api/jobs/{job}").status_code == 404


def test_stats_are_those_of_the_daemon(http: httpx.Client) -> None:
    stats = http.get("/api/stats").json()
    assert [worker["slot"] for worker in stats["workers"]] == ["prepare0", "cpu0"]
    assert not stats.keys() & {"type", "request"}


@pytest.mark.parametrize(
    ("words", "param"),
    [
        ({"languages": "en"}, "languages"),
        ({"priority": "high"}, "priority"),
        ({"priority": "101"}, "priority"),
        ({"task": "summarize"}, "task"),
        ({"word_timestamps": "perhaps"}, "word_timestamps"),
        ({"options": "{"}, "options"),
        ({"options": '{"colour": 1}'}, "options"),
        ({"options": '{"layout": {"max_lines": 9}}'}, "layout.max_lines"),
    ],
)
def test_an_invalid_option_is_named_in_the_error(
    http: httpx.Client, words: dict[str, str], param: str
) -> None:
    for sent in (
        http.post("/api/jobs", params=words, content=b"x"),
        http.post("/api/jobs", data=words, files={"file": b"x"}),
    ):
        assert (sent.status_code, sent.json()["param"]) == (400, param), sent.text


# -- bodies ------------------------------------------------------------------------------------------------------


def test_a_form_without_a_file_or_with_two_is_rejected(http: httpx.Client) -> None:
    url = "/v1/audio/transcriptions"
    for sent in (
        {"json": {"model": "whisper-1"}},
        {"files": {"model": (None, "whisper-1")}},
        {"files": {"audio": ("a.wav", b"x")}},
        {"files": {"file": ("a.wav", b"x")}, "data": {"prompt": "x" * (2**16 + 1)}},
        {"files": {"file": ("a.wav", b"x")}, "data": {f"field{number}": "x" for number in range(65)}},
        {"files": [("file", ("a.wav", b"x")), ("file", ("b.wav", b"x"))]},
        {"content": b"--b\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
        {"content": b"not a form", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
    ):
        answer = http.post(url, **sent)
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error"), (
            answer.text
        )


def test_a_file_over_the_size_limit_is_rejected_and_its_upload_cancelled(
    http: httpx.Client, daemon: Daemon
) -> None:
    answer = http.post("/v1/audio/transcriptions", files={"file": ("large.wav", bytes(65 * 2**20))})
    assert answer.status_code == 413
    assert "64 MiB (http.max_upload_mb)" in answer.json()["error"]["message"]
    eventually(lambda: not daemon.client.list(("receiving",)), "its upload is cancelled")


def test_a_large_upload_is_not_buffered_in_memory(daemon: Daemon, tmp_path: Path) -> None:
    """200 MiB of unknown length; `VmHWM` is the peak memory of the process."""
    with (
        GatewayProcess(daemon, tmp_path) as gateway,
        httpx.Client(base_url=gateway.url, timeout=WAIT_S) as http,
    ):
        zeros = bytes(2**20)
        sent = http.post("/api/jobs", params={"name": "large.bin"}, content=(zeros for _ in range(200)))
        assert (sent.status_code, sent.json()["size"]) == (201, 200 * 2**20)
        status = Path(f"/proc/{gateway.pid}/status").read_text("ascii")
        peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        assert peak_kib < 150 * 1024


def test_a_job_is_cancelled_when_its_client_disconnects(
    gateway: GatewayProcess, daemon: Daemon, tmp_path: Path
) -> None:
    long = media.write_sound(tmp_path / "gone.flac", media.recording())
    client = subprocess.Popen(
        ["curl", "-sS", "-F", f"file=@{long}", f"{gateway.url}/v1/audio/transcriptions"],
        stdout=subprocess.DEVNULL,
    )

    def job_in(*states: str) -> bool:
        return any(job.source == "gone.flac" for job in daemon.client.list(states))

    eventually(lambda: job_in("queued", "preparing", "transcribing"), "the job is in progress")
    client.kill()
    client.wait()
    eventually(lambda: job_in("cancelled"), "the job is cancelled")


# -- load and restarts ------------------------------------------------------------------------------------------


def test_many_concurrent_uploads_are_all_answered(
    gateway: GatewayProcess, daemon: Daemon, talk: Path, transcript: str
) -> None:
    """Sixteen uploads with a limit of eight: the gateway retries the others."""
    content = talk.read_bytes()

    async def one(client: httpx.AsyncClient, number: int) -> str:
        file = {"file": (f"many-{number}.wav", content)}
        answer = await client.post("/v1/audio/transcriptions", files=file)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["text"])

    async def run() -> list[str]:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=WAIT_S) as client:
            return await asyncio.gather(*(one(client, number) for number in range(16)))

    assert asyncio.run(run()) == [transcript] * 16
    names = {job.source for job in daemon.client.list(("done",), limit=1000)}
    assert {f"many-{number}.wav" for number in range(16)} <= names


def test_an_unavailable_daemon_is_503_until_it_is_back(tmp_path: Path, talk: Path) -> None:
    with Daemon(tmp_path) as daemon, GatewayProcess(daemon, tmp_path / "gateway") as gateway:
        url, file = f"{gateway.url}/v1/audio/transcriptions", {"file": talk.read_bytes()}
        with httpx.Client(timeout=WAIT_S) as http:
            answer = http.post(url, files=file)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unreachable")
            daemon.start()
            answers = [http.post(url, files=file)]
            daemon.stop()
            daemon.start()
            answers.append(http.post(url, files=file))
            assert [answer.status_code for answer in answers] == [200, 200], answers[-1].text
        assert gateway.stop() == 0


# -- access -------------------------------------------------------------------------------------------------


def test_a_configured_token_is_required(daemon: Daemon, tmp_path: Path) -> None:
    token = "correct-horse-battery"  # noqa: S105 - one for this test
    tokens = tmp_path / "tokens"
    tokens.write_text(f"# laptop\n{token}\n", "utf-8")
    tokens.chmod(0o600)
    with GatewayProcess(daemon, tmp_path / "gateway", token_file=str(tokens)) as gateway:
        with httpx.Client(base_url=gateway.url, timeout=WAIT_S) as http:
            for headers in (
                {},
                {"Authorization": "Bearer wrong-horse-battery"},
                {"Authorization": "Basic !"},
            ):
                answer = http.get("/v1/models", headers=headers)
                assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
            assert http.get("/v1/models", auth=("any", token)).status_code == 200
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=token, timeout=WAIT_S) as ai:
            assert ai.models.retrieve("demo").id == "demo"


def test_requests_of_other_sites_and_other_host_names_are_rejected(gateway: GatewayProcess) -> None:
    """Cross-site requests and DNS rebinding."""
    with httpx.Client(base_url=gateway.url, timeout=WAIT_S) as http:
        assert http.get("/v1/models", headers={"Host": "evil.example"}).status_code == 403
        assert http.post("/v1/models", headers={"Origin": "https://evil.example"}).status_code == 403
        assert http.get("/v1/models", headers={"Origin": gateway.url}).status_code == 200


@pytest.mark.parametrize("headers", [{"Host": "["}, {"Host": "127.0.0.1["}, {"Origin": "http://["}])
def test_an_invalid_host_or_origin_is_a_bad_request(gateway: GatewayProcess, headers: dict[str, str]) -> None:
    with httpx.Client(base_url=gateway.url, timeout=WAIT_S) as http:
        for path in ("/", "/v1/models", "/api/jobs", "/nosuch"):
            assert http.get(path, headers=headers).status_code == 400, path
        assert http.post("/retry-failed", headers={"Referer": "http://["}).status_code == 303


def test_a_boundary_that_is_too_long_is_a_bad_request(http: httpx.Client) -> None:
    kind = {"Content-Type": f"multipart/form-data; boundary={'b' * 300}"}
    answer = http.post("/api/jobs", content=b"x", headers=kind)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_format")


def preflight(http: httpx.Client, origin: str) -> httpx.Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    return http.request("OPTIONS", "/v1/audio/transcriptions", headers=headers)


def test_pages_of_allowed_origins_may_use_the_gateway(daemon: Daemon, tmp_path: Path) -> None:
    origin = "https://app.example:8443"
    with (
        GatewayProcess(daemon, tmp_path, origins=(origin,)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=WAIT_S) as http,
    ):
        allowed = preflight(http, origin)
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (204, origin)
        assert "POST" in allowed.headers["access-control-allow-methods"]
        assert allowed.headers["access-control-allow-headers"] == "authorization,content-type"
        for headers in ({"Origin": origin}, {"Origin": origin, "Sec-Fetch-Site": "cross-site"}):
            answer = http.post("/api/jobs", content=b"not media", headers=headers)
            assert answer.status_code == 201
            assert answer.headers["access-control-allow-origin"] == origin
            assert "Origin" in answer.headers["vary"]
        failed = http.get("/api/jobs/nosuch", headers={"Origin": origin})
        assert (failed.status_code, failed.headers["access-control-allow-origin"]) == (404, origin)
        for other in ("https://app.example", "null", "https://evil.example"):
            refused = preflight(http, other)
            assert (refused.status_code, "access-control-allow-origin" in refused.headers) == (403, False)
            assert http.post("/api/jobs", content=b"x", headers={"Origin": other}).status_code == 403


def test_a_bearer_token_is_enough_from_any_origin(daemon: Daemon, tmp_path: Path) -> None:
    """A browser never adds a Bearer token automatically, but it does add a Basic password."""
    token = "correct-horse-battery"  # noqa: S105 - one for this test
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{token}\n", "utf-8")
    tokens.chmod(0o600)
    cross_site = {"Origin": "app://desktop", "Sec-Fetch-Site": "cross-site"}
    with (
        GatewayProcess(daemon, tmp_path / "gateway", token_file=str(tokens)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=WAIT_S) as http,
    ):
        bearer = {**cross_site, "Authorization": f"Bearer {token}"}
        assert http.post("/api/jobs", content=b"not media", headers=bearer).status_code == 201
        assert (
            http.post("/api/jobs", content=b"x", headers=cross_site, auth=("any", token)).status_code == 403
        )
        assert (
            http.post("/api/jobs", content=b"x", headers={**bearer, "Authorization": "Bearer no"}).status_code
            == 401
        )


def test_model_names_in_the_configuration_select_the_daemons_model(
    daemon: Daemon, tmp_path: Path, talk: Path, transcript: str
) -> None:
    models = ("Systran/*", "large-v3")
    with (
        GatewayProcess(daemon, tmp_path, models=models) as gateway,
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", timeout=WAIT_S, max_retries=0) as ai,
    ):
        name = "Systran/faster-whisper-large-v3"
        assert ai.audio.transcriptions.create(file=talk, model=name).text == transcript
        assert ai.models.retrieve(name).id == name
        assert "large-v3" in {model.id for model in ai.models.list()}
        with pytest.raises(openai.NotFoundError, match=r"http\.models"):
            ai.models.retrieve("tiny")


def test_health_is_public_and_follows_the_daemon(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("correct-horse-battery\n", "utf-8")
    tokens.chmod(0o600)
    with (
        Daemon(tmp_path) as daemon,
        GatewayProcess(daemon, tmp_path / "gateway", token_file=str(tokens)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=WAIT_S) as http,
    ):
        away = http.get("/health")
        assert (away.status_code, away.json()) == (503, {"status": "unavailable"})
        daemon.start()
        eventually(lambda: http.get("/health").status_code == 200, "the daemon is healthy")
        assert http.get("/health", headers={"Host": "probe.internal"}).json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        ("", 0o600, "contains no token"),
        ("short\n", 0o600, "fewer than 16 characters"),
        ("correct-horse-battery\n", 0o644, "readable by other users"),
    ],
)
def test_an_insecure_token_file_is_rejected(
    daemon: Daemon, tmp_path: Path, content: str, mode: int, why: str
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(content, "utf-8")
    tokens.chmod(mode)
    gateway = GatewayProcess(daemon, tmp_path, token_file=str(tokens))
    done = run_with(gateway.config_file)
    assert done.returncode == 1
    assert why in done.stderr


def test_an_empty_listen_address_is_an_error_with_a_remedy(daemon: Daemon) -> None:
    done = run_with(daemon.config_file)
    assert done.returncode == 1
    assert "http.listen is empty; set an address, such as 127.0.0.1:8600" in done.stderr


def run_with(config_file: Path) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "subtitled", "http", "--config", str(config_file))
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)


def test_the_gateway_imports_no_media_or_model_library() -> None:
    """These come with the extra `daemon`, not with `http`."""
    heavy = "av ctranslate2 faster_whisper numpy onnxruntime prometheus_client pynvml soundfile soxr watchdog"
    code = (
        "import sys, subtitled.cli, subtitled.workers.process, subtitled.web.process\n"
        f"sys.exit(', '.join(set({heavy!r}.split()) & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# -- gateway started by the daemon -------------------------------------------------------------------------------------------


def gateways_of(pid: int) -> list[int]:
    """Return the running gateway processes of a daemon."""
    words = b"\0http\0--parent\0%d\0" % pid
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            if folder.name.isdigit() and words in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def test_child_processes_have_a_lower_priority_than_the_daemon(daemon: Daemon, talk: Path) -> None:
    """The daemon answers clients while workers and layout processes compute."""
    daemon.client.submit(talk).wait(WAIT_S)
    threads = Path(f"/proc/{daemon.pid}/task").iterdir()
    children = {int(pid) for thread in threads for pid in (thread / "children").read_text("ascii").split()}
    assert len(children) > len(daemon.workers())
    mine = os.getpriority(os.PRIO_PROCESS, daemon.pid)
    assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in children} == {min(19, mine + NICENESS)}


def test_the_daemon_starts_and_restarts_the_gateway(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"

    def answers() -> bool:
        try:
            return httpx.get(f"http://{address}/v1/models", timeout=WAIT_S).status_code == 200
        except httpx.TransportError:
            return False

    with Daemon(tmp_path, http=schema.HttpConfig(listen=address)) as daemon:
        daemon.start()
        eventually(answers, "the gateway answers")
        shown = httpx.get(
            f"http://{address}/api/operate", params={"log_lines": 9, "log_text": "http.listening"}
        )
        assert len(shown.json()["log"]) == 1, "the gateway's own line"
        workers = daemon.workers()
        [first] = gateways_of(daemon.pid)
        os.kill(first, signal.SIGKILL)
        assert daemon.wait_for_log("http.lost")["status"] == -signal.SIGKILL
        eventually(
            lambda: gateways_of(daemon.pid) not in ([], [first]) and answers(), "the gateway is running again"
        )
        assert daemon.workers() == workers
        [second] = gateways_of(daemon.pid)
        daemon.config_file.write_text(
            to_toml(msgspec.structs.replace(daemon.config, http=schema.HttpConfig())), "utf-8"
        )
        os.kill(daemon.pid, signal.SIGHUP)
        eventually(lambda: not is_running(second), "the gateway is stopped")
        daemon.config_file.write_text(to_toml(daemon.config), "utf-8")
        os.kill(daemon.pid, signal.SIGHUP)
        eventually(answers, "the gateway is running again")
        [third] = gateways_of(daemon.pid)
        daemon.stop()
        assert not is_running(third)
        daemon.start()
        eventually(answers, "the gateway of the next daemon answers")
        [fourth] = gateways_of(daemon.pid)
        daemon.kill()
        eventually(lambda: not is_running(fourth), "the gateway exits with the daemon")
