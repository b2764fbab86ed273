"""The time of each word, inside phrases whose own edges stay where the model's timestamp tokens put them.

faster-whisper's `add_word_timestamps` moves a phrase's edges to those of its first and last word. The alignment gives the
first word the silence before it, and lets the last one go early: on the bundled recordings that put phrases 184 ms (median)
off at the start, and up to 892 ms at the end, where their tokens were 10 ms off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from subtitle.messages import WordTimestamps
from subtitled.asr.faster_whisper_compat import AlignedWords, rows_of
from subtitled.config.layout_limits import LayoutLimits
from subtitled.cues.text_width import fits_one_cue

if TYPE_CHECKING:
    from faster_whisper import WhisperModel
    from faster_whisper.tokenizer import Tokenizer
    from faster_whisper.transcribe import TranscriptionOptions


MAX_TOKENS_PER_S = 14
"""Fast speech has 8 tokens a second, in English and in Chinese."""


class AlignmentWindow(Struct):
    """One window of a batch whose words are to be timed."""

    row: int
    """Its index in the batch."""
    parts: list[dict[str, Any]]
    """Its phrases, as faster-whisper splits them; each gets `words`."""
    tokenizer: Tokenizer
    frames: int
    """Its length without padding, 100 frames a second."""
    last_end_s: float
    """End of the phrase before it in segment time; 0 if there is none."""


def split(tokens: Sequence[int], timestamp_begin: int, start: int, end: int) -> list[dict[str, Any]]:
    """Return the phrases of a window's tokens, as faster-whisper's word alignment expects them.

    The window is frames [`start`, `end`) of its segment. `tokens` of a phrase include its timestamps; the last phrase has no
    closing one where the audio ends in a sentence, and then lasts until `end`. Tokens name times to 20 ms.
    """
    start_s, end_s = start / 100, end / 100
    parts: list[dict[str, Any]] = []
    last_s = opened_s = start_s
    begun = 0
    for at, token in enumerate(tokens):
        if token < timestamp_begin:
            continue
        time_s = min(start_s + (token - timestamp_begin) * 0.02, end_s)
        if any(one < timestamp_begin for one in tokens[begun:at]):
            # A phrase whose timestamps end where it starts, or beyond the audio, follows the one before.
            first_s = opened_s if opened_s < time_s else last_s
            last_s = max(first_s, time_s)
            phrase = {"seek": start, "start": first_s, "end": last_s, "tokens": list(tokens[begun : at + 1])}
            parts.append(phrase)
            begun = at + 1
        else:
            begun = at
        opened_s = time_s
    if any(one < timestamp_begin for one in tokens[begun:]):
        first_s = opened_s if opened_s < end_s else last_s
        parts.append({"seek": start, "start": first_s, "end": end_s, "tokens": list(tokens[begun:])})
    return parts


def is_rushed(part: dict[str, Any], timestamp_begin: int) -> bool:
    """Return whether a phrase is too long for the time between its timestamps, so that they are wrong."""
    tokens = sum(token < timestamp_begin for token in part["tokens"])
    seconds = float(part["end"] - part["start"])
    return bool(tokens > MAX_TOKENS_PER_S * max(0.5, seconds))


def needs_words(
    parts: Sequence[dict[str, Any]],
    tokenizer: Tokenizer,
    wanted: WordTimestamps,
    limits: Callable[[str | None], LayoutLimits],
) -> bool:
    """Return whether the words of a window are to be timed; with "auto" where one of its phrases is no single cue."""
    if wanted != "auto":
        return wanted and bool(parts)
    language = "en" if tokenizer.task == tokenizer.translate else tokenizer.language_code
    return any(
        not fits_one_cue(
            tokenizer.decode(part["tokens"]),
            round((part["end"] - part["start"]) * 1000),
            limits(language),
            language,
        )
        for part in parts
    )


def time_words(
    model: WhisperModel, windows: Sequence[AlignmentWindow], encoded: Any, options: TranscriptionOptions
) -> None:
    """Add the words of `windows` to their phrases: in order, none over another, none outside its phrase.

    `encoded` is the encoder's output for the whole batch. The alignment takes one prompt for all, so each language is a call.
    """
    groups: dict[tuple[int, ...], list[AlignmentWindow]] = {}
    for window in windows:
        groups.setdefault(tuple(window.tokenizer.sot_sequence), []).append(window)
    for group in groups.values():
        tokenizer = group[0].tokenizer
        texts = [
            [token for part in window.parts for token in part["tokens"] if token < tokenizer.eot]
            for window in group
        ]
        alignments = model.find_alignment(
            tokenizer,
            texts,
            rows_of(encoded, [window.row for window in group]),
            [window.frames for window in group],
        )
        for window, alignment in zip(group, alignments, strict=True):
            _add_words(model, window, alignment, options)


def _add_words(
    model: WhisperModel, window: AlignmentWindow, alignment: Any, options: TranscriptionOptions
) -> None:
    from faster_whisper import WhisperModel

    edges = [(part["start"], part["end"]) for part in window.parts]
    rushed = [is_rushed(part, window.tokenizer.timestamp_begin) for part in window.parts]
    # For a batch, the method uses the end of the last word of one window for the next, unrelated one: pass the
    # alignments one by one.
    WhisperModel.add_word_timestamps(
        AlignedWords(alignment, model.frames_per_second),
        [window.parts],
        window.tokenizer,
        None,
        window.frames,
        options.prepend_punctuations,
        options.append_punctuations,
        window.last_end_s,
    )
    for part, (start, end), has_wrong_edges in zip(window.parts, edges, rushed, strict=True):
        words = [word for word in part.get("words", ()) if word["word"].strip()]
        is_closed = part["tokens"][-1] >= window.tokenizer.timestamp_begin
        part["start"], part["end"], part["words"] = start, end, words
        if words and has_wrong_edges:
            part["start"], part["end"] = words[0]["start"], max(word["end"] for word in words)
            continue
        if words and not is_closed and words[-1]["end"] > start:
            # No token marks its end: an unfinished sentence, or the first round of a loop.
            part["end"] = min(end, words[-1]["end"])
        earliest = start
        for word in words:
            word["start"] = min(max(word["start"], earliest), part["end"])
            word["end"] = earliest = min(max(word["end"], word["start"]), part["end"])
