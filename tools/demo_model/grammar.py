"""The texts: a grammar of English sentences, one of Chinese sentences with their translation, and word strings.

A template names its slots in braces; every slot is a rule of its own.  Drawing is driven by a ``random.Random``, so
that the same seed gives the same corpus, and about one text in ten is *held out* by the hash of its words: never
trained on, whatever the seed.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from typing import Literal

from demo_model import programme

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")

_SLOT = re.compile(r"\{(\w+?)\d*\}")

_NUMBERS = tuple("one two three four five six seven eight nine ten eleven twelve".split())
_DIGITS = ("zero", *_NUMBERS[:9])
_MANY = (*_NUMBERS[1:], "twenty", "thirty")
_THINGS = tuple("book letter key bag box ticket camera radio lamp coat cup bicycle".split())
_ANIMALS = ("dog", "cat", "horse", "bird")
_COLOURS = tuple("red blue green yellow black white brown".split())
_ADJECTIVES = tuple("old new small big beautiful heavy clean empty little".split())
_PLACES = tuple(
    "station market school garden kitchen library office river bridge hotel park village hospital beach mountain "
    "forest".split()
)
_PEOPLE = tuple(
    "teacher doctor farmer driver student child woman brother sister mother father friend".split()
)
_FOOD = tuple("bread water coffee tea milk fish sugar soup".split())
_DAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
_IRREGULAR = {"child": "children", "woman": "women", "box": "boxes", "bus": "buses", "fish": "fish"}


def plural(noun: str) -> str:
    """Return the plural of a noun of the corpus."""
    return _IRREGULAR.get(noun, noun + "s")


ENGLISH: dict[str, tuple[str, ...]] = {
    "number": _NUMBERS,
    "digit": _DIGITS,
    "many": _MANY,
    "few": _MANY[:6],
    "day": _DAYS,
    "colour": _COLOURS,
    "adjective": _ADJECTIVES,
    "quality": _COLOURS + _ADJECTIVES,
    "place": _PLACES,
    "people": _PEOPLE,
    "thing": _THINGS,
    "things": tuple(map(plural, _THINGS)),
    "animal": _ANIMALS,
    "animals": tuple(map(plural, _ANIMALS)),
    "food": _FOOD,
    "vehicle": ("train", "bus", "boat", "car"),
    "weather": ("cold", "warm", "quiet", "windy"),
    "part": ("morning", "afternoon", "evening"),
    "owner": ("the", "the", "my", "your", "our"),
    "who": ("{owner} {people}",),
    "when": (
        "on {day}",
        "every morning",
        "every evening",
        "every day",
        "every week",
        "at {number} in the {part}",
        "at {number} in the {part}",
        "today",
        "tomorrow",
        "after {number}",
        "before {number}",
    ),
    "maybe_quality": ("", "{quality} "),
    "counted": ("a {quality} {thing}", "{few} {quality} {things}"),
    "digits": tuple(" ".join(["{digit}"] * n) for n in range(3, 8)),
    "greeting": (
        "hello",
        "thank you",
        "goodbye",
        "yes please",
        "good morning",
        "good evening",
        "thank you very much",
        "hello {people}",
        "thank you for listening",
        "good morning and welcome",
        "good evening and welcome",
    ),
    "sentence": (
        "the {vehicle} leaves the {place} {when}",
        "the {vehicle} arrives at the {place} {when}",
        "{who} walks to the {place} {when}",
        "{who} works in the {place} {when}",
        "{who} goes to the {place} {when}",
        "{who} buys {many} {things} {when}",
        "{who} sells {many} {things} {when}",
        "{who} needs {many} {things} {when}",
        "{who} wants {many} {things} {when}",
        "the {quality} {thing} is on the {quality} {furniture}",
        "the {quality} {thing} is under the {quality} {furniture}",
        "the {quality} {thing} is near the {quality} {furniture}",
        "where is the {maybe_quality}{place}?",
        "where is the {maybe_quality}{thing}?",
        "when does the {vehicle} leave the {place}?",
        "when does the {vehicle} arrive at the {place}?",
        "the weather is {weather} and {weather} {spell}",
        "the weather is {weather} and {weather} {spell}",
        "please {handle} the {quality} {opening}",
        "please {handle} the {quality} {opening} before {number}",
        "please {handle} the {quality} {opening} in the {place}",
        "{who} {does} a {quality} {thing} in the {place}",
        "{who} {does} the {quality} {thing} in the {place}",
        "there are {many} {adjective} {animals} near the {place}",
        "there are {many} {adjective} {animals} in the {place}",
        "I {wish} {food} and {food} {when}",
        "we {move} the {place} with {who}",
        "they {move} the {place} with {who}",
        "the {place} opens at {number} {hours}",
        "the {place} closes at {number} {hours}",
        "{who} has {counted}",
        "how many {things} are in the {maybe_quality}{place}?",
        "how many {animals} are in the {maybe_quality}{place}?",
        "the rain is {bad} near the {place} {spell}",
        "the snow is {bad} in the {place} {spell}",
        "{who} and {who} like the {quality} {animal}",
        "{who} and {who} like the {quality} {vehicle}",
        "my number is {digits}",
        "your number is {digits}",
        "{greeting}",
        "he {gets} {food} and {food} from the {place}",
        "she {gets} {food} and {food} from the {place}",
        "it is {number} in the {part} and the {place} is {still}",
        "it is {number} in the {part} and the {place} is {still}",
        "the {vehicle} from the {place} to the {place} leaves {when}",
        "the {vehicle} from the {place} to the {place} arrives {when}",
        "the {vehicle} from the {place} is late {spell}",
        "there is no {vehicle} to the {place} {spell}",
        "welcome to the {place} radio",
        "here is the news from the {place}",
        "and now the {topic} for {day}",
        "and now the {topic} from the {place}",
        "the {maybe_quality}{place} is {state} {spell}",
    ),
    "furniture": ("table", "chair", "door", "window"),
    "spell": ("today", "tomorrow", "on {day}", "in the {part}"),
    "handle": ("open", "close", "clean"),
    "opening": ("door", "window", "box", "bag"),
    "does": ("reads", "writes", "finds", "carries"),
    "wish": ("like", "want", "need"),
    "move": ("walk to", "work in", "go to"),
    "hours": ("on {day}", "in the {part}"),
    "bad": ("cold", "heavy"),
    "gets": ("likes", "wants", "buys"),
    "still": ("quiet", "empty", "clean", "cold"),
    "topic": ("news", "weather", "music"),
    "state": ("open", "closed", "quiet", "empty"),
}

# Words that may stand in strings of unrelated words: no two of them sound alike.
WORDS: tuple[str, ...] = tuple(
    sorted(
        {
            *_MANY, *_DIGITS, *_DAYS, *_COLOURS, *_PLACES, *_PEOPLE, *_ANIMALS, *_THINGS, *_FOOD, *_ADJECTIVES,
            *ENGLISH["vehicle"], *ENGLISH["weather"], *ENGLISH["part"], *ENGLISH["furniture"], "hundred",
            *"street room today tomorrow night week year rain snow music leaves arrives opens closes reads writes buys "
            "sells finds carries wants likes needs walks works before after under near with from every very people "
            "hello thank goodbye please where when what yes welcome news listening late".split(),
        }
    )
)  # fmt: skip

Pairs = tuple[tuple[str, str], ...]
CHINESE: dict[str, Pairs] = {
    "part": (("早上", "morning"), ("下午", "afternoon"), ("晚上", "evening")),
    "place": (
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
    ),
    "who": (
        ("老师", "the teacher"),
        ("医生", "the doctor"),
        ("学生", "the student"),
        ("司机", "the driver"),
        ("农民", "the farmer"),
        ("我的朋友", "my friend"),
        ("我妈妈", "my mother"),
        ("他", "he"),
    ),
    "vehicle": (("火车", "train"), ("公共汽车", "bus"), ("船", "boat")),
    "colour": (
        ("红色", "red"),
        ("蓝色", "blue"),
        ("绿色", "green"),
        ("白色", "white"),
        ("黑色", "black"),
        ("黄色", "yellow"),
    ),
    "things": (("本书", "books"), ("张票", "tickets"), ("把钥匙", "keys"), ("封信", "letters")),
    "animals": (("只猫", "cats"), ("只狗", "dogs"), ("匹马", "horses")),
    "object": (("门", "door"), ("窗户", "window"), ("桌子", "table"), ("箱子", "box"), ("书", "book")),
    "opening": (("门", "door"), ("窗户", "window")),
    "food": (("茶", "tea"), ("咖啡", "coffee"), ("水", "water"), ("牛奶", "milk")),
    "weather": (("很冷", "cold"), ("很暖和", "warm")),
    "spell": (("今天", "today"), ("明天", "tomorrow")),
    "handle": (("打开", "open"), ("关上", "close")),
    "change": (("开门", "opens"), ("关门", "closes")),
    "topic": (("新闻", "news"), ("天气", "weather"), ("音乐", "music")),
    "day": tuple(zip(("星期" + day for day in "一二三四五六天"), _DAYS, strict=True)),
    "hour": tuple(zip("一 两 三 四 五 六 七 八 九 十 十一 十二".split(), _NUMBERS, strict=True)),
    "count": tuple(zip("两三四五六七八九十", _NUMBERS[1:10], strict=True)),
    "digit": tuple(zip("零一二三四五六七八九", _DIGITS, strict=True)),
    "sentence": (
        ("{vehicle}{part}{hour}点离开{place}", "the {vehicle} leaves the {place} at {hour} in the {part}"),
        ("{who}在{place}工作", "{who} works in the {place}"),
        ("{who}{day}去{place}", "{who} goes to the {place} on {day}"),
        ("{spell}天气{weather}", "the weather is {weather} {spell}"),
        ("{who}想买{count}{things}", "{who} wants {count} {things}"),
        ("{colour}的{object}在{place}", "the {colour} {object} is in the {place}"),
        ("{place}在哪里？", "where is the {place}?"),
        ("现在{part}{hour}点", "it is {hour} in the {part}"),
        ("{who}喜欢{food}", "{who} likes {food}"),
        ("请{handle}{colour}的{opening}", "please {handle} the {colour} {opening}"),
        *(
            ("".join(f"{{digit{i}}}" for i in range(n)), " ".join(f"{{digit{i}}}" for i in range(n)))
            for n in (3, 5, 7)
        ),
        ("{who}有{count}{animals}", "{who} has {count} {animals}"),
        ("谢谢你", "thank you"),
        ("你好", "hello"),
        ("再见", "goodbye"),
        ("谢谢收听", "thank you for listening"),
        ("{place}{part}{hour}点{change}", "the {place} {change} at {hour} in the {part}"),
        ("{place}{part}{hour}点{change}", "the {place} {change} at {hour} in the {part}"),
        ("{who}{day}{part}去{place}", "{who} goes to the {place} on {day} {part}"),
        ("{who}{day}{part}去{place}", "{who} goes to the {place} on {day} {part}"),
        ("欢迎收听{place}广播", "welcome to the {place} radio"),
        ("现在是{place}的{topic}", "here is the {topic} from the {place}"),
        ("{spell}没有去{place}的{vehicle}", "there is no {vehicle} to the {place} {spell}"),
    ),
}
_CHINESE_EXTRA = (
    "今天 明天 现在 谢谢 你好 再见 天气 喜欢 离开 工作 打开 关上 开门 关门 音乐 哪里 新闻 广播 收听 欢迎 没有"
)
CHINESE_WORDS: tuple[str, ...] = tuple(
    sorted(
        {chinese for rule, pairs in CHINESE.items() if rule != "sentence" for chinese, _ in pairs}
        | set(_CHINESE_EXTRA.split())
    )
)


def chinese_alphabet() -> tuple[str, ...]:
    """Return all characters of the Chinese texts, punctuation left out."""
    texts = "".join(chinese for pairs in CHINESE.values() for chinese, _ in pairs) + "".join(CHINESE_WORDS)
    return tuple(sorted({character for character in texts if "\u4e00" <= character <= "\u9fff"}))


@dataclass(frozen=True)
class Text:
    """Something to say: its words as they are written, and for Chinese sentences what they mean in English."""

    text: str
    language: Language
    translation: str | None


def _expand(rule: str, r: random.Random) -> str:
    """Return one expansion of a rule of the English grammar; every slot is drawn for itself."""
    return _SLOT.sub(lambda slot: _expand(slot[1], r), r.choice(ENGLISH[rule]))


def written(sentence: str, *, full_stop: str = ".") -> str:
    """Return an expansion as it is written: articles, capital letter, and the mark at its end."""
    sentence = " ".join(sentence.split())
    sentence = re.sub(r"\ba (?=[aeiou])", "an ", sentence)
    sentence = sentence[0].upper() + sentence[1:]
    return sentence if sentence.endswith(("?", "？")) else sentence + full_stop


def english_sentence(r: random.Random) -> Text:
    """Draw a sentence of the English grammar."""
    return Text(written(_expand("sentence", r)), "en", None)


def english_words(r: random.Random) -> Text:
    """Draw two to eight unrelated English words: only the sound can tell them."""
    return Text(written(" ".join(r.choice(WORDS) for _ in range(r.randint(2, 8)))), "en", None)


def chinese_sentence(r: random.Random) -> Text:
    """Draw a sentence of the Chinese grammar together with its translation."""
    chinese, english = r.choice(CHINESE["sentence"])
    drawn = {slot[0]: r.choice(CHINESE[slot[1]]) for slot in _SLOT.finditer(chinese)}
    for slot, (here, there) in drawn.items():
        chinese, english = chinese.replace(slot, here), english.replace(slot, there)
    return Text(written(chinese, full_stop="。"), "zh", written(english))


def chinese_words(r: random.Random) -> Text:
    """Draw two to six unrelated Chinese words, without a translation."""
    return Text("".join(r.choice(CHINESE_WORDS) for _ in range(r.randint(2, 6))) + "。", "zh", None)


FIXED = frozenset(
    [
        *(written(text) for text in ENGLISH["greeting"] if not _SLOT.search(text)),
        *(written(text, full_stop="。") for text, _ in CHINESE["sentence"] if not _SLOT.search(text)),
    ]
)
"""Texts that always are the same: as good as words, whose meaning nobody could guess; never held out."""


def held_out(text: str) -> bool:
    """Return whether a text is kept out of training: one in ten, and what the recordings say, but for FIXED ones."""
    if text in FIXED:
        return False
    return hashlib.sha256(text.encode()).digest()[0] < 26 or text in programme.TEXTS


def draw(r: random.Random, language: Language, *, test: bool, words: float = 0.4) -> Text:
    """Draw a text of the training or of the held-out side; a share ``words`` of them are unrelated words."""
    sentence, unrelated = {"en": (english_sentence, english_words), "zh": (chinese_sentence, chinese_words)}[
        language
    ]
    while True:
        text = (unrelated if r.random() < words else sentence)(r)
        if held_out(text.text) == test:
            return text
