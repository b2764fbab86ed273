"""Banned phrases in code, messages and docs; each has the usual term that replaces it.

The check reads whole files: code, comments, strings, templates, docs and configuration. A phrase is found across a
line break too. A line that contains `prose: allow` is not checked.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from .finding import ROOT, Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SUFFIXES = frozenset(
    {
        "",
        ".css",
        ".html",
        ".jinja",
        ".js",
        ".json",
        ".md",
        ".py",
        ".sbatch",
        ".service",
        ".sh",
        ".sql",
        ".toml",
    }
    | {".yaml", ".yml", ".conf", ".sub", ".txt"}
)
_SKIPPED = re.compile(
    r"""
    .*LICENSE$ | .*\.lock$ | .*/images/ | tests/.*/(corpus|recordings|data)/ | benchmarks/corpus/ | tools/lint/
    | tests/unit/test_lint\.py$ | tools/demo_model/(grammar|vocabulary|sounds)\.py$ | tools/demo_model/figures\.json$
    | .*hallucination_phrases\.toml$ | .*/demo/
    """,
    re.VERBOSE,
)
"""Generated files, other people's text, and texts that are speech."""

_AGENT = (
    "(?:worker|daemon|client|server|process|loop|broker|gateway|gate|hub|engine|listener|session|connection|kernel"
    "|supervisor|thread|peer|host|head|program|doctor|libzmq|systemd|model|loader|reader|sender|store|job|pool)s?"
)
_PHRASES: tuple[tuple[str, str], ...] = (
    # Riddles and inversions.
    (r"what (has |had |will |is to )?(becomes?|became|come of|comes of|came of)", "status, outcome, result"),
    (r"of (its|their) own accord", "automatically"),
    (r"by (itself|themselves)", "automatically"),
    (r"if need be", "if necessary; if missing"),
    (r"(?<!so\s)that there (is|are)", "existing"),
    (r"nothing else is said", "by default"),
    (r"(goes|go|went|going|gone) on where", "resume"),
    (r"goes on", "continues"),
    (r"wanted no more|no more wanted", "no longer needed"),
    (r"under way", "in progress"),
    (r"all is well|(is|are) well", "healthy; everything is running"),
    (r"for (good|ever)", "permanently; forever"),
    (r"anew", "again"),
    (r"heed(s|ed)?", "applied; read"),
    (r"mend(s|ed|ing)?", "fix"),
    (r"at hand", "available"),
    (r"(come|comes|came|has come|have come) to rest|(is|are) at rest", "no longer changes; idle"),
    (r"(falls?|fell|fallen) silent", "stops responding"),
    (r"(is|are|be|been|was|were) let in", "accepted"),
    (r"turned away", "rejected"),
    (r"whom|whoever|nobody|somebody|anybody", "the subject by its name (user, client, process, no client …)"),
    (r"whence|thereof|wherein|thereupon", "where, of it, in which"),
    (r"has come of|have come of", "result"),
    (r"as made|as the model spoke|all that is known|found by listening", "see naming.md's page texts"),
    # Personification.
    (r"told|tells", "logged, reported, sent, returned"),
    (r"(is|are|was|were|been|be|nothing|what) said", "configured, sent, written"),
    (
        _AGENT + r" (says?|said|speaks?|spoke|spoken|hears?|heard|wants?|wanted|tell|owes?|thinks?)",
        "send, report, need",
    ),
    (r"hears? of|heard of", "receives"),
    (r"nonsense", "invalid message"),
    (r"strangers?", "unauthorized client; other user"),
    # Metaphors, in names too.
    (r"desk", "handlers"),
    (r"doors?", "listener"),
    (r"census", "stats"),
    (r"holdings", "upload_store"),
    (r"armou?r", "security headers"),
    (r"tongues?", "languages"),
    (r"aftermath", "dispatcher of hooks"),
    (r"phrasebook", "hallucination_phrases"),
    (r"vitals", "monitor"),
    (r"errands?", "settings"),
    (r"seats?", "actor; worker slot"),
    (r"crew", "worker pool"),
    (r"crowd", "clients, load"),
    (r"fate", "random, fault injection"),
    (r"witness", "observer, recorder"),
    (r"ballot", "language vote"),
    (r"ears", "preview pool"),
    (r"visitors?", "client, test client"),
    (r"outvoted", "language_changed"),
    (r"kicked", "retried"),
    (r"needless", "already_subtitled"),
    (r"gives? way to", "is replaced by; the next one is used"),
    (r"(that|which) (is|are) there", "existing; available"),
    (r"realtime", "real time"),
    (r"owes_words", "needs_word_times"),
    (r"LastWords", "ExitReason"),
    (r"patience_s", "poll_timeout_s"),
    (r"is_hopeless", "is_permanently_broken"),
    (r"is_at_rest", "is_idle"),
)
WIDTH = 100

_VERBS = (
    r"def (_?(?:tell|look|looks|hear|hears|say|says|said|ask|asks|asked|happen|want|wants|know|knows|heed|give_up)"
    r"(?:_\w+)?|_?owes_\w+)\("
)


def _pattern(phrase: str) -> re.Pattern[str]:
    """Compile a phrase: whole words, in any case, across line breaks, comment marks and adjacent strings."""
    return re.compile(rf"(?<![A-Za-z])(?:{phrase.replace(' ', _GAP)})(?![A-Za-z])", re.IGNORECASE)


_GAP = r"""(?:[ \t]+|[ \t]*["']?\n[ \t]*(?:\#:?|//|--|\*)?[ \t]*f?["']?[ \t]*)"""

BANNED: tuple[tuple[re.Pattern[str], str], ...] = (
    *((_pattern(phrase), instead) for phrase, instead in _PHRASES),
    (
        re.compile(_VERBS),
        "a function is named by the usual verb: send, log, report, notify, return, read, request",
    ),
)
"""Each pattern, with what to write instead."""


def phrases(path: Path, text: str) -> Iterator[Finding]:
    """Yield the banned phrases of one file."""
    lines = text.splitlines()
    for pattern, instead in BANNED:
        for match in pattern.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            if "prose: allow" not in lines[line - 1]:
                yield Finding(path, line, f'"{" ".join(match[0].split())}"; write: {instead}')


def wide_lines(path: Path, text: str) -> Iterator[Finding]:
    """Yield the lines of a page wider than 100 columns; tables, code, pictures and lone links are not wrapped."""
    is_code = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            is_code = not is_code
        elif is_code or line.startswith(("    ", "|", "![", "<")) or " " not in line.strip():
            continue
        elif len(line) > WIDTH:
            yield Finding(path, number, f"line wider than {WIDTH} columns; wrap it")


def tracked(arguments: Iterable[str] = ()) -> list[Path]:
    """Return the text files that git tracks or would track, relative to the root; all, or those under `arguments`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *arguments]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [
        path
        for name in sorted(set(listed.split("\0")) - {""})
        if (path := Path(name)).suffix in _SUFFIXES
        and not _SKIPPED.match(name)
        and (ROOT / path).is_file()
        and not (ROOT / path).is_symlink()
    ]


def check(arguments: Iterable[str] = ()) -> list[Finding]:
    """Return the findings of all tracked files, or of those under `arguments`."""
    found: list[Finding] = []
    for path in tracked(arguments):
        text = (ROOT / path).read_text("utf-8")
        found += phrases(path, text)
        if path.suffix == ".md":
            found += wide_lines(path, text)
    return sorted(found)
