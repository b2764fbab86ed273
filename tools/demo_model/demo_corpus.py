"""Text and speech for the demo model: a closed vocabulary spoken by espeak-ng.

Two things live here:

* a small grammar that writes English and Chinese (Simplified) sentences, the
  Chinese ones together with their English translation, and
* a thin ctypes wrapper of libespeak-ng, which returns the samples *and* the
  time at which every word and every phoneme starts, so that the true segment
  and word boundaries are known without any aligner.

Everything is driven by a `random.Random`, so the same seed gives the same
corpus.
"""

from __future__ import annotations

import ctypes
import hashlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import signal

RATE = 16000

Word = tuple[int, int, float, float]
"""First character, last character + 1, start s, end s."""
Spoken = tuple[npt.NDArray[np.float32], list[Word], list[tuple[float, str]], float]
"""Samples, words, phonemes with their start s, end of speech s."""

# --------------------------------------------------------------------------
# English
# --------------------------------------------------------------------------
NUMBERS = "one two three four five six seven eight nine ten eleven twelve".split()
MANY = NUMBERS[1:] + ["twenty", "thirty"]
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
COLOURS = "red blue green yellow black white brown".split()
PLACES = (
    "station market school garden kitchen library office river bridge hotel "
    "park village hospital beach mountain forest"
).split()
PEOPLE = ("teacher doctor farmer driver student child woman brother sister mother father friend").split()
ANIMALS = "dog cat horse bird".split()
THINGS = "book letter key bag box ticket camera radio lamp coat cup bicycle".split()
FOOD = "bread water coffee tea milk fish sugar soup".split()
VEHICLES = "train bus boat car".split()
ADJECTIVES = "old new small big beautiful heavy clean empty little".split()
WEATHER = "cold warm quiet windy".split()
PARTS = "morning afternoon evening".split()

# Words that may stand in random strings: no two of them sound alike.
RANDOM_WORDS = sorted(
    set(
        NUMBERS
        + MANY
        + ["zero", "hundred"]
        + DAYS
        + COLOURS
        + PLACES
        + PEOPLE
        + ANIMALS
        + THINGS
        + FOOD
        + VEHICLES
        + ADJECTIVES
        + WEATHER
        + PARTS
        + (
            "door window table chair street room today tomorrow night week year rain snow "
            "music leaves arrives opens closes reads writes buys sells finds carries wants "
            "likes needs walks works before after under near with from every very people "
            "hello thank goodbye please where when what yes"
        ).split()
    )
)


def plural(word: str) -> str:
    """Give the plural of a word of the corpus."""
    return {"child": "children", "woman": "women", "box": "boxes", "bus": "buses", "fish": "fish"}.get(
        word, word + "s"
    )


def en_sentence(r: random.Random) -> str:
    """One English sentence of the grammar."""
    c = r.choice
    det: Callable[[], str] = lambda: c(["the", "the", "my", "your", "our"])
    who: Callable[[], str] = lambda: det() + " " + c(PEOPLE)
    when: Callable[[], str] = lambda: c(
        [
            "on " + c(DAYS),
            "every " + c(["morning", "evening", "day", "week"]),
            "at " + c(NUMBERS) + " in the " + c(PARTS),
            "today",
            "tomorrow",
            "after " + c(NUMBERS),
            "before " + c(NUMBERS),
        ]
    )
    adj: Callable[[], str] = lambda: c(COLOURS + ADJECTIVES)
    k = r.randrange(22)
    if k == 0:
        s = f"the {c(VEHICLES)} {c(['leaves', 'arrives at'])} the {c(PLACES)} {when()}"
    elif k == 1:
        s = f"{who()} {c(['walks to', 'works in', 'goes to'])} the {c(PLACES)} {when()}"
    elif k == 2:
        s = f"{who()} {c(['buys', 'sells', 'needs', 'wants'])} {c(MANY)} {plural(c(THINGS))} {when()}"
    elif k == 3:
        s = f"the {adj()} {c(THINGS)} is {c(['on', 'under', 'near'])} the {adj()} {c(['table', 'chair', 'door', 'window'])}"
    elif k == 4:
        s = f"where is the {c(['', adj() + ' '])}{c(PLACES + THINGS)}?"
    elif k == 5:
        s = f"when does the {c(VEHICLES)} {c(['leave', 'arrive at'])} the {c(PLACES)}?"
    elif k == 6:
        s = f"the weather is {c(WEATHER)} and {c(WEATHER)} {c(['today', 'in the ' + c(PARTS), 'on ' + c(DAYS)])}"
    elif k == 7:
        s = f"please {c(['open', 'close', 'clean'])} the {adj()} {c(['door', 'window', 'box', 'bag'])} {c(['', 'before ' + c(NUMBERS), 'in the ' + c(PLACES)])}"
    elif k == 8:
        s = f"{who()} {c(['reads', 'writes', 'finds', 'carries'])} {c(['a', 'the'])} {adj()} {c(THINGS)} in the {c(PLACES)}"
    elif k == 9:
        s = f"there are {c(MANY)} {c(ADJECTIVES)} {plural(c(ANIMALS))} {c(['near', 'in'])} the {c(PLACES)}"
    elif k == 10:
        s = f"I {c(['like', 'want', 'need'])} {c(FOOD)} and {c(FOOD)} {when()}"
    elif k == 11:
        s = f"{c(['we', 'they'])} {c(['walk to', 'work in', 'go to'])} the {c(PLACES)} with {who()}"
    elif k == 12:
        s = f"the {c(PLACES)} {c(['opens', 'closes'])} at {c(NUMBERS)} {c(['on ' + c(DAYS), 'in the ' + c(PARTS)])}"
    elif k == 13:
        n, thing = c(["a", c(MANY[:6])]), c(THINGS)
        s = f"{who()} has {n} {adj()} {thing if n == 'a' else plural(thing)}"
    elif k == 14:
        s = f"how many {plural(c(THINGS + ANIMALS))} are in the {c(['', adj() + ' '])}{c(PLACES)}?"
    elif k == 15:
        s = f"the {c(['rain', 'snow'])} is {c(['cold', 'heavy'])} {c(['near', 'in'])} the {c(PLACES)} {c(['today', 'tomorrow', 'on ' + c(DAYS)])}"
    elif k == 16:
        s = f"{who()} and {who()} like the {adj()} {c(ANIMALS + VEHICLES)}"
    elif k == 17:
        s = f"{c(['my', 'your'])} number is " + " ".join(
            c(["zero"] + NUMBERS[:9]) for _ in range(r.randint(3, 7))
        )
    elif k == 18:
        s = c(
            [
                "hello",
                "thank you",
                "goodbye",
                "yes please",
                "good morning",
                "good evening",
                "thank you very much",
                "hello " + c(PEOPLE),
            ]
        )
    elif k == 19:
        s = f"{c(['he', 'she'])} {c(['likes', 'wants', 'buys'])} {c(FOOD)} and {c(FOOD)} from the {c(PLACES)}"
    elif k == 20:
        s = f"it is {c(NUMBERS)} in the {c(PARTS)} and the {c(PLACES)} is {c(['quiet', 'empty', 'clean', 'cold'])}"
    else:
        s = f"the {c(VEHICLES)} from the {c(PLACES)} to the {c(PLACES)} {c(['leaves', 'arrives'])} {when()}"
    return finish(s)


def finish(s: str) -> str:
    """Give the sentence with its article, capital and full stop right."""
    s = " ".join(s.split())
    for w in ADJECTIVES + COLOURS:
        if w[0] in "aeiou":
            s = s.replace(f" a {w}", f" an {w}")
    s = s[0].upper() + s[1:]
    return s if s.endswith("?") else s + "."


def en_random(r: random.Random) -> str:
    """Give a string of unrelated words: only the sound can tell them."""
    return finish(" ".join(r.choice(RANDOM_WORDS) for _ in range(r.randint(2, 8))))


# --------------------------------------------------------------------------
# Chinese (Simplified) with English translations
# --------------------------------------------------------------------------
ZH_DIGITS = "零一二三四五六七八九"
EN_DIGITS = ["zero"] + NUMBERS[:9]
ZH_HOURS = ["一", "两", "三", "四", "五", "六", "七", "八", "九", "十", "十一", "十二"]
ZH_DAYS = ["星期" + d for d in "一二三四五六天"]
ZH_PARTS = [("早上", "morning"), ("下午", "afternoon"), ("晚上", "evening")]
ZH_PLACES = [
    ("车站", "station"),
    ("学校", "school"),
    ("市场", "market"),
    ("图书馆", "library"),
    ("医院", "hospital"),
    ("公园", "park"),
    ("办公室", "office"),
    ("花园", "garden"),
    ("厨房", "kitchen"),
    ("饭店", "hotel"),
]
ZH_PEOPLE = [
    ("老师", "the teacher"),
    ("医生", "the doctor"),
    ("学生", "the student"),
    ("司机", "the driver"),
    ("农民", "the farmer"),
    ("我的朋友", "my friend"),
    ("我妈妈", "my mother"),
    ("他", "he"),
]
ZH_VEHICLES = [("火车", "train"), ("公共汽车", "bus"), ("船", "boat")]
ZH_COLOURS = [
    ("红色", "red"),
    ("蓝色", "blue"),
    ("绿色", "green"),
    ("白色", "white"),
    ("黑色", "black"),
    ("黄色", "yellow"),
]
ZH_THINGS = [("本书", "book"), ("张票", "ticket"), ("把钥匙", "key"), ("封信", "letter")]
ZH_ANIMALS = [("只猫", "cat"), ("只狗", "dog"), ("匹马", "horse")]
ZH_OBJECTS = [("门", "door"), ("窗户", "window"), ("桌子", "table"), ("箱子", "box"), ("书", "book")]
ZH_FOOD = [("茶", "tea"), ("咖啡", "coffee"), ("水", "water"), ("牛奶", "milk")]
ZH_WEATHER = [("很冷", "cold"), ("很暖和", "warm")]
ZH_WORDS = sorted(
    set(
        list(ZH_DIGITS)
        + ZH_DAYS
        + [
            "今天",
            "明天",
            "现在",
            "谢谢",
            "你好",
            "再见",
            "天气",
            "喜欢",
            "离开",
            "工作",
            "打开",
            "关上",
            "开门",
            "关门",
            "音乐",
            "哪里",
        ]
        + [
            a
            for t in (
                ZH_PARTS,
                ZH_PLACES,
                ZH_PEOPLE,
                ZH_VEHICLES,
                ZH_COLOURS,
                ZH_THINGS,
                ZH_ANIMALS,
                ZH_OBJECTS,
                ZH_FOOD,
                ZH_WEATHER,
            )
            for a, _ in t
        ]
    )
)


def zh_sentence(r: random.Random) -> tuple[str, str]:
    """One Chinese sentence and its English translation."""
    c = r.choice
    part, place, who, veh = c(ZH_PARTS), c(ZH_PLACES), c(ZH_PEOPLE), c(ZH_VEHICLES)
    hour, day, col, n = r.randrange(12), r.randrange(7), c(ZH_COLOURS), r.randrange(1, 10)
    zh_n, en_n = ZH_HOURS[n], NUMBERS[n]
    k = r.randrange(15)
    if k == 0:
        z, e = (
            f"{veh[0]}{part[0]}{ZH_HOURS[hour]}点离开{place[0]}",
            f"the {veh[1]} leaves the {place[1]} at {NUMBERS[hour]} in the {part[1]}",
        )
    elif k == 1:
        z, e = f"{who[0]}在{place[0]}工作", f"{who[1]} works in the {place[1]}"
    elif k == 2:
        z, e = f"{who[0]}{ZH_DAYS[day]}去{place[0]}", f"{who[1]} goes to the {place[1]} on {DAYS[day]}"
    elif k == 3:
        t, w = c([("今天", "today"), ("明天", "tomorrow")]), c(ZH_WEATHER)
        z, e = f"{t[0]}天气{w[0]}", f"the weather is {w[1]} {t[1]}"
    elif k == 4:
        o = c(ZH_THINGS)
        z, e = f"{who[0]}想买{zh_n}{o[0]}", f"{who[1]} wants {en_n} {plural(o[1])}"
    elif k == 5:
        o = c(ZH_OBJECTS)
        z, e = f"{col[0]}的{o[0]}在{place[0]}", f"the {col[1]} {o[1]} is in the {place[1]}"
    elif k == 6:
        z, e = f"{place[0]}在哪里？", f"where is the {place[1]}?"
    elif k == 7:
        z, e = f"现在{part[0]}{ZH_HOURS[hour]}点", f"it is {NUMBERS[hour]} in the {part[1]}"
    elif k == 8:
        f = c(ZH_FOOD)
        z, e = f"{who[0]}喜欢{f[0]}", f"{who[1]} likes {f[1]}"
    elif k == 9:
        v, o = c([("打开", "open"), ("关上", "close")]), c(ZH_OBJECTS[:2])
        z, e = f"请{v[0]}{col[0]}的{o[0]}", f"please {v[1]} the {col[1]} {o[1]}"
    elif k == 10:
        d = [r.randrange(10) for _ in range(r.randint(3, 7))]
        z, e = "".join(ZH_DIGITS[i] for i in d), " ".join(EN_DIGITS[i] for i in d)
    elif k == 11:
        a = c(ZH_ANIMALS)
        z, e = f"{who[0]}有{zh_n}{a[0]}", f"{who[1]} has {en_n} {plural(a[1])}"
    elif k == 12:
        z, e = c([("谢谢你", "thank you"), ("你好", "hello"), ("再见", "goodbye")])
    elif k == 13:
        v = c([("开门", "opens"), ("关门", "closes")])
        z, e = (
            f"{place[0]}{part[0]}{ZH_HOURS[hour]}点{v[0]}",
            f"the {place[1]} {v[1]} at {NUMBERS[hour]} in the {part[1]}",
        )
    else:
        z, e = (
            f"{who[0]}{ZH_DAYS[day]}{part[0]}去{place[0]}",
            f"{who[1]} goes to the {place[1]} on {DAYS[day]} {part[1]}",
        )
    return z if z.endswith("？") else z + "。", finish(e)


def zh_random(r: random.Random) -> tuple[str, None]:
    """Unrelated Chinese words; no translation."""
    return "".join(r.choice(ZH_WORDS) for _ in range(r.randint(2, 6))) + "。", None


def zh_alphabet() -> list[str]:
    """All characters of the Chinese side."""
    r = random.Random(0)
    return sorted({ch for _ in range(4000) for ch in zh_sentence(r)[0]} | set("".join(ZH_WORDS)))


def held_out(text: str) -> bool:
    """Say true for about one sentence in ten: never used in training."""
    return hashlib.md5(text.encode()).digest()[0] < 26


def draw(r: random.Random, lang: str, test: bool, random_share: float = 0.4) -> tuple[str, str | None, str]:
    """(text, translation, kind) of the training or of the held-out side."""
    while True:
        if r.random() < random_share:
            kind = "random"
            text, tr = (en_random(r), None) if lang == "en" else zh_random(r)
        else:
            kind = "sentence"
            text, tr = (en_sentence(r), None) if lang == "en" else zh_sentence(r)
        if held_out(text) == test:
            return text, tr, kind


# --------------------------------------------------------------------------
# espeak-ng
# --------------------------------------------------------------------------
VOICES = {"en": ["gmw/en-US", "gmw/en-US", "gmw/en", "gmw/en-GB-x-rp"], "zh": ["sit/cmn-Latn-pinyin"]}
VARIANTS = ["", "+m1", "+m2", "+m3", "+m4", "+m5", "+m6", "+m7", "+m8", "+f1", "+f2", "+f3", "+f4", "+f5"]


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Espeak:
    """libespeak-ng with word and phoneme times."""

    def __init__(self) -> None:
        self.lib = ctypes.CDLL("libespeak-ng.so.1")
        self.rate = self.lib.espeak_Initialize(2, 0, None, 1)
        self._audio: list[bytes] = []
        self._words: list[tuple[int, int, int]] = []
        self._phones: list[tuple[int, str]] = []

        def callback(wav: Any, n: int, events: Any) -> int:
            if wav and n > 0:
                self._audio.append(ctypes.string_at(wav, n * 2))
            i = 0
            while events[i].type != 0:
                e = events[i]
                if e.type == 1:
                    self._words.append((e.text_position - 1, e.length, e.sample))
                elif e.type == 7:
                    self._phones.append((e.sample, bytes(e.id.string).decode("utf8", "replace")))
                i += 1
            return 0

        self._callback = _CALLBACK(callback)
        self.lib.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, voice: str, wpm: int = 165, pitch: int = 50, span: int = 50) -> Spoken | None:
        """-> float32 samples at 16 kHz, word times, phones, end of speech.

        Word times are [(first character, last character + 1, start s, end s)];
        for Chinese a "word" is one character.
        """
        self._audio, self._words, self._phones = [], [], []
        if self.lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(voice)
        for number, value in ((1, wpm), (3, pitch), (4, span)):
            self.lib.espeak_SetParameter(number, value, 0)
        data = text.encode()
        self.lib.espeak_Synth(data, len(data) + 1, 0, 0, 0, 1, None, None)
        self.lib.espeak_Synchronize()
        pcm = np.frombuffer(b"".join(self._audio), np.int16).astype(np.float32) / 32768
        phones = [(s / self.rate, p.strip("\0")) for s, p in self._phones]
        speech = [i for i, (_, p) in enumerate(phones) if not p.startswith("_")]
        if not speech:
            return None
        end = phones[speech[-1] + 1][0] if speech[-1] + 1 < len(phones) else len(pcm) / self.rate
        starts: dict[int, tuple[float, int]] = {}
        for pos, length, sample in self._words:
            if 0 <= pos < len(text) and (text[pos].isalnum()):
                starts.setdefault(pos, (sample / self.rate, length))
        keys = sorted(starts)
        words = []
        for i, pos in enumerate(keys):
            t0 = starts[pos][0]
            t1 = starts[keys[i + 1]][0] if i + 1 < len(keys) else end
            words.append((pos, pos + starts[pos][1], t0, max(t1, t0 + 0.02)))
        up, down = 320, 441
        wav = signal.resample_poly(pcm, up, down).astype(np.float32)
        wav = wav[: int((end + 0.12) * RATE)]
        return wav, words, phones, end


def word_spans(text: str, lang: str) -> list[tuple[int, int]]:
    """Character spans that must each have a word event."""
    if lang == "zh":
        return [(i, i + 1) for i, ch in enumerate(text) if ch.isalnum()]
    out, i = [], 0
    for w in text.split(" "):
        out.append((i, i + len(w)))
        i += len(w) + 1
    return out


def effects(wav: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Light, random colouring: low-pass, tilt, short reverberation."""
    if rng.random() < 0.25:
        b, a = signal.butter(2, rng.uniform(2800, 7000) / (RATE / 2))
        wav = signal.lfilter(b, a, wav)
    if rng.random() < 0.25:
        a = rng.uniform(-0.5, 0.5)
        wav = signal.lfilter([1, -a], [1], wav)
    if rng.random() < 0.25:
        n = int(RATE * rng.uniform(0.08, 0.3))
        ir = rng.standard_normal(n) * np.exp(-6.9 * np.arange(n) / n) * rng.uniform(0.02, 0.12)
        ir[0] = 1.0
        wav = signal.fftconvolve(wav, ir)
    return wav.astype(np.float32)


def random_voice(r: random.Random, lang: str) -> tuple[str, int, int, int]:
    """(voice, words per minute, pitch, pitch span)."""
    return (
        r.choice(VOICES[lang]) + r.choice(VARIANTS),
        r.randint(130, 200),
        r.randint(30, 70),
        r.randint(35, 65),
    )
