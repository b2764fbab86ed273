"""Share of cues that break a rule of readable subtitles, for several layouts of the same words.

    python benchmarks/readability.py [--voices 20] [--fetch] [--show NAME]

gives the words of the texts in benchmarks/corpus times for some voices (the length of a word by its letters, pauses by punctuation,
random with a fixed seed), builds phrases as Whisper does, lays them out with the default limits of `subtitled`, and counts. It
compares the raw phrases (a raw Whisper segment is a cue) and, with --fetch, whisper-ctranslate2 with `--word_timestamps True
--max_line_width 42 --max_line_count 2` (16 for Chinese and Japanese); pip installs its package into a temporary folder,
without dependencies. stable-ts is not compared: its result cannot be imported without torch.

Expected: 0 % for lines, length, overlap, gap and lost words, at most 1 % for duration (short, long), and no cue that is too fast
although its words, less the gap after them, leave time to read it ("avoidable"). "chain" are gaps longer than the least and
shorter than half a second. --show prints the cues of one text.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import random
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pysubs2
from msgspec import Struct

from subtitle.messages import LayoutOptions
from subtitled.config.layout_limits import LayoutLimits, limits_for
from subtitled.core.transcription import Word
from subtitled.cues.layout import Cue, layout
from subtitled.cues.phrases import MediaPhrase
from subtitled.cues.text import time_weight, units
from subtitled.cues.text_width import columns, columns_per_char

CORPUS = Path(__file__).parent / "corpus"
WHISPER_CTRANSLATE2 = "whisper-ctranslate2==0.5.8"
RULES = ("lines", "length", "overlap", "gap", "short", "long", "chain", "fast", "avoidable")


class Text(Struct, frozen=True):
    """One text of the corpus, with times."""

    name: str
    language: str
    phrases: tuple[MediaPhrase, ...]

    @property
    def limits(self) -> LayoutLimits:
        """The limits of its language."""
        return limits_for(self.language)


class Manner(Struct, frozen=True):
    """The speed and the pauses of a speaker."""

    columns_per_s: float
    comma_ms: tuple[int, int] = (80, 320)
    sentence_ms: tuple[int, int] = (200, 900)
    runs_on: float = 0.35
    """Share of sentences that Whisper appends to the same phrase."""


MANNERS = {
    "dialogue": Manner(columns_per_s=17, sentence_ms=(80, 1400), runs_on=0.3),
    "lecture": Manner(columns_per_s=15, sentence_ms=(300, 1200), runs_on=0.4),
    "fast": Manner(columns_per_s=23, comma_ms=(0, 120), sentence_ms=(50, 400), runs_on=0.6),
    "talk": Manner(columns_per_s=10, runs_on=0.4),
    "words": Manner(columns_per_s=17, runs_on=0.3),
}


def spoken(path: Path, voice: int = 0) -> Text:
    """Return the text at `path` with a time for each word (in Chinese and Japanese each character); deterministic."""
    name, language = path.stem.split(".")
    manner = MANNERS[name]
    chance = random.Random(f"{path.name} {voice}")
    at_ms = 1000.0
    phrases: list[list[Word]] = [[]]
    for text in units(" ".join(path.read_text(encoding="utf-8").split())):
        length_ms = time_weight(text) * 1000 / manner.columns_per_s * chance.uniform(0.75, 1.25)
        phrases[-1].append(Word(text, round(at_ms), round(at_ms + length_ms), 1.0))
        at_ms += length_ms
        if text[-1] in ",;:，、":  # noqa: RUF001 - full-width punctuation is meant
            at_ms += chance.randint(*manner.comma_ms)
        elif text[-1] in ".!?。？！" and not text.endswith(("Mrs.", "3.")):  # noqa: RUF001 - as above
            at_ms += chance.randint(*manner.sentence_ms)
            if chance.random() >= manner.runs_on:
                phrases.append([])
    return Text(path.stem, language, tuple(_phrase(words) for words in phrases if words))


def _phrase(words: list[Word]) -> MediaPhrase:
    text = "".join(word.text for word in words).strip()
    return MediaPhrase(text, words[0].start_ms, words[-1].end_ms, tuple(words))


def by_subtitled(text: Text) -> tuple[Cue, ...]:
    """Lay out with the defaults."""
    return layout(text.phrases, text.limits, language=text.language)


def by_subtitled_without_words(text: Text) -> tuple[Cue, ...]:
    """Lay out phrases without timed words."""
    bare = [MediaPhrase(phrase.text, phrase.start_ms, phrase.end_ms) for phrase in text.phrases]
    return layout(bare, text.limits, language=text.language)


def as_phrases(text: Text) -> tuple[Cue, ...]:
    """Return each phrase as a cue."""
    return layout(
        text.phrases, limits_for(text.language, LayoutOptions(profile="raw")), language=text.language
    )


def by_whisper_ctranslate2(writers: Any, text: Text) -> tuple[Cue, ...]:
    """Lay out with the SRT writer of whisper-ctranslate2."""
    segments = [
        {
            "start": phrase.start_ms / 1000,
            "end": phrase.end_ms / 1000,
            "text": phrase.text,
            "words": [
                {"word": word.text, "start": word.start_ms / 1000, "end": word.end_ms / 1000}
                for word in phrase.words
            ],
        }
        for phrase in text.phrases
    ]
    options = {"max_line_width": text.limits.max_chars, "max_line_count": text.limits.max_lines}
    file = io.StringIO()
    writers.WriteSRT("").write_result({"segments": segments}, file, options)
    events = pysubs2.SSAFile.from_string(file.getvalue(), "srt").events
    return tuple(Cue(event.start, event.end, tuple(event.plaintext.split("\n"))) for event in events)


def fetched_writers(folder: str) -> Any:
    """Return whisper-ctranslate2's module that writes subtitles; it needs only the standard library."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    subprocess.run([*pip, "--no-deps", "--target", folder, WHISPER_CTRANSLATE2], check=True)
    path = Path(folder, "whisper_ctranslate2", "writers.py")
    spec = importlib.util.spec_from_file_location("writers", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"{path} is not in {WHISPER_CTRANSLATE2}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def broken(cues: tuple[Cue, ...], text: Text) -> dict[str, int]:
    """Return the number of cues that break each rule, of all cues, and of lost or moved characters."""
    limits, per_char = text.limits, columns_per_char(text.language)
    found = dict.fromkeys(("cues", *RULES, "lost"), 0)
    found["cues"] = len(cues)
    words = [word for phrase in text.phrases for word in phrase.words]
    letters = [(letter, word) for word in words for letter in "".join(word.text.split())]
    at = 0
    for cue in cues:
        said = "".join("".join(cue.lines).split())
        its = letters[at : at + len(said)]
        at += len(said)
        found["lost"] += said != "".join(letter for letter, _ in its)
        length_ms, wide = cue.end_ms - cue.start_ms, sum(map(columns, cue.lines))
        per_s = limits.max_chars_per_s * per_char
        found["lines"] += len(cue.lines) > limits.max_lines
        found["length"] += any(columns(line) > limits.max_chars * per_char for line in cue.lines)
        found["short"] += length_ms < limits.min_ms
        found["long"] += length_ms > limits.max_ms
        is_fast = wide * 1000 > per_s * length_ms
        found["fast"] += is_fast
        own_ms = its[-1][1].end_ms - its[0][1].start_ms - limits.gap_ms
        found["avoidable"] += is_fast and wide * 1000 <= per_s * own_ms
    found["lost"] += at != len(letters)
    for one, two in pairwise(cues):
        gap_ms = two.start_ms - one.end_ms
        found["overlap"] += gap_ms < 0
        found["gap"] += 0 <= gap_ms < limits.gap_ms
        found["chain"] += limits.gap_ms < gap_ms < limits.chain_ms
    return found


def row(name: str, counts: list[dict[str, int]]) -> str:
    """Return a row of the table."""
    total = {rule: sum(count[rule] for count in counts) for rule in counts[0]}
    shares = "".join(f"{100 * total[rule] / total['cues']:>8.1f} %" for rule in RULES)
    return f"{name:<22}{total['cues']:>6}{shares}{total['lost']:>6}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--voices", type=int, default=20, help="how many times each text is spoken")
    parser.add_argument("--fetch", action="store_true", help="compare with whisper-ctranslate2, from PyPI")
    parser.add_argument("--show", metavar="NAME", help="a text of the corpus, such as dialogue.en")
    options = parser.parse_args()
    paths = sorted(CORPUS.glob("*.txt"))
    texts = [spoken(path, voice) for path in paths for voice in range(options.voices)]
    if options.show:
        for cue in next(by_subtitled(text) for text in texts if text.name == options.show):
            print(
                f"{cue.start_ms / 1000:8.2f} {cue.end_ms / 1000:8.2f}  "
                + "\n                   ".join(cue.lines)
            )
        return
    print(f"{'':<22}{'cues':>6}" + "".join(f"{rule:>10}" for rule in RULES) + f"{'lost':>6}")
    counts = {
        text.name: [broken(by_subtitled(one), one) for one in texts if one.name == text.name]
        for text in texts
    }
    for name, its in counts.items():
        print(row(f"  {name}", its))
    print(row("subtitled", [count for its in counts.values() for count in its]))
    print(row("  without word times", [broken(by_subtitled_without_words(text), text) for text in texts]))
    print(row("raw phrases", [broken(as_phrases(text), text) for text in texts]))
    if options.fetch:
        with tempfile.TemporaryDirectory() as folder:
            writers = fetched_writers(folder)
            others = [broken(by_whisper_ctranslate2(writers, text), text) for text in texts]
            print(row("whisper-ctranslate2", others))


if __name__ == "__main__":
    main()
