"""What the demonstration recordings say: the morning's radio of a small town, in English and in Chinese.

Every sentence is one that the grammar could have drawn; but for greetings, none was trained on (``grammar.held_out``).
"""

from __future__ import annotations

from dataclasses import dataclass

from demo_model.espeak import Voice


@dataclass(frozen=True)
class Line:
    """A sentence of a programme: who says it, after how many seconds of pause, and its translation."""

    voice: str
    pause_s: float
    text: str
    translation: str = ""


VOICES = {
    "presenter": Voice("gmw/en-US+f3", 158, 55, 55),
    "reporter": Voice("gmw/en-GB-x-rp+m3", 166, 42, 50),
    "主持人": Voice("sit/cmn-Latn-pinyin+f2", 178, 56, 50),
    "记者": Voice("sit/cmn-Latn-pinyin+m3", 184, 42, 50),
}

ENGLISH = (
    Line("presenter", 0.5, "Good morning and welcome.", "早上好，欢迎。"),
    Line(
        "presenter", 2.1, "It is eight in the morning and the market is quiet.", "现在早上八点，市场很安静。"
    ),
    Line("presenter", 1.3, "Here is the news from the village.", "现在是村子的新闻。"),
    Line(
        "reporter",
        1.6,
        "The train from the station to the beach leaves at nine in the morning.",
        "从车站去海滩的火车早上九点出发。",
    ),
    Line("reporter", 0.5, "The bus from the hospital is late today.", "从医院来的公共汽车今天晚点。"),
    Line("reporter", 0.5, "There is no boat to the forest on Sunday.", "星期天没有去森林的船。"),
    Line("reporter", 0.6, "The old bridge is closed on Tuesday.", "旧的桥星期二关闭。"),
    Line("presenter", 2.4, "And now the weather for Saturday.", "下面是星期六的天气。"),
    Line("reporter", 1.0, "The rain is heavy near the river in the morning.", "早上河附近的雨很大。"),
    Line("reporter", 0.5, "The weather is warm and windy in the afternoon.", "下午天气又暖和又多风。"),
    Line("presenter", 3.0, "The library opens at ten on Wednesday.", "图书馆星期三十点开门。"),
    Line("presenter", 0.5, "How many books are in the new library?", "新的图书馆里有多少本书？"),
    Line("presenter", 0.5, "Our farmer sells twenty coats on Friday.", "我们的农民星期五卖二十件大衣。"),
    Line(
        "reporter",
        1.4,
        "Your teacher and my brother like the beautiful horse.",
        "你的老师和我的哥哥喜欢漂亮的马。",
    ),
    Line(
        "reporter",
        0.5,
        "Please close the yellow door before eleven.",  # prose: allow
        "请在十一点以前关上黄色的门。",
    ),
    Line("presenter", 2.0, "Your number is four seven zero two.", "你的号码是四七零二。"),
    Line("presenter", 0.8, "Thank you for listening.", "谢谢收听。"),
    Line("presenter", 0.5, "Goodbye.", "再见。"),
)
CHINESE = (
    Line("主持人", 0.5, "欢迎收听公园广播。", "Welcome to the park radio."),
    Line("主持人", 0.5, "现在早上八点。", "It is eight in the morning."),
    Line("主持人", 0.5, "今天天气很暖和。", "The weather is warm today."),
    Line("记者", 1.2, "火车早上九点离开车站。", "The train leaves the station at nine in the morning."),
    Line("记者", 0.5, "明天没有去学校的公共汽车。", "There is no bus to the school tomorrow."),
    Line("记者", 0.5, "医院下午五点关门。", "The hospital closes at five in the afternoon."),
    Line("主持人", 1.8, "老师星期三去图书馆。", "The teacher goes to the library on Wednesday."),
    Line("主持人", 0.5, "黄色的箱子在厨房。", "The yellow box is in the kitchen."),
    Line("记者", 1.2, "我的朋友想买三封信。", "My friend wants three letters."),
    Line("主持人", 0.6, "请打开蓝色的窗户。", "Please open the blue window."),
    Line("主持人", 1.2, "谢谢收听。", "Thank you for listening."),
    Line("主持人", 0.5, "再见。", "Goodbye."),
)

TEXTS = frozenset(line.text for line in (*ENGLISH, *CHINESE))
