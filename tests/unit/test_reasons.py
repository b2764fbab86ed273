"""Reasons and errors of the daemon in the page's language: every one in the sources has a code, and so a translation."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from subtitled.web import i18n
from subtitled.web.i18n import Translator, catalogs
from subtitled.web.reasons import PREFIX, marked_up, parse, translate

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES = Path(__file__).parents[2] / "daemon" / "subtitled"
SCOPE = (
    "api/*.py",
    "asr/model.py",
    "asr/hub.py",
    "asr/engine.py",
    "config/model_choice.py",
    "config/model_files.py",
    "core/*.py",
    "cues/edits.py",
    "files/*.py",
    "http/*.py",
    "media/*.py",
    "output/job_writer.py",
    "output/layout_process.py",
    "output/paths.py",
    "runtime/processes.py",
    "storage/rows.py",
    "web/*.py",
    "workers/*.py",
)
"""Modules whose reasons and errors the page shows."""
VARIABLES = frozenset(
    {"cause", "message", "problem", "fault", "reason", "remedy", "text", "error_text", "why"}
)
"""Variables, and keywords of calls, that hold a reason."""
NOT_SHOWN = re.compile(
    # Faults of a client or worker that does not follow its protocol, and bugs: only the log has them.
    r"Chunk|chunk|blobs|Commit|UploadCredit|Watch|WavHeader|send its Submit|bytes received; send the rest|^segment |"
    r"^unknown languages?|^result of segment|from a worker on another host|FLAC|a segment has|invalid message from|"
    r"received (a lease|\{x\})$|^worker |with the tag \{x\}|in shared memory for segment|^no PCM of segment|^slot |is ready already|begins before sample|^max_samples|received \w+$|is handled by|memory and database|"
    # OpenAI's and Bazarr's interfaces, and the JSON interface: the page does not use these requests.
    r"alias|/asr|\$|http\.token_file as|^no token|the id of an event|a saved version|"
    # Paths that a client on the server names.
    r"^path |^\{x\}; (ask|try) again after its operator|"
    # Faults of the configuration, of the setup of a connection, and of a worker on another host, in that host's log.
    r"http\.token_file \{|http\.listen|sets its own routing id|subtitled keys new|the daemon does not read|"
    r"each session needs|unexpected message|from the daemon|the daemon sent|has no pipes|unknown cause of|cut it first|"
    # Parts of other reasons, of which the rest is in another expression.
    r"^is (a|empty)|^the model \{x\} \{x\}|^not mounted|^model\.digest is|^array of|"
    # Parts of a text file.
    r"drop it again, or type|^check that|could not be turned into subtitles"
)


def templates() -> Iterator[tuple[str, str]]:
    """Yield (place, text) of each reason in the sources; `{x}` stands for a value."""
    for pattern in SCOPE:
        for file in sorted(SOURCES.glob(pattern)):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                for value in texts_of(node):
                    for text in variants(value):
                        if re.search(r"[A-Za-z]{2,} .*[A-Za-z]{2,}", re.sub(r"\{x\}", "", text)):
                            yield f"{file.relative_to(SOURCES)}:{value.lineno}", text


def texts_of(node: ast.AST) -> list[ast.expr]:
    match node:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=args, keywords=keywords):
            is_log = name in {"info", "warning", "error", "exception", "debug", "warn", "status"}
            named = [word.value for word in keywords if word.arg in VARIABLES and not is_log]
            return [
                *(args if name.endswith("Error") or name in {"refuse", "_refuse", "_expire"} else ()),
                *named,
            ]
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in VARIABLES:
            return [value]
        case ast.Return(value=ast.expr() as value):
            return [value]
        case _:
            return []


def variants(node: ast.expr) -> list[str]:
    """Return the texts that an expression may have."""
    match node:
        case ast.Constant(value=str() as text):
            return [text]
        case ast.JoinedStr(values=values):
            found = [""]
            for part in values:
                pieces = variants(part.value) if isinstance(part, ast.FormattedValue) else variants(part)
                found = [one + piece for one in found for piece in pieces or ["{x}"]]
            return found
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return [one + other for one in variants(left) for other in variants(right)]
        case ast.IfExp(body=body, orelse=orelse):
            return variants(body) + variants(orelse)
        case ast.Tuple(elts=elements):
            return [text for element in elements for text in variants(element)]
        case _:
            return []


def test_every_reason_that_the_page_shows_has_a_code() -> None:
    missing = {
        f"{place}: {text}"
        for place, text in templates()
        if not NOT_SHOWN.search(text) and not is_translated(text.replace("{x}", "7"))
    }
    assert missing == set()


def is_translated(text: str) -> bool:
    t = Translator("zh-Hant")
    # A cause at the end may be empty.
    return any(parse(one) or translate(t, one) != one for one in (text, text.removesuffix("7")))


@pytest.mark.parametrize("language", sorted(set(catalogs()) - {"en"}))
def test_every_code_is_translated(language: str) -> None:
    english, messages = catalogs()["en"], catalogs()[language]
    same = [key for key in english if key.startswith(PREFIX) and messages[key] == english[key]]
    assert [
        key
        for key in same
        if re.search("[A-Za-z]{3}", re.sub(r"\\{\\w+\\}|layout|audio_track", "", english[key]))
    ] == []


def test_a_text_is_translated_with_its_parameters_and_their_reasons() -> None:
    t = Translator("zh-Hant")
    text = "reading it failed 3 times, the last time with: 'talk.mp4' is empty (0 bytes); copy it again"
    assert translate(t, text) == "讀取失敗 3 次，最後一次的原因：「talk.mp4」是空檔案（0 位元組）；請重新複製"
    assert (
        translate(t, "/out cannot be written: No space left on device") == "無法寫入 /out：裝置沒有剩餘空間"
    )
    quoted = """"it's.mp4" is empty (0 bytes); copy it again"""
    assert translate(t, quoted) == "「it's.mp4」是空檔案（0 位元組）；請重新複製"
    assert translate(t, "job 7 is done; it cannot be cancelled") == "工作 7 的狀態是「完成」，無法取消"
    assert translate(t, "decoded as en, the file is in zh") == "以英語辨識，但檔案為中文"
    assert translate(t, "'a.mkv': its audio format has no decoder; convert it to another format") == (
        "'a.mkv'：沒有能解碼其聲音格式的解碼器；請轉成其他格式"
    )


def test_a_text_without_a_code_stays_as_it_is_and_is_marked_as_english() -> None:
    t = Translator("zh-Hant")
    assert translate(t, "a reason <of> a newer daemon") == "a reason <of> a newer daemon"
    assert str(marked_up(t, "a <b>")) == '<span lang="en">a &lt;b&gt;</span>'
    assert str(marked_up(Translator("en"), "a <b>")) == "a &lt;b&gt;"
    assert translate(t, "x; " * 5000) == "x; " * 5000


def test_one_file_adds_a_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in (SOURCES / "web" / "messages").glob("*.toml"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    lines = ('"language.name" = "Deutsch"', '"state.done" = "fertig"', '"lang.ja" = "Japanisch"')
    reason = '"reason.is_empty" = "{file} ist leer (0 Bytes); bitte neu kopieren"'
    (tmp_path / "de.toml").write_text("\n".join((*lines, reason)), "utf-8")
    monkeypatch.setattr(i18n, "messages_folder", lambda: tmp_path)
    catalogs.cache_clear()
    try:
        t = Translator("de")
        assert list(catalogs()) == ["en", "de", "zh-Hant"]
        assert i18n.preferred_language("de-AT,en;q=0.5") == "de"
        assert (t.lookup("state", "done"), t.language_name("ja"), t("job.retry")) == (
            "fertig",
            "Japanisch",
            "Retry",
        )
        assert (
            translate(t, "'a' is empty (0 bytes); copy it again")
            == "“a” ist leer (0 Bytes); bitte neu kopieren"
        )
    finally:
        catalogs.cache_clear()
