"""Sentences with their translations: the English grammar with its Chinese counterpart, and the Chinese grammar's own pairs.

A rule of the English grammar and its counterpart here have the same expansions in the same order.  In a counterpart
``{quality2}`` is the second ``{quality}`` of the English side; nouns are written with the word that counts them,
``本|书``, of which ``{thing#}`` is the first part and ``{thing}`` the second.
"""

from __future__ import annotations

import random
import re

from demo_model import programme
from demo_model.grammar import ENGLISH, FIXED, chinese_sentence, held_out, written

Pair = tuple[str, str]
"""A sentence in English and in Chinese."""

_SLOT = re.compile(r"\{(\w+?)(\d*)(#?)\}")
_NUMBERS = "一 两 三 四 五 六 七 八 九 十 十一 十二".split()
_MANY = (*_NUMBERS[1:], "二十", "三十")
_THINGS = "本|书 封|信 把|钥匙 个|包 个|箱子 张|票 台|相机 台|收音机 盏|灯 件|大衣 个|杯子 辆|自行车".split()
_ANIMALS = "只|狗 只|猫 匹|马 只|鸟".split()
_COLOURS = "红色的 蓝色的 绿色的 黄色的 黑色的 白色的 棕色的".split()
_ADJECTIVES = "旧的 新的 小的 大的 漂亮的 沉重的 干净的 空的 小小的".split()
_DAYS = ["星期" + day for day in "一二三四五六天"]

COUNTERPARTS: dict[str, tuple[str, ...]] = {
    "number": tuple(_NUMBERS),
    "digit": tuple("零一二三四五六七八九"),
    "many": _MANY,
    "few": _MANY[:6],
    "day": tuple(_DAYS),
    "colour": tuple(_COLOURS),
    "adjective": tuple(_ADJECTIVES),
    "quality": (*_COLOURS, *_ADJECTIVES),
    "place": tuple("车站 市场 学校 花园 厨房 图书馆 办公室 河 桥 饭店 公园 村子 医院 海滩 山 森林".split()),
    "people": tuple("老师 医生 农民 司机 学生 孩子 女人 哥哥 姐姐 妈妈 爸爸 朋友".split()),
    "thing": tuple(_THINGS),
    "things": tuple(_THINGS),
    "animal": tuple(_ANIMALS),
    "animals": tuple(_ANIMALS),
    "food": tuple("面包 水 咖啡 茶 牛奶 鱼 糖 汤".split()),
    "vehicle": ("火车", "公共汽车", "船", "汽车"),
    "weather": ("冷", "暖和", "平静", "多风"),
    "part": ("早上", "下午", "晚上"),
    "owner": ("", "", "我的", "你的", "我们的"),
    "who": ("{owner}{people}",),
    "when": (
        "{day}",
        "每天早上",
        "每天晚上",
        "每天",
        "每周",
        "{part}{number}点",
        "{part}{number}点",
        "今天",
        "明天",
        "{number}点以后",
        "{number}点以前",
    ),
    "maybe_quality": ("", "{quality}"),
    "counted": ("一{thing#}{quality}{thing}", "{few}{things#}{quality}{things}"),
    "digits": tuple("".join(f"{{digit{i}}}" for i in range(1, n + 1)) for n in range(3, 8)),
    "greeting": (
        "你好",
        "谢谢你",
        "再见",
        "好的，谢谢",
        "早上好",
        "晚上好",
        "非常感谢",
        "你好，{people}",
        "谢谢收听",
        "早上好，欢迎",
        "晚上好，欢迎",
    ),
    "furniture": ("桌子", "椅子", "门", "窗户"),
    "spell": ("今天", "明天", "{day}", "{part}"),
    "handle": ("打开", "关上", "清洁"),
    "opening": ("门", "窗户", "箱子", "包"),
    "does": ("读", "写", "找到", "拿着"),
    "wish": ("喜欢", "想要", "需要"),
    "move": ("走路去|", "在|工作", "去|"),
    "hours": ("{day}", "{part}"),
    "bad": ("很冷", "很大"),
    "gets": ("喜欢", "想要", "买"),
    "still": ("很安静", "空着", "很干净", "很冷"),
    "topic": ("新闻", "天气", "音乐"),
    "state": ("开放", "关闭", "很安静", "空着"),
}
SENTENCES: dict[str, str] = {
    "the {vehicle} leaves the {place} {when}": "{vehicle}{when}离开{place}",
    "the {vehicle} arrives at the {place} {when}": "{vehicle}{when}到达{place}",
    "{who} walks to the {place} {when}": "{who}{when}走路去{place}",
    "{who} works in the {place} {when}": "{who}{when}在{place}工作",
    "{who} goes to the {place} {when}": "{who}{when}去{place}",
    "{who} buys {many} {things} {when}": "{who}{when}买{many}{things#}{things}",
    "{who} sells {many} {things} {when}": "{who}{when}卖{many}{things#}{things}",
    "{who} needs {many} {things} {when}": "{who}{when}需要{many}{things#}{things}",
    "{who} wants {many} {things} {when}": "{who}{when}想买{many}{things#}{things}",
    "the {quality} {thing} is on the {quality} {furniture}": "{quality}{thing}在{quality2}{furniture}上",
    "the {quality} {thing} is under the {quality} {furniture}": "{quality}{thing}在{quality2}{furniture}下面",
    "the {quality} {thing} is near the {quality} {furniture}": "{quality}{thing}在{quality2}{furniture}旁边",
    "where is the {maybe_quality}{place}?": "{maybe_quality}{place}在哪里？",
    "where is the {maybe_quality}{thing}?": "{maybe_quality}{thing}在哪里？",
    "when does the {vehicle} leave the {place}?": "{vehicle}什么时候离开{place}？",
    "when does the {vehicle} arrive at the {place}?": "{vehicle}什么时候到达{place}？",
    "the weather is {weather} and {weather} {spell}": "{spell}天气又{weather}又{weather2}",
    "please {handle} the {quality} {opening}": "请{handle}{quality}{opening}",
    "please {handle} the {quality} {opening} before {number}": "请在{number}点以前{handle}{quality}{opening}",
    "please {handle} the {quality} {opening} in the {place}": "请{handle}{place}里{quality}{opening}",
    "{who} {does} a {quality} {thing} in the {place}": "{who}在{place}{does}一{thing#}{quality}{thing}",
    "{who} {does} the {quality} {thing} in the {place}": "{who}在{place}{does}{quality}{thing}",
    "there are {many} {adjective} {animals} near the {place}": "{place}附近有{many}{animals#}{adjective}{animals}",
    "there are {many} {adjective} {animals} in the {place}": "{place}里有{many}{animals#}{adjective}{animals}",
    "I {wish} {food} and {food} {when}": "我{when}{wish}{food}和{food2}",
    "we {move} the {place} with {who}": "我们和{who}{move#}{place}{move}",
    "they {move} the {place} with {who}": "他们和{who}{move#}{place}{move}",
    "the {place} opens at {number} {hours}": "{place}{hours}{number}点开门",
    "the {place} closes at {number} {hours}": "{place}{hours}{number}点关门",
    "{who} has {counted}": "{who}有{counted}",
    "how many {things} are in the {maybe_quality}{place}?": "{maybe_quality}{place}里有多少{things#}{things}？",
    "how many {animals} are in the {maybe_quality}{place}?": "{maybe_quality}{place}里有多少{animals#}{animals}？",
    "the rain is {bad} near the {place} {spell}": "{spell}{place}附近的雨{bad}",
    "the snow is {bad} in the {place} {spell}": "{spell}{place}里的雪{bad}",
    "{who} and {who} like the {quality} {animal}": "{who}和{who2}喜欢{quality}{animal}",
    "{who} and {who} like the {quality} {vehicle}": "{who}和{who2}喜欢{quality}{vehicle}",
    "my number is {digits}": "我的号码是{digits}",
    "your number is {digits}": "你的号码是{digits}",
    "{greeting}": "{greeting}",
    "he {gets} {food} and {food} from the {place}": "他{gets}{place}的{food}和{food2}",
    "she {gets} {food} and {food} from the {place}": "她{gets}{place}的{food}和{food2}",
    "it is {number} in the {part} and the {place} is {still}": "现在{part}{number}点，{place}{still}",
    "the {vehicle} from the {place} to the {place} leaves {when}": "从{place}去{place2}的{vehicle}{when}出发",
    "the {vehicle} from the {place} to the {place} arrives {when}": "从{place}去{place2}的{vehicle}{when}到达",
    "the {vehicle} from the {place} is late {spell}": "从{place}来的{vehicle}{spell}晚点",
    "there is no {vehicle} to the {place} {spell}": "{spell}没有去{place}的{vehicle}",
    "welcome to the {place} radio": "欢迎收听{place}广播",
    "here is the news from the {place}": "现在是{place}的新闻",
    "and now the {topic} for {day}": "下面是{day}的{topic}",
    "and now the {topic} from the {place}": "下面是{place}的{topic}",
    "the {maybe_quality}{place} is {state} {spell}": "{maybe_quality}{place}{spell}{state}",
}
# Short forms that the Chinese grammar has besides: so that "the weather is warm today" is one of many of its kind.
_EXTRA: dict[str, str] = {
    "the weather is {weather} {spell}": "{spell}天气很{weather}",
    "it is {number} in the {part}": "现在{part}{number}点",
    "the {quality} {thing} is in the {place}": "{quality}{thing}在{place}",
    "here is the {topic} from the {place}": "现在是{place}的{topic}",
}
_SPOKEN = {line.translation for line in (*programme.ENGLISH, *programme.CHINESE)}
_KIN = {"我的妈妈": "我妈妈"}


def _expand(english: str, chinese: str, r: random.Random) -> Pair:
    """Return one expansion of a pair of templates; every slot is drawn for itself."""
    drawn: dict[str, list[Pair]] = {}

    def draw(slot: re.Match[str]) -> str:
        rule = slot[1]
        i = r.randrange(len(ENGLISH[rule]))
        pair = _expand(ENGLISH[rule][i], COUNTERPARTS[rule][i], r)
        drawn.setdefault(rule, []).append(pair)
        return pair[0]

    def translated(slot: re.Match[str]) -> str:
        text = drawn[slot[1]][int(slot[2] or 1) - 1][1]
        counter, bar, noun = text.partition("|")
        return counter if slot[3] else noun if bar else text

    return _SLOT.sub(draw, english), _SLOT.sub(translated, chinese)


def english_pair(r: random.Random) -> Pair:
    """Draw a sentence of the English grammar, or of the short forms beside it, with its translation."""
    table = _EXTRA if r.random() < 0.1 else SENTENCES
    english, chinese = _expand(*r.choice(tuple(table.items())), r)
    for long, short in _KIN.items():
        chinese = chinese.replace(long, short)
    return written(english), written(chinese, full_stop="。")


def chinese_pair(r: random.Random) -> Pair:
    """Draw a sentence of the Chinese grammar with its translation."""
    text = chinese_sentence(r)
    if text.translation is None:
        raise AssertionError(f"a sentence of the Chinese grammar has no translation: {text.text}")
    return text.translation, text.text


def is_held_out(pair: Pair) -> bool:
    """Return whether a pair is kept out of training: by the hash of either side, and what the recordings say."""
    english, chinese = pair
    if {english, chinese} & FIXED:
        return False
    return held_out(english) or held_out(chinese) or bool({english, chinese} & _SPOKEN)


def draw(r: random.Random, *, test: bool) -> Pair:
    """Draw a pair of the training or of the held-out side: two of three from the English grammar."""
    while True:
        pair = (chinese_pair if r.random() < 1 / 3 else english_pair)(r)
        if is_held_out(pair) == test:
            return pair
