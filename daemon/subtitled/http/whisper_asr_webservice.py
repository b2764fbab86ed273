"""The interface of whisper-asr-webservice, which Bazarr uses: /asr and /detect-language."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from urllib.parse import quote

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from subtitle.messages import JobOptions
from subtitled.http.errors import RequestError, not_allowed
from subtitled.http.forms import UploadForm, language_option, prompt_tail
from subtitled.http.gateway import Gateway
from subtitled.http.response_formats import UNDETERMINED, UNDETERMINED_NAME, json_response, whisper_json
from subtitled.http.wav import BYTES_PER_SAMPLE, SAMPLE_RATE, wav_header
from subtitled.languages import name_of

FILE_FIELD = "audio_file"
OUTPUTS = ("txt", "vtt", "srt", "tsv", "json")
TASKS = ("transcribe", "translate")
TAG = "asr"
DETECT_BYTES = 600 * SAMPLE_RATE * BYTES_PER_SAMPLE
"""Raw audio passed on for language detection: ten minutes, because films begin with music."""
_BOOLEANS = {
    **dict.fromkeys(("true", "1", "on", "yes"), True),
    **dict.fromkeys(("false", "0", "off", "no"), False),
}


class AsrRequest(Struct, frozen=True, kw_only=True):
    """The query parameters of a request."""

    task: str = "transcribe"
    language: str = "auto"
    prompt: str = ""
    output: str = "txt"
    is_media: bool = True
    """False: the file is raw 16-bit samples (little-endian, mono, 16 kHz)."""
    has_words: bool = False


def routes() -> list[Route]:
    """Return the interface's routes."""
    return [
        Route("/asr", _asr, methods=["POST"]),
        Route("/detect-language", _detect_language, methods=["POST"]),
    ]


async def _asr(request: Request) -> Response:
    gateway: Gateway = request.app.state.gateway
    params = parse_query(request.query_params)
    options = msgspec.convert(
        {
            "language": params.language,
            "task": params.task,
            "formats": (params.output,),
            "word_timestamps": True if params.has_words else "auto",
            "initial_prompt": params.prompt,
            "tag": TAG,
        },
        JobOptions,
    )
    name, job = await _submit(request, params, options)
    await gateway.wait_while_connected(request, job)
    if params.output == "json":
        transcript = await gateway.transcript(job)
        content = msgspec.json.encode(whisper_json(transcript, has_words=params.has_words))
    else:
        content = await gateway.fetch(job, params.output)
    headers = {
        "Asr-Engine": "subtitled",
        "Content-Disposition": f'attachment; filename="{quote(name)}.{params.output}"',
    }
    # text/plain also for JSON, as whisper-asr-webservice sends it.
    return Response(content, media_type="text/plain", headers=headers)


async def _detect_language(request: Request) -> Response:
    gateway: Gateway = request.app.state.gateway
    params = parse_query(request.query_params)
    options = JobOptions(formats=("json",), word_timestamps=False, tag=TAG)
    _, job = await _submit(request, params, options, None if params.is_media else DETECT_BYTES)
    facts = await gateway.wait_while_connected(request, job, lambda facts: facts.language is not None)
    # Bazarr reads both fields and knows "und": a file without speech is not an error.
    result: dict[str, object] = {
        "detected_language": name_of(facts.language) or UNDETERMINED_NAME,
        "language_code": facts.language or UNDETERMINED,
    }
    if facts.language is not None and facts.state == "done":
        # A longer job is cancelled after the language vote; its probability is part of the transcript.
        result["confidence"] = (await gateway.transcript(job)).language_probability
    return json_response(result)


async def _submit(
    request: Request, params: AsrRequest, options: JobOptions, max_bytes: int | None = None
) -> tuple[str, str]:
    """Submit the request's file, raw audio up to `max_bytes`; return its name and the job."""
    gateway: Gateway = request.app.state.gateway
    form = UploadForm(request, FILE_FIELD, gateway.max_bytes)
    name = await form.open()
    if params.is_media:
        return name, await gateway.submit(form.chunks(), name, options)
    chunks = _with_wav_header(form.chunks(), max_bytes)
    return name, await gateway.submit(chunks, f"{name or 'audio'}.wav", options)


async def _with_wav_header(samples: AsyncIterator[bytes], max_bytes: int | None) -> AsyncIterator[bytes]:
    """Yield raw samples as a WAV file of unknown length; samples beyond `max_bytes` are discarded."""
    yield wav_header(None)
    left = max_bytes
    async for chunk in samples:
        if left is None:
            yield chunk
        elif left > 0:
            yield chunk[:left]
            left -= len(chunk)


def parse_query(query: Mapping[str, str]) -> AsrRequest:
    """Parse a query; raises RequestError. `vad_filter` is ignored: silence is never transcribed."""
    output, task = query.get("output") or "txt", query.get("task") or "transcribe"
    if output not in OUTPUTS:
        raise _invalid("output", output, ", ".join(OUTPUTS))
    if task not in TASKS:
        raise _invalid("task", task, ", ".join(TASKS))
    return AsrRequest(
        task=task,
        language=language_option(query.get("language", "")),
        prompt=prompt_tail(query.get("initial_prompt") or ""),
        output=output,
        is_media=_parse_bool(query, "encode", "true"),
        has_words=_parse_bool(query, "word_timestamps", "false"),
    )


def _parse_bool(query: Mapping[str, str], name: str, default: str) -> bool:
    text = query.get(name) or default
    if text.lower() not in _BOOLEANS:
        raise _invalid(name, text, "true, false")
    return _BOOLEANS[text.lower()]


def _invalid(param: str, value: str, allowed: str) -> RequestError:
    return not_allowed(param, value, allowed, status=422)
