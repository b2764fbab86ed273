"""The interface of whisper-asr-webservice, which Bazarr and others speak: /asr and /detect-language."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from urllib.parse import quote

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from subtitle.messages import JobOptions
from subtitled.http.errors import RequestError
from subtitled.http.forms import Form
from subtitled.http.gateway import Gateway
from subtitled.http.response_models import whisper
from subtitled.http.wav import BYTES_PER_SAMPLE, SAMPLE_RATE, header
from subtitled.languages import code_of, name_of

FILE_FIELD = "audio_file"
OUTPUTS = ("txt", "vtt", "srt", "tsv", "json")
TASKS = ("transcribe", "translate")
TAG = "asr"
DETECT_BYTES = 600 * SAMPLE_RATE * BYTES_PER_SAMPLE
"""Of raw audio whose language is asked, ten minutes are sent on: films begin with music, and a job ends with its vote."""
_TRUTH = {
    "true": True,
    "1": True,
    "on": True,
    "yes": True,
    "false": False,
    "0": False,
    "off": False,
    "no": False,
}


class AsrRequest(Struct, frozen=True, kw_only=True):
    """What the query of a request asks."""

    task: str = "transcribe"
    language: str = "auto"
    prompt: str = ""
    output: str = "txt"
    is_media: bool = True
    """Otherwise the file is bare 16-bit samples (little-endian, mono, 16 kHz), as who asks has made them with FFmpeg."""
    has_words: bool = False


def routes() -> list[Route]:
    """Return the interface's routes."""
    return [
        Route("/asr", _asr, methods=["POST"]),
        Route("/detect-language", _detect_language, methods=["POST"]),
    ]


async def _asr(request: Request) -> Response:
    gateway: Gateway = request.app.state.gateway
    asked = asked_of(request.query_params)
    options = msgspec.convert(
        {
            "language": asked.language,
            "task": asked.task,
            "formats": (asked.output,),
            "word_timestamps": True if asked.has_words else "auto",
            "initial_prompt": asked.prompt,
            "tag": TAG,
        },
        JobOptions,
    )
    name, job = await _send(request, asked, options)
    await gateway.finish(request, job)
    if asked.output == "json":
        content = msgspec.json.encode(whisper(await gateway.transcript(job), has_words=asked.has_words))
    else:
        content = await gateway.fetch(job, asked.output)
    headers = {
        "Asr-Engine": "subtitled",
        "Content-Disposition": f'attachment; filename="{quote(name)}.{asked.output}"',
    }
    # Also for JSON: so does the one whose interface this is, and its clients do not look.
    return Response(content, media_type="text/plain", headers=headers)


async def _detect_language(request: Request) -> Response:
    gateway: Gateway = request.app.state.gateway
    asked = asked_of(request.query_params)
    options = JobOptions(formats=("json",), word_timestamps=False, tag=TAG)
    _, job = await _send(request, asked, options, None if asked.is_media else DETECT_BYTES)
    facts = await gateway.finish(request, job, is_enough=lambda facts: facts.language is not None)
    if facts.language is None:
        raise RequestError(
            422, "no_speech", "nobody speaks in this file, as far as can be told: it has no language"
        )
    answer: dict[str, object] = {
        "detected_language": name_of(facts.language),
        "language_code": facts.language,
    }
    if facts.state == "done":
        # The job of a longer file is ended with its vote; how sure that was is in what it would have come to.
        answer["confidence"] = (await gateway.transcript(job)).language_probability
    return Response(msgspec.json.encode(answer), media_type="application/json")


async def _send(
    request: Request, asked: AsrRequest, options: JobOptions, max_bytes: int | None = None
) -> tuple[str, str]:
    """Send a request's file, or the first `max_bytes` of it; return its name and its job."""
    gateway: Gateway = request.app.state.gateway
    form = Form(request, FILE_FIELD, gateway.max_bytes)
    name = await form.open()
    if asked.is_media:
        return name, await gateway.submit(form.pieces(), name, options)
    return name, await gateway.submit(_as_wave(form.pieces(), max_bytes), f"{name or 'audio'}.wav", options)


async def _as_wave(samples: AsyncIterator[bytes], max_bytes: int | None) -> AsyncIterator[bytes]:
    """Yield bare samples as a WAV file whose length its header does not tell; beyond `max_bytes` they are only read."""
    yield header(None)
    left = max_bytes
    async for piece in samples:
        if left is None:
            yield piece
        elif left > 0:
            yield piece[:left]
            left -= len(piece)


def asked_of(query: Mapping[str, str]) -> AsrRequest:
    """Return what a query asks; raises RequestError. `vad_filter` is not heeded: silence is never transcribed here."""
    output, task = query.get("output") or "txt", query.get("task") or "transcribe"
    if output not in OUTPUTS:
        raise _bad("output", output, ", ".join(OUTPUTS))
    if task not in TASKS:
        raise _bad("task", task, ", ".join(TASKS))
    language, prompt = query.get("language") or "auto", query.get("initial_prompt") or ""
    if len(prompt) > 1000:
        raise _bad("initial_prompt", f"{prompt[:20]}… ({len(prompt)} characters)", "at most 1000 characters")
    return AsrRequest(
        task=task,
        language=code_of(language) or language[:32],
        prompt=prompt,
        output=output,
        is_media=_truth(query, "encode", "true"),
        has_words=_truth(query, "word_timestamps", "false"),
    )


def _truth(query: Mapping[str, str], name: str, default: str) -> bool:
    text = query.get(name) or default
    if text.lower() not in _TRUTH:
        raise _bad(name, text, "true, false")
    return _TRUTH[text.lower()]


def _bad(name: str, value: str, allowed: str) -> RequestError:
    return RequestError(422, "bad_format", f"{name}: got {value[:100]!r}, allowed: {allowed}", param=name)
