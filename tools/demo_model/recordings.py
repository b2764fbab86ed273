"""The recordings the daemon and its tests bring along, with what is said in them and when.

Beside each recording lies a text file with a line for each sentence: start and end in seconds, the sentence, and of
Chinese its translation, separated by tabs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from demo_model import clips, programme, sounds
from demo_model.clips import Clip
from demo_model.espeak import RATE, Espeak, Voice
from demo_model.grammar import Language, Text
from demo_model.programme import Line
from demo_model.sounds import Samples
from demo_model.utterances import LOUDNESS

_ROOM_DB = -80.0
"""A room is never quite silent."""


def spoken(lines: Sequence[Line], language: Language, synthesizer: Espeak) -> Clip:
    """Return a programme as a clip.  Raises ValueError for a line of which the synthesizer says nothing."""
    out = Clip(np.zeros(0, np.float32), language)
    parts: list[Samples] = []
    at = 0
    for line in lines:
        speech = synthesizer.say(line.text, Voice(*programme.VOICES[line.voice]))
        if speech is None:
            raise ValueError(f"espeak-ng says nothing for {line.text!r}; see programme.py")
        pause = np.zeros(int(line.pause_s * RATE), np.float32)
        at += len(pause)
        text = Text(line.text, language, line.translation)
        out.sentences.append(clips.placed(text, speech, at / RATE))
        samples = speech.samples[: int(speech.end_s * RATE)]
        parts += [pause, samples * np.float32(LOUDNESS / np.sqrt(np.mean(samples**2)))]
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


def _skipping(samples: Samples, _: np.random.Generator) -> Samples:
    """Return a sentence of which a scratched disc repeats a part of the last second without end."""
    groove = samples[-int(0.9 * RATE) : -int(0.4 * RATE)]
    return np.concatenate([samples[: -int(0.4 * RATE)], *[groove] * 30])


def _drowned(samples: Samples, rng: np.random.Generator) -> Samples:
    """Return a sentence under noise four times as strong."""
    noise = sounds.quiet("pink", rng, len(samples) / RATE)
    return samples + noise * np.float32(2 * LOUDNESS)


def _backwards(samples: Samples, _: np.random.Generator) -> Samples:
    """Return a sentence that is played backwards."""
    return samples[::-1].copy()


DAMAGES: dict[str, Callable[[Samples, np.random.Generator], Samples]] = {
    "skipping": _skipping,
    "drowned": _drowned,
    "backwards": _backwards,
}


def degrade(out: Path) -> list[Path]:
    """Write the tests' recordings, of which a model cannot be sure; returns their paths."""
    import soundfile

    out.mkdir(parents=True, exist_ok=True)
    line = next(line for line in programme.ENGLISH if line.voice == "reporter")
    sentence = spoken([line], "en", Espeak()).samples[int(line.pause_s * RATE) : -RATE // 2]
    written = []
    for name, damage in DAMAGES.items():
        path = out / f"{name}.flac"
        pause = np.zeros(RATE // 2, np.float32)
        damaged = np.concatenate([pause, damage(sentence, np.random.default_rng(7)), pause])
        soundfile.write(path, np.clip(damaged, -1, 1), RATE, subtype="PCM_16")
        written.append(path)
    return written
