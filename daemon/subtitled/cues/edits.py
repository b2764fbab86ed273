"""Cues that a person edited, in place of those that the model's text was laid out in."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from difflib import SequenceMatcher
from itertools import accumulate, pairwise
from math import exp, log
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from subtitle.messages import EditedCue
from subtitled.core.transcription import Word
from subtitled.cues.layout import Cue, fast_cues
from subtitled.cues.phrases import MediaPhrase
from subtitled.cues.text import clean, time_weight, units
from subtitled.cues.text_formats import one_line
from subtitled.cues.transcript import SegmentTranscript, Transcript, TranscriptEdit
from subtitled.cues.word_alignment import AlignedCue, align_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_CUES = 20_000
_MANY_CUES = 50
"""So many cues in a row that all differ were changed one by one, for example by replacing a word everywhere; each is compared
with its own."""
_MAX_PAIRS = 250_000
"""Pairs of words that are compared at once; more are compared in parts, divided by the start of their cues: measured, 3 s
instead of 18 s for 80,000 words."""
_NEAR_CUES = 20
"""Number of cues before and after a start that are compared to find its channel."""
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u11ff\u1780-\u17ff\u2e80-\uffef\U00020000-\U0003ffff]")
"""Characters of scripts without spaces, and full-width ones."""
_SPACED_WORD = re.compile(r"\s*\S+")
_MIN_LOGPROB = -20.0
_cues_decoder = msgspec.json.Decoder(tuple[EditedCue, ...])


def parse_cues(data: bytes) -> tuple[EditedCue, ...]:
    """Return the cues of a JSON array in order of their start, their lines cleaned; raises ValueError for invalid ones."""
    cues = []
    for number, cue in enumerate(_cues_decoder.decode(data), 1):
        if cue.end_ms <= cue.start_ms:
            raise ValueError(
                f"cue {number} ends at {cue.end_ms} ms; the end must be after the start ({cue.start_ms} ms)"
            )
        lines = tuple(line for text in cue.lines if (line := clean(text)))
        if not lines:
            raise ValueError(f"cue {number} has no text; give it a line, or leave the cue out")
        cues.append(replace(cue, lines=lines))
    if len(cues) > MAX_CUES:
        raise ValueError(f"{len(cues)} cues are not allowed (up to {MAX_CUES})")
    return tuple(sorted(cues, key=lambda cue: cue.start_ms))


class _Token(Struct, frozen=True):
    """A word of a cue, or in scripts without spaces a character."""

    text: str
    """With the space before it."""
    key: str
    """Equal for words that differ only in case or punctuation."""
    cue: int = -1
    """Index of its cue."""
    start_ms: int | None = None
    end_ms: int | None = None
    probability: float | None = None


def with_edited_cues(transcript: Transcript, edited: Sequence[EditedCue], edit: TranscriptEdit) -> Transcript:
    """Return `transcript` with `edited` in place of its cues, and with phrases that spell them.

    A word that was not changed keeps its time and its probability; if its cue was moved or stretched, its time is too. The other
    words share out the time between them by their width. A cue gets none where the model's cues have none.
    """
    edited = _with_channels(edited, transcript.cues)
    phrases: list[tuple[str, MediaPhrase]] = []
    for channel in dict.fromkeys(cue.channel for cue in edited):
        ours = [cue for cue in edited if cue.channel == channel]
        original = align_words(
            [cue for cue in transcript.cues if cue.channel == channel],
            (
                phrase
                for segment in transcript.segments
                if segment.channel == channel
                for phrase in segment.phrases
            ),
        )
        phrases += ((channel, phrase) for phrase in _phrases(ours, original))
    cues = tuple(
        Cue(cue.start_ms, cue.end_ms, cue.lines, cue.channel, cue.is_accepted)
        for cue in sorted(edited, key=lambda cue: cue.start_ms)
    )
    limits = transcript.limits
    return replace(
        transcript,
        edit=edit,
        segments=_with_phrases(transcript, phrases),
        cues=cues,
        fast_cues=fast_cues(cues, limits, transcript.output_language) if limits else 0,
    )


def share_times(
    weights: Sequence[int], known: Sequence[tuple[int, int] | None], start_ms: int, end_ms: int
) -> list[tuple[int, int]]:
    """Return the times of words within a cue: those in `known`, in order and limited to the cue, and between them the others.

    Words without a known time share out the time between their neighbours by their `weights`.
    """
    times: list[tuple[int, int] | None] = []
    earliest = start_ms
    for one in known:
        if one is not None:
            begin = min(max(one[0], earliest), end_ms)
            earliest = min(max(one[1], begin), end_ms)
            one = (begin, earliest)  # noqa: PLW2901 - limited
        times.append(one)
    shared: list[tuple[int, int]] = []
    at = 0
    while at < len(times):
        if (found := times[at]) is not None:
            shared.append(found)
            at += 1
            continue
        until = next((index for index in range(at, len(times)) if times[index] is not None), len(times))
        following = times[until] if until < len(times) else None
        left = shared[-1][1] if shared else start_ms
        right = following[0] if following is not None else end_ms
        total = max(1, sum(weights[at:until]))
        bounds = [
            left + (right - left) * share // total for share in accumulate(weights[at:until], initial=0)
        ]
        shared += pairwise([*bounds[:-1], right])
        at = until
    return shared


def _with_channels(edited: Sequence[EditedCue], original: Sequence[Cue]) -> Sequence[EditedCue]:
    """Return `edited` with a channel for each cue, if all of `original` have one: files of most formats name none.

    It is that of the cue at the same time with the most words in common, or else the longest time in common.
    """
    if all(cue.channel for cue in edited) or not original or not all(cue.channel for cue in original):
        return edited
    keys = [_keys(cue) for cue in original]
    starts = [cue.start_ms for cue in original]

    def channel_of(cue: EditedCue) -> str:
        words = _keys(cue)

        def likeness(at: int) -> tuple[int, int]:
            other = original[at]
            common_ms = min(cue.end_ms, other.end_ms) - max(cue.start_ms, other.start_ms)
            return len(words & keys[at]) if common_ms > 0 else 0, common_ms

        here = bisect_left(starts, cue.start_ms)
        near = range(max(0, here - _NEAR_CUES), min(len(original), here + _NEAR_CUES))
        return original[max(near, key=likeness)].channel

    return [cue if cue.channel else replace(cue, channel=channel_of(cue)) for cue in edited]


def _keys(cue: Cue | EditedCue) -> frozenset[str]:
    return frozenset(map(_key, _words(one_line(cue.lines))))


def _phrases(edited: Sequence[EditedCue], original: Sequence[AlignedCue]) -> Iterator[MediaPhrase]:
    """Yield the phrase of each edited cue."""
    before = [list(_tokens_of(number, cue)) for number, cue in enumerate(original)]
    after = [[_Token(unit, _key(unit)) for unit in _words(one_line(cue.lines))] for cue in edited]
    timed = [any(token.start_ms is not None for token in tokens) for tokens in before]
    starts = [cue.start_ms for cue in original]
    found = _sources(before, after, starts, [cue.start_ms for cue in edited])
    for cue, tokens, sources in zip(edited, after, found, strict=True):
        first = max(0, bisect_right(starts, cue.start_ms) - 1)
        here = [
            timed[at]
            for at in range(first, bisect_left(starts, cue.end_ms))
            if cue.start_ms < original[at].end_ms
        ]
        yield _phrase(cue, tokens, sources, original, is_timed=any(here or timed))


def _tokens_of(number: int, cue: AlignedCue) -> Iterator[_Token]:
    for word in cue.words:
        parts = _words(word.text)
        shares = [0, *accumulate(map(time_weight, parts))]
        for part, (start, end) in zip(parts, pairwise(shares), strict=True):
            if word.start_ms is None or word.end_ms is None:
                yield _Token(part, _key(part), number)
                continue
            length_ms, total = word.end_ms - word.start_ms, max(1, shares[-1])
            yield _Token(
                part,
                _key(part),
                number,
                word.start_ms + length_ms * start // total,
                word.start_ms + length_ms * end // total,
                word.probability,
            )


def _words(text: str) -> Sequence[str]:
    """Return the words of a text, each with the space before it; where the script has no spaces, its characters."""
    # Most languages need no rules, which take ten times as long.
    return units(text) if _UNSPACED.search(text) else _SPACED_WORD.findall(text)


def _key(text: str) -> str:
    if (word := text.strip()).isalnum():
        return word.casefold()
    bare = "".join(char for char in text if char.isalnum()).casefold()
    return bare or "".join(text.split())


def _sources(
    before: Sequence[Sequence[_Token]],
    after: Sequence[Sequence[_Token]],
    starts_before: Sequence[int],
    starts_after: Sequence[int],
) -> list[list[_Token | None]]:
    """Return for each token of `after` the one of `before` that it is; None for a word that is new.

    The starts are those of the cues, in ms.

    Cues are compared first, then the words of those that differ: a long file has many equal words.
    """
    found: list[list[_Token | None]] = [[None] * len(tokens) for tokens in after]
    keys_before, keys_after = (
        [tuple(token.key for token in tokens) for tokens in side] for side in (before, after)
    )
    matcher = SequenceMatcher(None, keys_before, keys_after, autojunk=False)
    for kind, begin, end, start, stop in matcher.get_opcodes():
        if kind == "equal":
            for old, new in zip(before[begin:end], range(start, stop), strict=True):
                found[new] = list(old)
        elif kind == "replace" and end - begin == stop - start > _MANY_CUES:
            for offset in range(end - begin):
                at, new = begin + offset, start + offset
                _match_words(before[at : at + 1], after[new : new + 1], found[new : new + 1])
        elif kind == "replace":
            parts = _parts(
                before[begin:end], after[start:stop], starts_before[begin:end], starts_after[start:stop]
            )
            for old_cues, new_cues in parts:
                _match_words(
                    before[begin + old_cues.start : begin + old_cues.stop],
                    after[start + new_cues.start : start + new_cues.stop],
                    found[start + new_cues.start : start + new_cues.stop],
                )
    return found


def _parts(
    before: Sequence[Sequence[_Token]],
    after: Sequence[Sequence[_Token]],
    starts_before: Sequence[int],
    starts_after: Sequence[int],
) -> Iterator[tuple[range, range]]:
    """Yield the cues of both sides that are compared with each other: all, or halves of halves, up to `_MAX_PAIRS` words.

    A single cue with more words is left out.
    """
    open_parts = [(range(len(before)), range(len(after)))]
    while open_parts:
        old, new = open_parts.pop()
        if sum(len(before[at]) for at in old) * sum(len(after[at]) for at in new) <= _MAX_PAIRS:
            yield old, new
        elif len(old) > 1:
            half = len(old) // 2
            place = bisect_left(starts_after, starts_before[old[half]], new.start, new.stop)
            open_parts += [(old[:half], range(new.start, place)), (old[half:], range(place, new.stop))]


def _match_words(
    before: Sequence[Sequence[_Token]],
    after: Sequence[Sequence[_Token]],
    found: Sequence[list[_Token | None]],
) -> None:
    """Store in `found`, for each token of `after`, the one of `before` that it is."""
    old = [token for tokens in before for token in tokens]
    places = [(cue, at) for cue, tokens in enumerate(after) for at in range(len(tokens))]
    keys = [token.key for token in old], [after[cue][at].key for cue, at in places]
    for match in SequenceMatcher(None, keys[0], keys[1]).get_matching_blocks():
        for offset in range(match.size):
            cue, at = places[match.b + offset]
            found[cue][at] = old[match.a + offset]


def _phrase(
    cue: EditedCue,
    tokens: Sequence[_Token],
    sources: Sequence[_Token | None],
    original: Sequence[AlignedCue],
    *,
    is_timed: bool,
) -> MediaPhrase:
    cues = [source.cue for source in sources if source is not None]
    main = original[max(sorted(set(cues)), key=cues.count)] if cues else None
    known = [_moved(source, cue, main) for source in sources]
    is_unchanged = [
        source is not None and source.text.split() == token.text.split()
        for token, source in zip(tokens, sources, strict=True)
    ]
    confidence = main.confidence if main and all(is_unchanged) and not cue.is_accepted else 1.0
    words: tuple[Word, ...] = ()
    if is_timed or any(time is not None for time in known):
        times = share_times([time_weight(token.text) for token in tokens], known, cue.start_ms, cue.end_ms)
        words = tuple(
            Word(token.text, *time, _probability(source, confidence) if kept and not cue.is_accepted else 1.0)
            for token, source, kept, time in zip(tokens, sources, is_unchanged, times, strict=True)
        )
    logprob = max(_MIN_LOGPROB, log(confidence)) if confidence > exp(_MIN_LOGPROB) else _MIN_LOGPROB
    return MediaPhrase(one_line(cue.lines), cue.start_ms, cue.end_ms, words, avg_logprob=min(0.0, logprob))


def _probability(source: _Token | None, confidence: float) -> float:
    return confidence if source is None or source.probability is None else source.probability


def _moved(source: _Token | None, cue: EditedCue, main: AlignedCue | None) -> tuple[int, int] | None:
    """Return when a known word is spoken in the edited cue; None if that is not known, or is outside the cue.

    A cue that kept one of its edges was cut or extended, and its words are where they were; else it was moved or stretched.
    """
    if source is None or main is None or source.start_ms is None or source.end_ms is None:
        return None
    start_ms, end_ms = source.start_ms, source.end_ms
    moved = (cue.start_ms - main.start_ms, cue.end_ms - main.end_ms)
    if min(moved) > 0 or max(moved) < 0:
        scale = (cue.end_ms - cue.start_ms) / max(1, main.end_ms - main.start_ms)
        start_ms, end_ms = (
            round(cue.start_ms + (time_ms - main.start_ms) * scale) for time_ms in (start_ms, end_ms)
        )
    return (start_ms, end_ms) if end_ms > cue.start_ms and start_ms < cue.end_ms else None


def _with_phrases(
    transcript: Transcript, phrases: Sequence[tuple[str, MediaPhrase]]
) -> tuple[SegmentTranscript, ...]:
    """Return the segments with these phrases, by channel, in place of their own: each in the segment of its middle."""
    segments = list(transcript.segments)
    placed: dict[int, list[MediaPhrase]] = {}
    for channel in dict.fromkeys(channel for channel, _ in phrases):
        ours = sorted(
            (_start_ms(segment), number)
            for number, segment in enumerate(transcript.segments)
            if segment.channel == channel
        )
        if not ours:
            segments.append(
                SegmentTranscript(
                    index=len(segments),
                    pieces=(),
                    spans=(),
                    device="",
                    language=transcript.language,
                    channel=channel,
                )
            )
            ours = [(0, len(segments) - 1)]
        starts = [start for start, _ in ours]
        for its_channel, phrase in phrases:
            if its_channel != channel:
                continue
            middle = (phrase.start_ms + phrase.end_ms) // 2
            number = ours[max(0, bisect_right(starts, middle) - 1)][1]
            placed.setdefault(number, []).append(phrase)
    return tuple(
        replace(segment, phrases=tuple(placed.get(number, ()))) for number, segment in enumerate(segments)
    )


def _start_ms(segment: SegmentTranscript) -> int:
    if segment.phrases:
        return segment.phrases[0].start_ms
    return segment.pieces[0].start_ms if segment.pieces else 0
