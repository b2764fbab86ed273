"""Transcripts with cues, built in a child process.

The layout of a long file takes seconds of Python. In a thread of the daemon it would hold the interpreter lock: measured, a
database row took twenty times as long in the loop. So a child, `python -m subtitled.output.layout_process`, does it; requests
and results use its standard input and output, and it ends when its input ends. While it works it sends an empty message each
second: a child that is stopped or hangs is replaced, and a job that takes too long fails alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct

from subtitle.messages import LayoutOptions
from subtitled import log
from subtitled.config.schema import SAMPLE_RATE
from subtitled.core.actions import StoredTranslation
from subtitled.core.plan import SAMPLES_PER_MS, Plan, Span, to_media
from subtitled.core.protocol import SegmentResult
from subtitled.core.records import Job, Options, TextPlan
from subtitled.core.states import JobState, SegmentState
from subtitled.core.transcription import Phrase
from subtitled.core.translation import Sentence
from subtitled.cues import chinese
from subtitled.cues.edits import with_edited_cues
from subtitled.cues.hallucination_filter import HallucinationRules, comparable, remove_hallucinations
from subtitled.cues.phrases import to_media_time
from subtitled.cues.transcript import (
    Interval,
    MissingSpan,
    SegmentTranscript,
    Transcript,
    TranscriptEdit,
    with_cues,
)
from subtitled.errors import LayoutError, StoreError
from subtitled.languages import ENGLISH
from subtitled.runtime import pipes
from subtitled.runtime.processes import become_child, module_command
from subtitled.storage.rows import EditRow, JobRow, ResultRow, unpack_cues
from subtitled.translation.document import with_translation
from subtitled.translation.requests import plan_requests, sentence_keys, sentence_terms
from subtitled.translation.sentences import sentences_of, sentences_of_cues

COMMAND = module_command("subtitled.output.layout_process")
HEARTBEAT_S = 1.0
START_S = 60.0
STALL_S = 10.0
"""A child that sends and accepts nothing for so long is replaced."""
DEADLINE_S = 60.0
AUDIO_PER_S = 20
"""A job may take DEADLINE_S and a second for each 20 s of audio; measured, a second suffices for 1,000 s."""
PHRASES_FILE = Path(__file__).with_name("hallucination_phrases.toml")
NO_EDITS: Mapping[str, EditRow] = {}
_log = log.get()
_result_decoder = msgspec.msgpack.Decoder(SegmentResult)


class TranslationInput(Struct, frozen=True, kw_only=True):
    """What the translation of a job into one language is made of."""

    target: str
    """Language tag."""
    model: str
    """Name of the model that translates."""
    is_requested: bool = False
    """A client requested `model` for this language: it translates what another model has translated."""
    problem: str = ""
    """Why no model can translate it; "" if `model` can."""
    glossary: tuple[tuple[str, str], ...] = ()
    """Terms with their translations."""
    stored: dict[str, StoredTranslation] = {}
    """The sentences with a result, by their keys."""
    is_bilingual: bool = False
    """Cues have both languages."""


class TranslationPlan(Struct, frozen=True, kw_only=True):
    """The sentences of a job in one language: their keys, and those without a result as text segments."""

    target: str
    keys: tuple[str, ...]
    texts: tuple[TextPlan, ...]


class _Request(Struct, frozen=True, kw_only=True):
    """The rows of a job whose transcripts are requested."""

    row: JobRow
    results: Sequence[ResultRow]
    model: str
    with_translation: bool = False
    """Also the translation, if the job requests one."""
    layout: LayoutOptions | None = None
    """In place of the job's own."""
    edits: Mapping[str, EditRow]
    """The saved version to use, by task."""
    translations: Sequence[TranslationInput] = ()
    """Languages in which the transcript is requested, in place of its own."""
    is_plan: bool = False
    """Their plans are requested, and no transcript."""


class _Response(Struct, frozen=True, kw_only=True):
    """The transcripts, or the error as text.

    Their file names are left out: MessagePack cannot contain a name that is not UTF-8, and both sides know it.
    """

    transcripts: tuple[Transcript, ...] = ()
    plans: tuple[TranslationPlan, ...] = ()
    error: str = ""
    """The cause of a failed job; may be a bug."""


_encode = msgspec.msgpack.Encoder().encode
_request_decoder = msgspec.msgpack.Decoder(_Request)
_response_decoder = msgspec.msgpack.Decoder(_Response)


class LayoutProcess:
    """Runs `compose` and `compose_all` in a child, which starts at the first request. Thread-safe."""

    def __init__(
        self, command: Sequence[str] = COMMAND, *, stall_s: float = STALL_S, deadline_s: float = DEADLINE_S
    ) -> None:
        self._command = command
        self._stall_s = stall_s
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    def compose(
        self,
        row: JobRow,
        results: Sequence[ResultRow],
        *,
        model: str,
        layout: LayoutOptions | None = None,
        is_translation: bool = False,
        edits: Mapping[str, EditRow] = NO_EDITS,
    ) -> Transcript:
        """Return the transcript of a job's first task, or of its translation. Blocks; raises LayoutError.

        `edits`: the saved version to use of each task; the model's text for the others.
        """
        request = _Request(
            row=row, results=results, model=model, with_translation=is_translation, layout=layout, edits=edits
        )
        return self._transcripts(request)[-1]

    def compose_all(
        self,
        row: JobRow,
        results: Sequence[ResultRow],
        *,
        model: str,
        edits: Mapping[str, EditRow] = NO_EDITS,
    ) -> tuple[Transcript, ...]:
        """Return all transcripts of a job, with the saved versions in `edits`. Blocks; raises LayoutError."""
        request = _Request(row=row, results=results, model=model, with_translation=True, edits=edits)
        return self._transcripts(request)

    def compose_translations(
        self,
        row: JobRow,
        results: Sequence[ResultRow],
        translations: Sequence[TranslationInput],
        *,
        model: str,
        layout: LayoutOptions | None = None,
        edits: Mapping[str, EditRow] = NO_EDITS,
    ) -> tuple[Transcript, ...]:
        """Return the transcript of a job's first task in other languages. Blocks; raises LayoutError."""
        request = _Request(
            row=row, results=results, model=model, layout=layout, edits=edits, translations=translations
        )
        return self._transcripts(request)

    def plan_translations(
        self,
        row: JobRow,
        results: Sequence[ResultRow],
        translations: Sequence[TranslationInput],
        *,
        model: str,
        edits: Mapping[str, EditRow] = NO_EDITS,
    ) -> tuple[TranslationPlan, ...]:
        """Return which sentences of a job's first task have to be translated. Blocks; raises LayoutError."""
        request = _Request(
            row=row, results=results, model=model, edits=edits, translations=translations, is_plan=True
        )
        return self._request(request).plans

    def close(self) -> None:
        """End the child, also during a request, which then raises LayoutError; may be repeated."""
        self._is_closed = True
        if (child := self._child) is not None:
            child.kill()
        with self._lock:
            self._end()

    def _transcripts(self, request: _Request) -> tuple[Transcript, ...]:
        name = source_name(request.row.job)
        made = self._request(request).transcripts
        return tuple(msgspec.structs.replace(each, source=name) for each in made)

    def _request(self, request: _Request) -> _Response:
        with self._lock:
            response = self._exchange(request)
            if response is None and not self._is_closed:
                response = self._exchange(request)
        if response is None:
            raise LayoutError(
                "the daemon stops"
                if self._is_closed
                else "the layout process ended twice on this job; see the log"
            )
        if response.error:
            raise LayoutError(response.error)
        return response

    def _exchange(self, request: _Request) -> _Response | None:
        """Return the response of the child; None if the child was lost, which is logged. Raises LayoutError."""
        audio_s = (
            sum(piece.samples for result in request.results for piece in result.plan.pieces) / SAMPLE_RATE
        )
        limit_s = self._deadline_s + audio_s / AUDIO_PER_S
        until = time.monotonic() + limit_s
        if self._is_closed:
            return None
        try:
            stdin, stdout = pipes.pipes_of(self._running_child(until))
            pipes.write_until(stdin, _encode(request), until, self._stall_s)
            while (data := pipes.read_until(stdout, until, self._stall_s)) == b"":
                pass  # a heartbeat
            if data:
                return _response_decoder.decode(data)
            cause, is_late = "it ended", False
        except TimeoutError:
            cause = f"no heartbeat for {self._stall_s:g} s"
            is_late = time.monotonic() >= until
        except (OSError, msgspec.DecodeError) as error:
            cause, is_late = str(error), False
        self._end()
        if is_late:
            raise LayoutError(f"the layout of its cues takes longer than {limit_s:.0f} s")
        if not self._is_closed:
            _log.warning(log.LAYOUT_LOST, job=request.row.job.id, cause=cause)
        return None

    def _running_child(self, until: float) -> subprocess.Popen[bytes]:
        if self._child is None:
            self._child = pipes.start_child(self._command, until, lambda: self._is_closed)
            stdin, stdout = pipes.pipes_of(self._child)
            os.set_blocking(stdin.fileno(), False)
            pipes.read_until(stdout, min(until, time.monotonic() + START_S))
        return self._child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            pipes.end_child(child)


def compose_all(
    row: JobRow,
    results: Sequence[ResultRow],
    *,
    model: str,
    layout: LayoutOptions | None = None,
    edits: Mapping[str, EditRow] = NO_EDITS,
) -> tuple[Transcript, ...]:
    """Return the transcripts of a job: in the language spoken, and of the translation if requested.

    The translation of English is the transcript itself.
    """
    spoken = compose(row, results, model=model, layout=layout, edits=edits)
    options = row.job.options
    if not options.is_translated_too or spoken.language in {None, ENGLISH}:
        edit = edits.get("translate")
        if edit is not None and options.task not in edits:  # saved for a file of several languages
            spoken = compose(row, results, model=model, layout=layout, edits={options.task: edit})
        return (spoken,)
    return spoken, compose(row, results, model=model, layout=layout, is_translation=True, edits=edits)


def _model_of(job: Job, default: str, *, is_translation: bool) -> str:
    """Return the name of the model that made a transcript."""
    options = job.options
    if is_translation and options.translation_model is not None:
        return options.translation_model or default
    return options.model or default


def compose(
    row: JobRow,
    results: Sequence[ResultRow],
    *,
    model: str,
    layout: LayoutOptions | None = None,
    is_translation: bool = False,
    edits: Mapping[str, EditRow] = NO_EDITS,
) -> Transcript:
    """Return the transcript of a job, with the cues of its finished segments, or those in `edits` of its task.

    The layout is `layout`, else that of the job, or as the cues were edited; with `is_translation` the text is that of the second decoding. Segments
    without a result are listed as missing, with their causes; so is a damaged result of a failed job. Raises LayoutError for a
    damaged result of another job. `model` is the name of the default model.
    """
    job = row.job
    media = row.media_facts
    tracks = frozenset(media.audio.split_tracks if media.audio else ())
    is_split = media.audio.mix == "split" if media.audio else job.options.channels == "split"
    segments: list[SegmentTranscript] = []
    missing: list[MissingSpan] = []
    unheard: list[MissingSpan] = []
    for found in results:
        result = _read_result(found)
        source, offset = found.plan.source, media.offset_of(found.plan.source.track)
        if isinstance(result, _NoResult):
            if result.is_damaged and job.state is not JobState.FAILED:
                raise LayoutError(
                    f"{result.cause}; restore the backup of state.dir, or submit the file again"
                )
            missing += _missing_segment(found, offset, result.cause)
            continue
        is_second = is_translation and result.translation is not None
        phrases = (result.translation or ()) if is_second else result.phrases
        channel = (
            f"track {source.track}" if source.track in tracks else "",
            source.mix if is_split and source.mix in {"left", "right"} else "",
        )
        segments += _segments(found, result, phrases, offset, channel=" ".join(filter(None, channel)))
        unheard += _unheard(found.plan, result, offset)
    transcript = Transcript(
        source=source_name(job),
        duration_ms=media.decoded_samples // SAMPLES_PER_MS,
        offset_ms=media.offset_samples // SAMPLES_PER_MS,
        audio=media.audio,
        language=_language(job.language or job.options.language, segments),
        language_probability=job.language_probability or None,
        task="translate" if is_translation else job.options.task,
        model=_model_of(job, model, is_translation=is_translation),
        devices=tuple(sorted({segment.device for segment in segments})),
        segments=tuple(segments),
        skipped=tuple(_missing(skip.span, media.offset_samples, skip.cause) for skip in media.skipped),
        missing=tuple(missing),
        unheard=tuple(unheard),
        damaged=media.damaged_s,
    )
    filtered = _filtered(transcript, job.options)
    edit = edits.get("translate" if is_translation else job.options.task)
    if edit is not None and edit.data is not None:
        cues = with_cues(filtered, job.options.layout)
        about = TranscriptEdit(version=edit.version, saved_ms=edit.saved_ms, author=edit.author)
        filtered = with_edited_cues(cues, unpack_cues(edit.data), about)
        if layout is None:
            return filtered
    return with_cues(filtered, layout or job.options.layout)


def speech_without_text(
    row: JobRow, results: Iterable[ResultRow]
) -> tuple[tuple[MissingSpan, ...], tuple[MissingSpan, ...]]:
    """Return a job's `missing` and `unheard` speech, as in its transcript; a damaged result is missing speech.

    Without a layout, and so fast enough for a thread of the daemon.
    """
    media = row.media_facts
    missing: list[MissingSpan] = []
    unheard: list[MissingSpan] = []
    for found in results:
        result = _read_result(found)
        offset = media.offset_of(found.plan.source.track)
        if isinstance(result, _NoResult):
            missing += _missing_segment(found, offset, result.cause)
        else:
            unheard += _unheard(found.plan, result, offset)
    return tuple(missing), tuple(unheard)


def source_name(job: Job) -> str:
    """Return the name of a job's file, without its folder."""
    return Path(os.fsdecode(job.source)).name


@lru_cache
def hallucination_rules(
    language: str | None, *, are_stock_phrases_removed: bool, are_marks_kept: bool
) -> HallucinationRules:
    """Return the rules for a language (Whisper's code); the list of phrases is read once."""
    stock, marks = _phrase_lists()
    return HallucinationRules(
        stock=stock.get(language or "", frozenset()) if are_stock_phrases_removed else frozenset(),
        marks=frozenset() if are_marks_kept else marks,
        are_unsure_phrases_cut=are_stock_phrases_removed,
    )


@lru_cache
def _phrase_lists() -> tuple[dict[str, frozenset[str]], frozenset[str]]:
    """Return the stock phrases of each language, and the words of marks, as `comparable` text."""
    lists = tomllib.loads(PHRASES_FILE.read_text("utf-8"))
    stock = {language: frozenset(map(comparable, phrases)) for language, phrases in lists["outros"].items()}
    return stock, frozenset(map(comparable, lists["marks"]["words"]))


def _filtered(transcript: Transcript, options: Options) -> Transcript:
    """Return `transcript` without hallucinations, its Chinese converted to the variant of the job."""

    def rules(language: str | None) -> HallucinationRules:
        return hallucination_rules(
            ENGLISH if transcript.task == "translate" else language,
            are_stock_phrases_removed=options.remove_hallucinations,
            are_marks_kept=options.marks,
        )

    segments, removed = remove_hallucinations(transcript.segments, rules)
    kept = msgspec.structs.replace(transcript, segments=segments, removed=removed)
    # The configuration requests no conversion without the package; an old job may, after the package was removed.
    return chinese.in_variant(kept, options.chinese if chinese.is_installed() else "off")


def _language(settled: str, segments: Iterable[SegmentTranscript]) -> str | None:
    """Return the file's language: the settled or configured one, else that of most segments."""
    if settled not in {"auto", "multi"}:
        return settled
    spoken = [segment.language for segment in segments if segment.phrases and segment.language]
    return max(sorted(set(spoken)), key=spoken.count) if spoken else None


def _segments(
    found: ResultRow, result: SegmentResult, phrases: Iterable[Phrase], offset: int, *, channel: str
) -> Iterator[SegmentTranscript]:
    """Yield a segment's transcript; where it has several languages, one for each run of phrases in one of them."""
    plan = found.plan
    pieces = (Span(piece.start, piece.start + piece.samples) for piece in plan.pieces)
    whole = SegmentTranscript(
        index=found.index,
        pieces=tuple(_interval(piece, offset) for piece in pieces),
        spans=tuple(_interval(span, offset) for span in plan.spans),
        device=found.worker.rpartition(".")[0],
        attempts=found.losses + 1,
        language=result.language or None,
        language_probability=result.language_probability,
        no_speech_prob=result.no_speech_prob,
        temperature=result.temperature,
        fallbacks=result.fallbacks,
        decisions=result.decisions,
        channel=channel,
    )
    spoken = sorted(phrases, key=lambda phrase: phrase.start_ms)
    runs = [(language, tuple(its)) for language, its in groupby(spoken, key=lambda phrase: phrase.language)]
    for language, its in runs or [("", ())]:
        yield msgspec.structs.replace(
            whole,
            language=language or whole.language,
            phrases=to_media_time(its, plan.pieces, plan.spans, offset),
        )


def _interval(span: Span, offset: int) -> Interval:
    return Interval((span.start + offset) // SAMPLES_PER_MS, (span.end + offset) // SAMPLES_PER_MS)


class _NoResult(Struct, frozen=True):
    """Why a segment has no result."""

    cause: str
    is_damaged: bool = False


def _read_result(found: ResultRow) -> SegmentResult | _NoResult:
    if found.result is None or found.state not in {SegmentState.DONE, SegmentState.SKIPPED}:
        return _NoResult(found.cause or "not transcribed")
    try:
        return _result_decoder.decode(found.result)
    except (msgspec.DecodeError, ValueError) as error:
        return _NoResult(f"the stored result of segment {found.index} is damaged ({error})", is_damaged=True)


def _missing_segment(found: ResultRow, offset: int, cause: str) -> Iterator[MissingSpan]:
    return (_missing(span, offset, cause) for span in found.plan.spans)


def _unheard(plan: Plan, result: SegmentResult, offset: int) -> Iterator[MissingSpan]:
    for start_ms, end_ms in result.unheard:
        start = to_media(plan, start_ms * SAMPLES_PER_MS)
        end = to_media(plan, end_ms * SAMPLES_PER_MS, is_end=True)
        yield _missing(
            Span(start, max(start, end)), offset, "speech without text: the model recognized no words"
        )


def _missing(span: Span, offset: int, cause: str) -> MissingSpan:
    interval = _interval(span, offset)
    return MissingSpan(interval.start_ms, interval.end_ms, cause)


def _respond(request: _Request) -> _Response:
    row, results = request.row, request.results
    try:
        if request.translations:
            spoken = compose(row, results, model=request.model, edits=request.edits)
            if request.is_plan:
                return _Response(plans=tuple(_plan(spoken, each, row.job) for each in request.translations))
            chosen = request.layout or row.job.options.layout
            made = tuple(_translated(spoken, each, chosen, row.job) for each in request.translations)
        elif request.with_translation:
            made = compose_all(row, results, model=request.model, layout=request.layout, edits=request.edits)
        else:
            made = (compose(row, results, model=request.model, layout=request.layout, edits=request.edits),)
    except (LayoutError, StoreError) as error:
        return _Response(error=str(error))
    except Exception as error:  # noqa: BLE001 - a process boundary: the job fails with it
        return _Response(error=f"its cues cannot be laid out: {error!r}; please report this")
    return _Response(transcripts=tuple(msgspec.structs.replace(each, source="") for each in made))


def _plan(spoken: Transcript, order: TranslationInput, job: Job) -> TranslationPlan:
    """Return the plan of a transcript's translation."""
    sentences, keys, found = _known(spoken, order, job)
    terms = sentence_terms(sentences, order.glossary)
    known = (
        index
        for index, row in found.items()
        if row.key == keys[index] and _is_current(row, terms[index], order)
    )
    planned = plan_requests(
        sentences,
        order.target,
        language=spoken.output_language or "und",
        glossary=order.glossary,
        known=frozenset(known),
    )
    texts = (
        TextPlan(
            model=order.model,
            request=each.request,
            keys=tuple(keys[index] for index in each.indices),
            terms=tuple(terms[index] for index in each.indices),
            problem=order.problem,
        )
        for each in planned
    )
    return TranslationPlan(target=order.target, keys=keys, texts=tuple(texts))


def _is_current(row: StoredTranslation, terms: str, order: TranslationInput) -> bool:
    """Return whether a stored sentence stays as it is.

    A translation stays while no model can replace it, and else unless its terms have changed, or a client requested another model.
    A sentence without one is tried again by another model, and with other terms.
    """
    if order.problem and not row.problem:
        return True
    is_same_model = row.model == order.model or not (row.problem or order.is_requested)
    return row.terms == terms and is_same_model


def _translated(spoken: Transcript, order: TranslationInput, layout: LayoutOptions, job: Job) -> Transcript:
    """Return a transcript in another language."""
    sentences, _, known = _known(spoken, order, job)
    return with_translation(
        spoken,
        sentences,
        known,
        order.target,
        layout=layout,
        is_bilingual=order.is_bilingual,
    )


def _known(
    spoken: Transcript, order: TranslationInput, job: Job
) -> tuple[tuple[Sentence, ...], tuple[str, ...], dict[int, StoredTranslation]]:
    """Return the sentences of a transcript, their keys, and the stored translations by index.

    A sentence whose key is not stored has that of an equal sentence.
    """
    sentences = (
        sentences_of_cues(spoken.cues, spoken.output_language)
        if job.is_subtitle_file
        else sentences_of(spoken)
    )
    keys = sentence_keys(sentences, order.target)
    equal = {row.source: row for row in sorted(order.stored.values(), key=lambda row: not row.problem)}
    known = {
        sentence.index: row
        for sentence, key in zip(sentences, keys, strict=True)
        if (row := order.stored.get(key) or equal.get(sentence.text)) is not None
    }
    return sentences, keys, known


def main() -> None:
    """Answer requests until the input ends, as it does with the daemon."""
    become_child(os.getppid(), signal.SIGTERM)  # a stopped process does not see the end of its input
    requests, responses = sys.stdin.buffer, sys.stdout.buffer
    with contextlib.suppress(BrokenPipeError):
        pipes.write(responses, b"")  # ready
        while (data := pipes.read(requests)) is not None:
            with _heartbeat(responses):
                response = _encode(_respond(_request_decoder.decode(data)))
            pipes.write(responses, response)


@contextlib.contextmanager
def _heartbeat(pipe: IO[bytes]) -> Iterator[None]:
    """Send an empty message each second during the body."""
    is_done = threading.Event()

    def beat() -> None:
        with contextlib.suppress(OSError):
            while not is_done.wait(HEARTBEAT_S):
                pipes.write(pipe, b"")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()


if __name__ == "__main__":
    main()
