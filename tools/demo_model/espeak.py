"""espeak-ng through its C library: audio, and the time at which each word and each phoneme begins."""

from __future__ import annotations

import ctypes
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from demo_model.grammar import Language

RATE = 16_000
"""Samples a second of all audio here."""

VOICES: dict[Language, tuple[str, ...]] = {
    "en": ("gmw/en-US", "gmw/en-US", "gmw/en", "gmw/en-GB-x-rp"),
    "zh": ("sit/cmn-Latn-pinyin",),
}
VARIANTS = ("", *(f"+m{i}" for i in range(1, 9)), *(f"+f{i}" for i in range(1, 6)))

_SYNCHRONOUS, _PHONEME_EVENTS, _UTF8 = 2, 1, 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_LIST_TERMINATED, _WORD, _PHONEME = 0, 1, 7


@dataclass(frozen=True)
class Voice:
    """A voice of espeak-ng, its words a minute, pitch (0 to 100) and range of pitch (0 to 100)."""

    name: str
    words_per_minute: int = 165
    pitch: int = 50
    pitch_range: int = 50


@dataclass(frozen=True)
class Word:
    """A word (of Chinese: a character): its place in the text, in characters, and its time in seconds."""

    first: int
    end: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Speech:
    """Synthesised speech: ``samples`` (float32, 16 kHz, mono) and when; ``end_s`` is where speech ends."""

    samples: npt.NDArray[np.float32]
    words: tuple[Word, ...]
    phonemes: tuple[tuple[float, str], ...]
    end_s: float


def random_voice(r: random.Random, language: Language) -> Voice:
    """Draw a voice, its rate and its pitch."""
    name = r.choice(VOICES[language]) + r.choice(VARIANTS)
    return Voice(name, r.randint(130, 200), r.randint(30, 70), r.randint(35, 65))


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Espeak:
    """The synthesizer; one of a process, since the library keeps its voice in globals.

    Raises OSError where Debian's ``libespeak-ng1`` is not installed.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libespeak-ng.so.1")
        self._rate: int = self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS)
        self._audio: list[bytes] = []
        self._words: list[tuple[int, int, int]] = []
        self._phonemes: list[tuple[int, str]] = []
        self._callback = _CALLBACK(self._on_samples)  # kept: the library holds only its address
        self._library.espeak_SetSynthCallback(self._callback)

    def _on_samples(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._audio.append(ctypes.string_at(samples, count * 2))
        for event in iter(events):
            if event.type == _LIST_TERMINATED:
                break
            if event.type == _WORD:
                self._words.append((event.text_position - 1, event.length, event.sample))
            elif event.type == _PHONEME:
                name = bytes(event.id.string).decode("utf8", "replace").strip("\0")
                self._phonemes.append((event.sample, name))
        return 0

    def synthesize(self, text: str, voice: Voice) -> Speech | None:
        """Return the speech of a text, or None where the synthesizer has nothing to say.

        Raises ValueError for a voice that is not installed.
        """
        from scipy import signal

        self._audio, self._words, self._phonemes = [], [], []
        if self._library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice.name}; `espeak-ng --voices` lists those it has")
        for parameter, value in (
            (_RATE, voice.words_per_minute),
            (_PITCH, voice.pitch),
            (_RANGE, voice.pitch_range),
        ):
            self._library.espeak_SetParameter(parameter, value, 0)
        data = text.encode()
        self._library.espeak_Synth(data, len(data) + 1, 0, 0, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        pcm = np.frombuffer(b"".join(self._audio), np.int16).astype(np.float32) / 32768
        phonemes = tuple((sample / self._rate, name) for sample, name in self._phonemes)
        spoken = [i for i, (_, name) in enumerate(phonemes) if not name.startswith("_")]
        if not spoken or not self._words:
            return None
        after = spoken[-1] + 1
        end = phonemes[after][0] if after < len(phonemes) else len(pcm) / self._rate
        samples = signal.resample_poly(pcm, 320, 441).astype(np.float32)  # 22,050 to 16,000
        return Speech(samples[: int((end + 0.12) * RATE)], self._placed(text, end), phonemes, end)

    def _placed(self, text: str, end_s: float) -> tuple[Word, ...]:
        """Return the words in the order of the text; each ends where the next begins."""
        starts: dict[int, tuple[float, int]] = {}
        for position, length, sample in self._words:
            if 0 <= position < len(text) and text[position].isalnum():
                starts.setdefault(position, (sample / self._rate, length))
        places = sorted(starts)
        ends = [*(starts[place][0] for place in places[1:]), end_s]
        return tuple(
            Word(place, place + starts[place][1], starts[place][0], max(end, starts[place][0] + 0.02))
            for place, end in zip(places, ends, strict=True)
        )
