"""Sentences a second of the daemon's translations against CTranslate2 called directly, and readability of translated cues.

    python benchmarks/translation.py [--sentences 4000] [--repeat 3] [--threads 1] [--model NAME] [--voices 20]

Speed: four subtitle files with so many different sentences of the demo's grammar are translated from English into Chinese, by the
bundled model (or another one), beam 5, int8, on so many threads:

    direct      one process reads the texts, calls ctranslate2.Translator with batches of 32 and joins the tokens
    daemon      `client.submit` of the files to a daemon with one CPU worker that has loaded the model, until all jobs are done:
                planning, storing, the worker's messages and checks, layout and writing included

Both are warm, and run in turn. To hold: the daemon's least time over the least direct time at most 1.1.

Readability: the texts in benchmarks/corpus, timed as in readability.py, are laid out, put together to sentences, and each sentence is
replaced by one of a text in the target language that is as long as its translation would be. The cues are counted by the rules of readability.py, and
"early" are cues that begin before their first sentence. Expected: 0 % for lines, length, overlap, gap, lost and early.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
import time
from itertools import accumulate, pairwise
from pathlib import Path

from parts.served import Served
from readability import CORPUS, RULES, Text, broken, by_subtitled, row, spoken
from subtitle import Client
from subtitle.messages import JobOptions
from subtitled.config.model_files import DEMO, DEMO_TRANSLATION, folder_of
from subtitled.config.translation_files import translation_facts
from subtitled.core.transcription import Word
from subtitled.core.translation import Sentence, SentenceTranslation
from subtitled.cues.layout import Cue
from subtitled.cues.phrases import MediaPhrase
from subtitled.cues.text import time_weight, units
from subtitled.cues.text_formats import srt
from subtitled.translation.layout import TranslatedSentence, translated_cues
from subtitled.translation.sentences import sentences_of_cues

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

from demo_model import bitext

BEAM = 5
BATCH = 32
FILES = 4
SENTENCE_MS = 3000
LENGTHS = {"en": 1.0, "de": 1.15, "ja": 0.42, "zh": 0.3}
"""Usual lengths of the same text in characters."""
TARGETS = {"en": ("zh", "ja", "de"), "zh": ("en",), "ja": ("en",), "de": ("en",)}
_ENDS = re.compile(r"(?<=[.!?])\s+|(?<=[。？！])\s*")  # noqa: RUF001 - full-width punctuation
MODELS = """
[[models]]
name = "text"
source = "{model}"
preload = 1
"""


def texts(count: int) -> list[str]:
    """Return so many different English sentences of the demo's grammar."""
    chance = random.Random(1)
    found: dict[str, None] = {}
    while len(found) < count:
        found[bitext.english_pair(chance)[0]] = None
    return list(found)


class Direct:
    """CTranslate2, called directly."""

    def __init__(self, model: str, threads: int) -> None:
        """Load the model."""
        import ctranslate2
        from tokenizers import Tokenizer

        folder = folder_of(model)
        if folder is None:
            raise SystemExit(f"--model {model} is not a folder")
        facts = translation_facts(folder)
        self._source, self._target = str(facts.tag("en")), str(facts.tag("zh"))
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._model = ctranslate2.Translator(str(folder), compute_type="int8", intra_threads=threads)

    def seconds(self, sentences: list[str]) -> float:
        """Return the seconds that all sentences take."""
        started = time.perf_counter()
        split = (self._tokenizer.encode(text, add_special_tokens=False).tokens for text in sentences)
        results = self._model.translate_batch(
            [[self._source, *tokens, "</s>"] for tokens in split],
            target_prefix=[[self._target]] * len(sentences),
            beam_size=BEAM,
            max_batch_size=BATCH,
        )
        ids = ([self._tokenizer.token_to_id(one) for one in result.hypotheses[0][1:]] for result in results)
        made = [self._tokenizer.decode([one for one in row if one is not None]) for row in ids]
        if not all(made):
            raise SystemExit("CTranslate2 gave an empty result")
        return time.perf_counter() - started


def subtitle_file(sentences: list[str], path: Path) -> None:
    """Write the sentences as cues of a SubRip file."""
    cues = (Cue(at * SENTENCE_MS, (at + 1) * SENTENCE_MS - 200, (text,)) for at, text in enumerate(sentences))
    path.write_text(srt(cues), "utf-8")


def measured(model: str, sentences: list[str], threads: int, repeat: int) -> tuple[list[float], list[float]]:
    """Return the seconds of both ways, in turn: from the submission to the end of all jobs, and of CTranslate2 directly."""
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        served = Served(
            folder / "daemon", model=DEMO, beam=BEAM, threads=threads, more=MODELS.format(model=model)
        )
        with served, Client(served.endpoint, timeout_s=60) as client:
            served.wait_until_ready(1)
            direct = Direct(model, threads)
            for number in range(repeat + 1):
                # In another order, or they would be the same files again.
                rows = random.Random(number).sample(sentences, len(sentences))
                paths = [folder / f"talk{number}-{part}.en.srt" for part in range(FILES)]
                for part, path in enumerate(paths):
                    subtitle_file(rows[part::FILES], path)
                options = JobOptions(translate_to=("zh",), formats=("srt",), language="en")
                started = time.perf_counter()
                jobs = [client.submit(path, options=options) for path in paths]
                states = {job.wait().state for job in jobs}
                ours.append(time.perf_counter() - started)
                done = sum(one.done for job in jobs for one in client.status(job.id).translations)
                if done != len(sentences) or states != {"done"}:
                    raise SystemExit(
                        f"jobs ended as {', '.join(states)}, {done} sentences\n{served.log()[-2000:]}"
                    )
                theirs.append(direct.seconds(sentences))
    return ours[1:], theirs[1:]  # the first is the warm-up


def translated(text: Text, target: str, others: list[str]) -> tuple[tuple[Cue, ...], Text, int]:
    """Return the cues of a text in another language, the words in them, and the number of cues that begin too early."""
    chance = random.Random(f"{text.name} {target}")
    pairs: list[tuple[Sentence, str]] = []
    for sentence in sentences_of_cues(by_subtitled(text), text.language):
        wanted = len(sentence.text) * LENGTHS[target] / LENGTHS[text.language] * chance.uniform(0.8, 1.2)
        nearest = sorted(others, key=lambda other: abs(len(other) - wanted))
        pairs.append((sentence, chance.choice(nearest[:3])))
    cues = translated_cues(
        [
            TranslatedSentence(sentence=sentence, translation=SentenceTranslation(text=made), language=target)
            for sentence, made in pairs
        ]
    )
    phrases = tuple(
        MediaPhrase(made, sentence.start_ms, sentence.end_ms, _words(made, sentence))
        for sentence, made in pairs
    )
    starts = [(letter, phrase.start_ms) for phrase in phrases for letter in "".join(phrase.text.split())]
    at = early = 0
    for cue in cues:
        early += cue.start_ms < starts[min(at, len(starts) - 1)][1]
        at += len("".join("".join(cue.lines).split()))
    return cues, Text(f"{text.name} to {target}", target, phrases), early


def _words(made: str, sentence: Sentence) -> tuple[Word, ...]:
    """Return the words of a translation, which share out the time of their sentence by their length."""
    parts = units(made)
    ends = list(accumulate(map(time_weight, parts), initial=0))
    times = [sentence.start_ms + (sentence.end_ms - sentence.start_ms) * end // ends[-1] for end in ends]
    return tuple(Word(part, *two, 1.0) for part, two in zip(parts, pairwise(times), strict=True))


def readability(voices: int) -> None:
    """Print the table of translated cues."""
    paths = sorted(CORPUS.glob("*.txt"))
    by_language: dict[str, list[str]] = {}
    for path in paths:
        words = " ".join(path.read_text(encoding="utf-8").split())
        by_language.setdefault(path.stem.split(".")[1], []).extend(filter(None, _ENDS.split(words)))
    print(f"\n{'':<22}{'cues':>6}" + "".join(f"{rule:>10}" for rule in RULES) + f"{'lost':>6}{'early':>7}")
    all_counts: list[dict[str, int]] = []
    all_early = 0
    for path in paths:
        for target in TARGETS[path.stem.split(".")[1]]:
            counts, early = [], 0
            for voice in range(voices):
                cues, text, too_early = translated(spoken(path, voice), target, by_language[target])
                counts.append(broken(cues, text))
                early += too_early
            print(row(f"  {path.stem} to {target}", counts) + f"{early:>7}")
            all_counts += counts
            all_early += early
    print(row("all", all_counts) + f"{all_early:>7}")


def main() -> None:
    """Print both parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sentences", type=int, default=4000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--model", default=DEMO_TRANSLATION, help="a folder with a tokenizer.json; default: the bundled one"
    )
    parser.add_argument("--voices", type=int, default=20, help="how many times each text is spoken")
    options = parser.parse_args()
    if options.sentences:
        sentences = texts(options.sentences)
        ours, theirs = measured(options.model, sentences, options.threads, options.repeat)
        for name, seconds in (("direct", theirs), ("daemon", ours)):
            each = ", ".join(f"{one:.2f}" for one in seconds)
            print(f"{name}: {len(sentences) / min(seconds):7.0f} sentences/s ({each} s)")
        print(f"daemon / direct: {min(ours) / min(theirs):.3f} (at most 1.1)")
    readability(options.voices)


if __name__ == "__main__":
    main()
