"""OpenAI's audio interface: transcriptions, translations and models."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from fnmatch import fnmatchcase
from typing import Any, Literal

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from subtitle.messages import JobOptions
from subtitled.config.checks import SIZES
from subtitled.http import sse
from subtitled.http.errors import RequestError, error_body, not_allowed, to_request_error
from subtitled.http.forms import UploadForm, language_option, prompt_tail
from subtitled.http.gateway import Gateway
from subtitled.http.live_text import LiveText, follow_text
from subtitled.http.response_formats import (
    json_response,
    openai_usage,
    openai_verbose_json,
    phrases_of,
    separator_of,
    text_of,
)

Task = Literal["transcribe", "translate"]
FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
STREAMED_FORMATS = ("json", "text")
MODEL_ALIASES = ("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe")
"""Model names hard-coded in clients; each means the daemon's default model, unless http.models has it."""
TAG = "openai"
_GRANULARITIES = re.compile(r"timestamp_granularities(\[\d*\])?")


class OpenAIRequest(Struct, frozen=True, kw_only=True):
    """The form fields of a request."""

    model: str = ""
    """Of JobOptions."""
    language: str = "auto"
    prompt: str = ""
    form: str = "json"
    has_segments: bool = True
    has_words: bool = False
    is_streamed: bool = False

    def options(self, task: Task) -> JobOptions:
        """Convert to job options."""
        return JobOptions(
            model=self.model,
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
    return await _run(request, "transcribe")


async def _translations(request: Request) -> Response:
    return await _run(request, "translate")


async def _run(request: Request, task: Task) -> Response:
    gateway: Gateway = request.app.state.gateway
    form = UploadForm(request, "file", gateway.max_bytes)
    name = await form.open()
    models = await gateway.models()
    aliases = gateway.model_aliases
    first = parse_fields(form.fields, models, aliases)

    def final_options() -> JobOptions:
        return parse_fields(form.fields, models, aliases).options(task)

    job = await gateway.submit(form.chunks(), name, first.options(task), final_options)
    params = parse_fields(form.fields, models, aliases)
    if params.is_streamed:
        return sse.event_stream(_stream(gateway, job, request.url.path))
    await gateway.wait_while_connected(request, job)
    return await _result(gateway, job, params)


async def _result(gateway: Gateway, job: str, params: OpenAIRequest) -> Response:
    if params.form in {"srt", "vtt"}:
        return PlainTextResponse(await gateway.fetch(job, params.form))
    transcript = await gateway.transcript(job)
    match params.form:
        case "text":
            return PlainTextResponse(f"{text_of(transcript)}\n")
        case "verbose_json":
            return json_response(
                openai_verbose_json(transcript, has_segments=params.has_segments, has_words=params.has_words)
            )
        case _:
            return json_response({"text": text_of(transcript), "usage": openai_usage(transcript)})


class TextDeltas:
    """The text of a file in the order in which it is spoken, as its segments are transcribed in any order."""

    def __init__(self) -> None:
        self._texts: dict[int, tuple[str, str]] = {}
        """Of segments with a final text that was not returned yet: separator and text."""
        self._next = 0
        self.text = ""
        """The text that was returned so far."""

    def add(self, live: LiveText) -> str:
        """Return the text that follows that of earlier calls; "" while an earlier segment is missing, or the language is open."""
        if not live.is_settled:
            return ""
        separator = separator_of(live.transcript)
        for index in live.segments:
            self._texts.pop(index, None)
        for index in {segment.index for segment in live.transcript.segments}:
            phrases = [phrase for phrase in phrases_of(live.transcript, index) if phrase.text.strip()]
            self._texts[index] = separator, separator.join(phrase.text.strip() for phrase in phrases)
        before = len(self.text)
        while (found := self._texts.get(self._next)) is not None:
            separator, text = found
            self.text += separator + text if self.text and text else text
            self._next += 1
        return self.text[before:]

    def rest(self, text: str) -> str:
        """Return what the whole text adds to the returned part; "" if the layout of the whole file has changed that part."""
        return text[len(self.text) :] if text.startswith(self.text) else ""


async def _stream(gateway: Gateway, job: str, path: str) -> AsyncIterator[bytes]:
    """Yield the text as its segments are transcribed, and at the end the whole text, which is the authoritative one."""
    is_finished = False
    deltas = TextDeltas()
    try:
        async with aclosing(follow_text(gateway, job)) as texts:
            async for live in texts:
                if delta := deltas.add(live):
                    yield sse.event({"type": "transcript.text.delta", "delta": delta})
        await gateway.wait(job)
        is_finished = True
        transcript = await gateway.transcript(job)
        text = text_of(transcript)
        if rest := deltas.rest(text):
            yield sse.event({"type": "transcript.text.delta", "delta": rest})
        yield sse.event({"type": "transcript.text.done", "text": text, "usage": openai_usage(transcript)})
        yield sse.event("[DONE]")
    except asyncio.CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 - the status line is sent: an event is all that can report it
        is_finished = True
        yield sse.event(error_body(path, to_request_error(error)), name="error")
    finally:
        if not is_finished:
            gateway.cancel_in_background(job)


async def _models(request: Request) -> Response:
    gateway: Gateway = request.app.state.gateway
    models = await gateway.model_sources()
    return json_response({"object": "list", "data": model_objects(models, gateway.model_aliases)})


async def _model(request: Request) -> Response:
    gateway: Gateway = request.app.state.gateway
    models = await gateway.model_sources()
    return json_response(model_object(request.path_params["model"], models, gateway.model_aliases))


def parse_fields(
    fields: Mapping[str, Sequence[str]], models: Sequence[str], aliases: Iterable[str] = ()
) -> OpenAIRequest:
    """Parse the form fields received so far, for a daemon with these models, the default first; raises RequestError.

    Unknown fields are ignored: OpenAI's other parameters (`include`, `chunking_strategy`) must not be errors.
    """
    last = {name: values[-1] for name, values in fields.items()}
    form = last.get("response_format", "json")
    if form not in FORMATS:
        raise _invalid("response_format", form, ", ".join(FORMATS))
    is_streamed = _parse_bool(last.get("stream", "false"))
    if is_streamed and form not in STREAMED_FORMATS:
        raise _invalid("response_format", form, f"with stream=true: {', '.join(STREAMED_FORMATS)}")
    # Clients write a list as repeated fields, as fields with numbers, as JSON or with commas.
    granularities = {
        value
        for name, values in fields.items()
        if _GRANULARITIES.fullmatch(name)
        for text in values
        for value in re.split(r"[\s,\[\]\"']+", text)
        if value
    }
    if unknown := granularities - {"segment", "word"}:
        raise _invalid("timestamp_granularities", min(unknown), "segment, word")
    _check_temperature(last.get("temperature") or "0")
    return OpenAIRequest(
        model=resolve_model(last.get("model", ""), models, aliases),
        language=language_option(last.get("language", "")),
        prompt=prompt_tail(last.get("prompt", "")),
        form=form,
        has_segments="segment" in granularities or not granularities,
        has_words="word" in granularities,
        is_streamed=is_streamed,
    )


def _check_temperature(text: str) -> None:
    """Validate a value that has no effect: the daemon chooses temperatures itself (decoding.temperatures)."""
    try:
        is_valid = 0 <= float(text) <= 1
    except ValueError:
        is_valid = False
    if not is_valid:
        raise _invalid("temperature", text, "0 to 1")


def resolve_model(name: str, models: Sequence[str], aliases: Iterable[str] = ()) -> str:
    """Return the model of the job options for a client's model name, "" for the default; raises RequestError.

    `models` are the daemon's, the default first; `aliases` are "NAME" for the default and "NAME=MODEL" for another one.
    """
    if name in models[1:]:
        return name
    for alias in aliases:
        pattern, _, model = alias.partition("=")
        if fnmatchcase(name, pattern):
            return "" if model == models[0] else model
    if name in {"", *models, *MODEL_ALIASES}:
        return ""
    raise RequestError(
        404,
        "model_not_found",
        f"model {name[:100]!r} does not exist; use {' or '.join(map(repr, models))} or an alias "
        f"({', '.join(MODEL_ALIASES)}), or add the name to http.models",
        param="model",
    )


def _parse_bool(text: str) -> bool:
    if text.lower() not in {"true", "false", "1", "0", ""}:
        raise _invalid("stream", text, "true, false")
    return text.lower() in {"true", "1"}


def _invalid(param: str, value: str, allowed: str) -> RequestError:
    return not_allowed(param, value, allowed, code="invalid_value")


def model_objects(models: Mapping[str, str], aliases: Iterable[str]) -> list[dict[str, Any]]:
    """Return all models and aliases; `models` are the sources of all models by name, the default first.

    Aliases of models that a reload has removed are left out.
    """
    aliases = _usable_aliases(models, aliases)
    exact = (name for alias in aliases if not set(name := alias.partition("=")[0]) & set("*?["))
    return [model_object(name, models, aliases) for name in dict.fromkeys((*models, *MODEL_ALIASES, *exact))]


def model_object(name: str, models: Mapping[str, str], aliases: Iterable[str]) -> dict[str, Any]:
    """Return one of them; raises RequestError if there is none of this name."""
    default = next(iter(models))
    source = models[resolve_model(name, list(models), _usable_aliases(models, aliases)) or default]
    return {"id": name, "object": "model", "created": 0, "owned_by": owner_of(source)}


def _usable_aliases(models: Collection[str], aliases: Iterable[str]) -> list[str]:
    return [alias for alias in aliases if alias.partition("=")[2] in {"", *models}]


def owner_of(source: str) -> str:
    """Return the owner of a model's repository; "openai" for Whisper's sizes, "subtitled" for a folder or the demo model."""
    owner, _, repository = source.partition("/")
    if repository and owner.strip(".~") and "/" not in repository:
        return owner
    if source.startswith("distil-"):
        return "distil-whisper"
    return "openai" if source in SIZES else "subtitled"
