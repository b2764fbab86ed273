"""All words of the page, in its two languages.

Templates and modules name a word by its key; `KEY.one` is what is said of one where `KEY` is said of `n`. What begins with `script.`
is handed to the scripts of the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

LANGUAGES: Final = ("en", "zh-Hant")
"""As BCP 47 names them; the first is spoken to who wants neither."""

WORDS: Final[Mapping[str, tuple[str, str]]] = {
    # The frame.
    "frame.title": ("Subtitles", "字幕"),
    "frame.skip": ("Skip to the content", "跳到主要內容"),
    "frame.language": ("Language", "語言"),
    "frame.overview": ("Overview", "總覽"),
    "frame.reload": ("Reload", "重新整理"),
    "frame.running": (
        "subtitled {version}, model {model}, up {uptime}",
        "subtitled {version}，模型 {model}，已運行 {uptime}",
    ),
    # What cannot be had.
    "fault.title": ("That did not work", "無法完成"),
    "fault.away": ("The daemon does not answer", "服務沒有回應"),
    "fault.away.more": (
        "This page comes back by itself as soon as it does. Jobs under way are not lost.",
        "恢復後本頁會自動更新；進行中的工作不會遺失。",
    ),
    "fault.missing": ("There is nothing here", "找不到這個頁面"),
    "fault.token": ("A token is needed", "需要權杖"),
    "fault.token.more": (
        "Reload the page and give a token of the server as the password; any user name will do.",
        "請重新整理頁面，並以伺服器的權杖作為密碼；使用者名稱可任意填寫。",
    ),
    "fault.again": ("Try again", "再試一次"),
    "fault.back": ("Back to the overview", "回到總覽"),
    "fault.detail": ("What the server says", "伺服器訊息"),
    # Units.
    "unit.s": ("{n} s", "{n} 秒"),
    "unit.min": ("{n} min", "{n} 分鐘"),
    "unit.h": ("{n} h", "{n} 小時"),
    "unit.h_min": ("{h} h {min} min", "{h} 小時 {min} 分"),
    "unit.d_h": ("{d} d {h} h", "{d} 天 {h} 小時"),
    "unit.ago": ("{time} ago", "{time}前"),
    "unit.now": ("just now", "剛剛"),
    "unit.speed": ("{n}×", "{n}×"),
    # States of a job.
    "state.receiving": ("uploading", "上傳中"),
    "state.queued": ("waiting", "等待中"),
    "state.preparing": ("reading", "讀取中"),
    "state.transcribing": ("transcribing", "轉錄中"),
    "state.writing": ("writing", "寫入中"),
    "state.done": ("done", "完成"),
    "state.failed": ("failed", "失敗"),
    "state.cancelled": ("cancelled", "已取消"),
    # A job.
    "job.retry": ("Retry", "重試"),
    "job.retry.of": ("Retry {name}", "重試 {name}"),
    "job.cancel": ("Cancel", "取消"),
    "job.cancel.of": ("Cancel {name}", "取消 {name}"),
    "job.state": ("State", "狀態"),
    "job.language": ("Language", "語言"),
    "job.length": ("Length", "長度"),
    "job.size": ("Size", "大小"),
    "job.added": ("Added", "加入時間"),
    "job.progress": ("Progress", "進度"),
    "job.cause": ("Reason", "原因"),
    "job.history": ("History", "歷程"),
    "job.unknown": ("not known yet", "尚未得知"),
    "job.unnamed": ("(without a name)", "(未命名)"),
    # What the scripts say.
    "script.away": ("The daemon does not answer; trying again.", "服務沒有回應，正在重試。"),
    "script.back": ("The daemon answers again.", "服務已恢復。"),
}
