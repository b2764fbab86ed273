"""The audio interface of OpenAI: transcriptions, translations, models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from subtitle.messages import JobOptions
from subtitled.http import sse
from subtitled.http.errors import RequestError, as_request_error, body_of
from subtitled.http.forms import Form
from subtitled.http.gateway import Gateway
from subtitled.http.response_models import phrases_of, text_of, usage, verbose
from subtitled.languages import code_of

Task = Literal["transcribe", "translate"]
FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
STREAMED_FORMATS = ("json", "text")
MODEL_NAMES = ("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe")
"""Names that programs have built in; each stands for the daemon's one model."""
TAG = "openai"


class OpenAIRequest(Struct, frozen=True, kw_only=True):
    """What the fields of a form ask."""

    language: str = "auto"
    prompt: str = ""
    form: str = "json"
    has_segments: bool = True
    has_words: bool = False
    is_streamed: bool = False

    def options(self, task: Task) -> JobOptions:
        """Return it in the daemon's terms."""
        return JobOptions(
            language=self.language,
            task=task,
            formats=(self.form if self.form in {"srt", "vtt"} else "json",),
            word_timestamps=True if self.has_words else "auto",
            initial_prompt=self.prompt,
            tag=TAG,
        )


def routes() -> list[Route]:
    """Return the interface's routes."""
    return [
        Route("/v1/audio/transcriptions", _transcriptions, methods=["POST"]),
        Route("/v1/audio/translations", _translations, methods=["POST"]),
        Route("/v1/models", _models, methods=["GET"]),
        Route("/v1/models/{model:path}", _model, methods=["GET"]),
    ]


async def _transcriptions(request: Request) -> Response:
    return await _spoken(request, "transcribe")


async def _translations(request: Request) -> Response:
    return await _spoken(request, "translate")


async def _spoken(request: Request, task: Task) -> Response:
    gateway: Gateway = request.app.state.gateway
    form = Form(request, "file", gateway.max_bytes)
    name = await form.open()
    model = (await gateway.client.ping()).model
    first = asked_of(form.fields, model)

    def final_options() -> JobOptions:
        return asked_of(form.fields, model).options(task)

    job = await gateway.submit(form.pieces(), name, first.options(task), final_options)
    asked = asked_of(form.fields, model)
    if asked.is_streamed:
        return sse.answer(_streamed(gateway, job, request.url.path))
    await gateway.finish(request, job)
    return await _answer(gateway, job, asked)


async def _answer(gateway: Gateway, job: str, asked: OpenAIRequest) -> Response:
    if asked.form in {"srt", "vtt"}:
        return PlainTextResponse(await gateway.fetch(job, asked.form))
    transcript = await gateway.transcript(job)
    match asked.form:
        case "text":
            return PlainTextResponse(f"{text_of(transcript)}\n")
        case "verbose_json":
            return _json(verbose(transcript, has_segments=asked.has_segments, has_words=asked.has_words))
        case _:
            return _json({"text": text_of(transcript), "usage": usage(transcript)})


async def _streamed(gateway: Gateway, job: str, path: str) -> AsyncIterator[bytes]:
    """Yield the text phrase by phrase; all at the end, since a text may still change with the vote on the language."""
    is_over = False
    try:
        await gateway.wait(job)
        is_over = True
        transcript = await gateway.transcript(job)
        text, at = text_of(transcript), 0
        for phrase in phrases_of(transcript):
            end = text.index(phrase.text.strip(), at) + len(phrase.text.strip())
            yield sse.event({"type": "transcript.text.delta", "delta": text[at:end]})
            at = end
        yield sse.event({"type": "transcript.text.done", "text": text, "usage": usage(transcript)})
        yield sse.event("[DONE]")
    except asyncio.CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 - the status is sent already: what is left is to say it in an event
        is_over = True
        yield sse.event(body_of(path, as_request_error(error)), name="error")
    finally:
        if not is_over:
            gateway.let_go(job)


async def _models(request: Request) -> Response:
    model = (await request.app.state.gateway.client.ping()).model
    names = dict.fromkeys((model, *MODEL_NAMES))
    return _json({"object": "list", "data": [_about(name) for name in names]})


async def _model(request: Request) -> Response:
    name, model = request.path_params["model"], (await request.app.state.gateway.client.ping()).model
    _check_model(name, model)
    return _json(_about(name))


def asked_of(fields: Mapping[str, Sequence[str]], model: str) -> OpenAIRequest:
    """Return what the fields that have come ask of a daemon with this model; raises RequestError.

    What is not known is passed over, as OpenAI's other parameters (`include`, `chunking_strategy`) must not be errors.
    """
    last = {name: values[-1] for name, values in fields.items()}
    form = last.get("response_format", "json")
    if form not in FORMATS:
        raise _bad("response_format", form, ", ".join(FORMATS))
    is_streamed = _truth(last.get("stream", "false"))
    if is_streamed and form not in STREAMED_FORMATS:
        raise _bad("response_format", form, f"with stream=true {' or '.join(STREAMED_FORMATS)}")
    granularities = {
        value
        for name in ("timestamp_granularities[]", "timestamp_granularities")
        for value in fields.get(name, ())
    }
    if unknown := granularities - {"segment", "word"}:
        raise _bad("timestamp_granularities", min(unknown), "segment, word")
    # There is nothing to set by it: the daemon begins at 0 and goes up where a text looks wrong (decoding.temperatures).
    temperature = last.get("temperature") or "0"
    try:
        is_temperature = 0 <= float(temperature) <= 1
    except ValueError:
        is_temperature = False
    if not is_temperature:
        raise _bad("temperature", temperature, "0 to 1")
    _check_model(last.get("model", ""), model)
    language, prompt = last.get("language") or "auto", last.get("prompt", "")
    if len(prompt) > 1000:
        raise _bad("prompt", f"{prompt[:20]}… ({len(prompt)} characters)", "at most 1000 characters")
    return OpenAIRequest(
        language=code_of(language) or language[:32],
        prompt=prompt,
        form=form,
        has_segments="segment" in granularities or not granularities,
        has_words="word" in granularities,
        is_streamed=is_streamed,
    )


def _check_model(named: str, model: str) -> None:
    if named not in {"", model, *MODEL_NAMES}:
        raise RequestError(
            404,
            "model_not_found",
            f"model {named[:100]!r}: this server has {model!r}, which is meant by {', '.join(MODEL_NAMES)} too",
            param="model",
        )


def _truth(text: str) -> bool:
    if text.lower() not in {"true", "false", "1", "0", ""}:
        raise _bad("stream", text, "true, false")
    return text.lower() in {"true", "1"}


def _bad(param: str, value: str, allowed: str) -> RequestError:
    return RequestError(
        400, "invalid_value", f"{param}: got {value[:100]!r}, allowed: {allowed}", param=param
    )


def _about(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "subtitled"}


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
