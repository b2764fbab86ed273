"""A mount that goes while the end or a gap of a file is examined is a fault of the file."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import NoReturn

import pytest

import media
from subtitled.errors import MediaError
from subtitled.files.filesystem import is_mount_error
from subtitled.media import decode, demux


def _fail(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.ESTALE, "Stale file handle")


@pytest.mark.parametrize(
    ("name", "module", "call"),
    [
        ("a.wav", decode, "incompleteness"),
        ("a.mka", demux, "incompleteness"),
        ("a.mka", demux, "declared_end_ns"),
        ("a.mka", demux, "is_damaged"),
    ],
)
def test_stale_file_handle_is_a_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: object, call: str
) -> None:
    path = tmp_path / name
    if name == "a.wav":
        media.write_sound(path, media.speech(4))
    else:
        media.mux(path, media.Voice(media.speech(4)), rate=48_000, holes=((1.0, 2.0),))
    monkeypatch.setattr(module, call, _fail)
    with (
        decode.open_media(str(path)) as decoder,
        pytest.raises(MediaError, match=f"{name}' could not be read to its end: Stale file handle") as raised,
    ):
        list(decoder)
    assert is_mount_error(raised.value)
