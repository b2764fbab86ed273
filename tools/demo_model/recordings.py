"""The recordings of the daemon and its tests, with their text and times.

Beside each recording lies a text file with a line for each sentence: start and end in seconds, the sentence, and
its translation (English into Chinese, Chinese into English), separated by tabs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from demo_model import clips, programme, sounds
from demo_model.clips import Clip, Timed
from demo_model.espeak import RATE, Espeak
from demo_model.grammar import Language, Text
from demo_model.programme import Line
from demo_model.sounds import Samples

_ROOM_DB = -80.0
"""A room is never quite silent."""


def spoken(lines: Sequence[Line], language: Language, synthesizer: Espeak) -> Clip:
    """Return a programme as a clip.  Raises ValueError for a line of which the synthesizer says nothing."""
    out = Clip(np.zeros(0, np.float32), language)
    parts: list[Samples] = []
    at = 0
    for line in lines:
        speech = synthesizer.synthesize(line.text, programme.VOICES[line.voice])
        if speech is None:
            raise ValueError(f"espeak-ng says nothing for {line.text!r}; see programme.py")
        pause = np.zeros(int(line.pause_s * RATE), np.float32)
        at += len(pause)
        text = Text(line.text, language, line.translation or None)
        out.sentences.append(clips.placed(text, speech, at / RATE))
        samples = speech.samples[: int(speech.end_s * RATE)]
        parts += [pause, sounds.levelled(samples)]
        at += len(samples)
    parts.append(np.zeros(RATE - at % RATE, np.float32))  # to the next full second
    samples = np.concatenate(parts)
    room = np.random.default_rng(1).standard_normal(len(samples)).astype(np.float32)
    out.samples = samples + room * np.float32(10 ** (_ROOM_DB / 20))
    return out


def _text(clip: Clip) -> str:
    """Return the text file that lies beside a recording."""
    return "".join(
        "\t".join(
            [f"{sentence.start_s:.2f}", f"{sentence.end_s:.2f}", sentence.text]
            + ([] if sentence.translation is None else [sentence.translation])
        )
        + "\n"
        for sentence in clip.sentences
    )


def write(out: Path) -> list[Path]:
    """Write ``demo.flac``, ``demo-zh.flac`` and their text files; returns their paths."""
    import soundfile

    synthesizer = Espeak()
    written = []
    for name, lines, language in (
        ("demo", programme.ENGLISH, "en"),
        ("demo-zh", programme.CHINESE, "zh"),
    ):
        clip = spoken(lines, language, synthesizer)  # type: ignore[arg-type]
        sound, text = out / f"{name}.flac", out / f"{name}.txt"
        soundfile.write(sound, clip.samples, RATE, subtype="PCM_16")
        text.write_text(_text(clip), encoding="utf-8")
        written += [sound, text]
    return written


def _skipping(samples: Samples, words: Sequence[Timed]) -> Samples:
    """Return a sentence up to a word that a scratched disc then repeats thirty times."""
    start_s, end_s = next((start, end) for word, start, end in words if word == _GROOVE)
    groove = samples[int(start_s * RATE) : int(end_s * RATE)]
    return np.concatenate([samples[: int(end_s * RATE)], *[groove] * 30])


def _slow(samples: Samples, _: Sequence[Timed]) -> Samples:
    """Return a sentence as a turntable plays it that is too slow for it, with its rumble: longer, deeper."""
    from scipy import signal

    slow = signal.resample(samples, int(len(samples) / _SPEED))
    rumble = sounds.quiet("pink", np.random.default_rng(_SEED), len(slow) / RATE + 0.01)[: len(slow)]
    return np.asarray(slow + _RUMBLE * rumble, np.float32)


_GROOVE = "nine"
_SPEED, _RUMBLE, _SEED = 0.68, 0.05, 2
DAMAGES: dict[str, Callable[[Samples, Sequence[Timed]], Samples]] = {"skipping": _skipping, "slow": _slow}


def degrade(out: Path) -> list[Path]:
    """Write the tests' recordings, of which a model cannot be sure; returns their paths."""
    import soundfile

    out.mkdir(parents=True, exist_ok=True)
    [line] = [line for line in programme.ENGLISH if f"{_GROOVE} " in line.text]
    clip = spoken([Line(line.voice, 0.0, line.text)], "en", Espeak())
    [sentence] = clip.sentences
    said = clip.samples[: int(sentence.end_s * RATE)]
    pause = np.zeros(RATE // 2, np.float32)
    written = []
    for name, damage in DAMAGES.items():
        path = out / f"{name}.flac"
        samples = np.concatenate([pause, damage(said, sentence.words), pause])
        soundfile.write(path, np.clip(samples, -1, 1), RATE, subtype="PCM_16")
        written.append(path)
    return written
