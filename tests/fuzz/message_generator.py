"""The messages of a hostile client: valid ones in a likely order, some of them damaged."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from subtitle import messages as ms
from subtitle.codec import VERSION

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

CORPUS = Path(__file__).parent / "corpus"
MAX_BODY = 4096
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 255, 256, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)),
    *(
        0.0,
        -1.5,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "x",
        "\0",
        "../..",
        "/etc/passwd",
        "\u202e",
        "é" * 300,
    ),
    *("x" * 5000, b"", b"\xff\xfe", [], [[[[[[]]]]]], {}, {"a": {"b": {}}}, [None] * 300, {"type": "Hello"}),
)
"""Values of types and ranges that no field accepts."""
OPTIONS: tuple[dict[str, Any], ...] = (
    {"language": "en", "layout": {"min_ms": 1}},
    {"glossary": "a = " + "[" * 5000},
    {"glossary": "a = " + "9" * 5000},
    {"glossary": "a." * 9000 + "a = 1"},
    {"translate_to": ["zh-Hant-TW-x-aaaaaaaa-bbbbbbbb-cccccc", "\u0130" * 30]},
    {"audio_track": "9" * 32},
)
KINDS = (
    "Hello",
    "Submit",
    "Chunk",
    "Commit",
    "List",
    "Status",
    "Watch",
    "Fetch",
    "SaveCues",
    "ListCueVersions",
    "Cancel",
    "Retry",
    "TranslateJob",
    "Delete",
    "Stats",
    "Reorder",
    "Dismiss",
    "GetWaveform",
    "GetAudio",
    "GetVideo",
    "Operate",
    "LoadModel",
    "UnloadModel",
)
LIKELY = (3, 12, 40, 10, 4, 4, 3, 4, 4, 2, 8, 3, 2, 4, 4, 2, 1, 1, 1, 1, 1, 1, 1)
"""Relative frequency of each kind: mostly uploads, which keep the most state in the daemon."""


class Upload(Struct):
    """The state of an upload as its client sees it."""

    request: int
    job: str
    body: bytes
    sent: int = 0


class MessageGenerator:
    """The messages of one client; they depend only on its random numbers and the answers it received."""

    def __init__(self, rng: random.Random, corpus: Sequence[bytes], *, folder: str) -> None:
        """`folder`: its files may be submitted by path."""
        self._rng = rng
        self._corpus = corpus
        self._folder = folder
        self._submitted: dict[int, bytes] = {}
        self._number = 0
        self._seen = 0
        self.uploads: list[Upload] = []
        self.jobs: list[str] = ["nosuch"]

    def receive(self, message: ms.ToClient) -> None:
        """Update the state from an answer."""
        match message:
            case ms.Accepted(request=request, job=job, offset=offset) if request in self._submitted:
                self.uploads.append(Upload(request, job, self._submitted.pop(request), offset))
                self.uploads = self.uploads[-8:]
                self._remember(job)
            case ms.JobInfo(job=facts):
                self._remember(facts.id)
            case ms.Event(seq=seq):
                self._seen = seq
            case _:
                pass

    def next_message(self) -> list[bytes]:
        """Return the frames of the next message."""
        rng = self._rng
        if rng.random() < 0.05:
            return [rng.randbytes(rng.choice((0, 1, 3, 40, 300))) for _ in range(rng.choice((0, 1, 2, 3, 9)))]
        if rng.random() < 0.05:
            frames = list(msgspec.msgpack.decode(rng.choice(self._corpus)))
        else:
            fields, blobs = self._message(rng.choices(KINDS, LIKELY)[0])
            if rng.random() < 0.4:
                self._spoil(fields)
            frames = [VERSION, msgspec.msgpack.encode(fields), *blobs]
        while rng.random() < 0.2:
            self._break(frames)
        return frames

    def _remember(self, job: str) -> None:
        self.jobs = [*self.jobs[-15:], job]

    def _message(self, kind: str) -> tuple[dict[str, Any], list[bytes]]:
        rng = self._rng
        self._number += 1
        fields: dict[str, Any] = {"type": kind, "request": self._number}
        blobs: list[bytes] = []
        match kind:
            case "Submit" if rng.random() < 0.2:
                fields |= {"path": f"{self._folder}/{rng.choice(('a.wav', 'b/../a.wav', '../x', 'missing'))}"}
            case "Submit":
                body = rng.randbytes(rng.choice((0, 1, 100, MAX_BODY)))
                self._submitted[self._number] = body
                for old in list(self._submitted)[:-50]:
                    del self._submitted[old]
                fields |= {"name": rng.choice(("a.wav", "../b.wav", "", "c\n.mp4"))}
                if rng.random() < 0.8:
                    fields |= {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
                if rng.random() < 0.3:
                    fields |= {"options": {"tag": str(rng.random()), **rng.choice(OPTIONS)}}
            case "Chunk" if self.uploads:
                upload = rng.choice(self.uploads)
                length = rng.choice((1, 100, MAX_BODY))
                blobs = [upload.body[upload.sent : upload.sent + length]]
                fields |= {"request": upload.request, "job": upload.job, "offset": upload.sent}
                upload.sent += len(blobs[0])
            case "Commit" if self.uploads:
                upload = self.uploads.pop(rng.randrange(len(self.uploads)))
                fields |= {"job": upload.job, "size": len(upload.body)}
                fields |= {"sha256": hashlib.sha256(upload.body).hexdigest()}
            case "SaveCues":
                blobs = [
                    rng.choice((b"[]", b'[{"start_ms": 1, "end_ms": 2, "lines": ["x"]}]', b"[{}]", b"\xff"))
                ]
                fields |= {"job": rng.choice(self.jobs), "version": rng.choice((0, 1))}
            case "Watch":
                fields |= {"after_seq": rng.choice((-1, self._seen)), "job": rng.choice((None, *self.jobs))}
            case "List":
                fields |= {"states": rng.choice(([], ["done"], ["receiving", "queued"])), "limit": 5}
            case "Hello":
                fields |= {"options": rng.choice(OPTIONS)}
            case "TranslateJob":
                fields |= {"job": rng.choice(self.jobs), "to": rng.choice(([], ["ja"], ["zz-" + "9" * 8]))}
            case "Reorder":
                fields |= {"job": rng.choice(self.jobs), "before": rng.choice(("", *self.jobs))}
            case "LoadModel" | "UnloadModel":
                fields |= {"model": rng.choice(("demo", "", "none"))}
            case "Stats" | "Operate":
                pass
            case _:
                fields |= {"job": rng.choice(self.jobs), "offset": 0}
        return fields, blobs

    def _spoil(self, fields: dict[str, Any]) -> None:
        """Give one field an invalid value."""
        name = self._rng.choice(list(fields))
        match self._rng.randrange(4):
            case 0:
                del fields[name]
            case 1:
                fields["unknown"] = self._rng.choice(ODD)
            case 2 if name == "offset":
                fields[name] += self._rng.choice((-1, 1, 2**20, 2**40))
            case _:
                fields[name] = self._rng.choice(ODD)

    def _break(self, frames: list[bytes]) -> None:
        """Damage the frames themselves."""
        rng = self._rng
        if not frames:
            frames.append(b"")
            return
        at = rng.randrange(len(frames))
        frame = bytearray(frames[at])
        match rng.randrange(8):
            case 0:
                del frames[at]
                return
            case 1:
                frames.insert(at, rng.choice((b"", VERSION, rng.randbytes(20))))
                return
            case 2:
                rng.shuffle(frames)
                return
            case 3:
                frames.extend([b""] * rng.choice((1, 5, 40)))
                return
            case 4:
                del frame[rng.randrange(len(frame) + 1) :]
            case 5:
                frame += rng.choice((b"\x91" * 2000, b"\xdd\xff\xff\xff\xff", b"\xc1", bytes(frame)))
            case 6:
                frame = bytearray(rng.randbytes(rng.choice((1, 1000, 70_000))))
            case _ if frame:
                for _ in range(rng.choice((1, 1, 1, 8))):
                    frame[rng.randrange(len(frame))] = rng.choice((0, 1, 0x7F, 0x80, 0xC0, 0xDF, 0xFF))
        frames[at] = bytes(frame)


def load_corpus() -> list[bytes]:
    """Return the stored messages, each a MessagePack array of frames, in the order of their file names."""
    return [path.read_bytes() for path in sorted(CORPUS.iterdir())]
