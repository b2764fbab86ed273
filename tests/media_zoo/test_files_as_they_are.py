"""Files as other programs make, cut and damage them: all at once through one daemon, compared with what a player plays.

Each file holds the same two sentences. Their true times are those of the recording, moved by what precedes it on the timeline of
players, which FFmpeg and mpv confirm where they are installed. `test_audio_tracks` has the files with several tracks.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from msgspec import Struct

import media
from daemon import Daemon
from subtitled.cues.render import read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

pytestmark = pytest.mark.long

RATE = media.RATE
LENGTH_S = 7.4
SENTENCES = media.true_text()[:2]
TOLERANCE_MS = 250
FASTSTART = {"movflags": "faststart"}


class Case(Struct, frozen=True, kw_only=True):
    """How a file is made, and what is to come out of it."""

    make: Callable[[Path], object]
    """Writes the file to a path, whose name decides the container."""
    shift_s: tuple[float, float] = (0.0, 0.0)
    """How much later than in the recording each sentence is played."""
    heard: tuple[int, ...] = (0, 1)
    """The sentences in the file."""
    damaged_s: tuple[float, float] | None = None
    """Where audio is lost, as far as the damage reaches; None: nowhere."""
    form: str = ""
    """Suffix of the container, where the file has another one."""
    has_noise: bool = False
    """Its volume does not show where the speech begins."""


def speech() -> NDArray[np.int16]:
    return media.speech(LENGTH_S)


def muxed(codec: str = "aac", *, start_s: float = 0.0, **options: Any) -> Callable[[Path], object]:
    """Return how to encode the sentences into a container; `options` are those of `media.mux`."""
    voice = media.Voice(speech(), start_s=start_s)
    return lambda path: media.mux(path, voice, codec=codec, **{"rate": 48_000, **options})


def onset_s(pcm: NDArray[np.int16]) -> float:
    """Return where the sound begins, in seconds."""
    return float(np.argmax(np.abs(pcm.astype(np.int32)) > 1_500)) / RATE


def sound(subtype: str = "PCM_16", rate: int = RATE) -> Callable[[Path], object]:
    return lambda path: media.write_sound(path, np.repeat(speech(), rate // RATE), rate=rate, subtype=subtype)


def sizes(size: int) -> Callable[[Path], object]:
    """Return how to write a WAV file with this size in its header."""

    def make(path: Path) -> object:
        content = bytearray(media.write_sound(path, speech()).read_bytes())
        content[4:8] = size.to_bytes(4, "little")
        content[40:44] = (size if size > 36 else 0).to_bytes(4, "little")
        return path.write_bytes(content)

    return make


def tagged(path: Path) -> object:
    """Write a WAV file behind an ID3 tag, as taggers for MP3 do."""
    tag = b"ID3\x04\0\0\0\0\x02\x00" + bytes(256)
    return path.write_bytes(tag + media.write_sound(path, speech()).read_bytes())


def damaged(make: Callable[[Path], object], part: float, length: float = 0.06) -> Callable[[Path], object]:
    """Return how to overwrite a part of a file."""

    def overwrite(path: Path) -> object:
        make(path)
        content = bytearray(path.read_bytes())
        start, count = int(len(content) * part), int(len(content) * length)
        content[start : start + count] = random.Random(3).randbytes(count)
        return path.write_bytes(content)

    return overwrite


def cut(make: Callable[[Path], object], part: float) -> Callable[[Path], object]:
    """Return how to write the first part of a file."""

    def shorten(path: Path) -> object:
        make(path)
        content = path.read_bytes()
        return path.write_bytes(content[: int(len(content) * part)])

    return shorten


def after_silence(path: Path) -> object:
    return media.write_sound(path, np.concatenate([media.silence(60), speech()]))


def joined(path: Path) -> object:
    """Write two streams one after the other, each with a clock of its own."""
    half = int(3.2 * RATE)
    parts = [speech()[:half], speech()[half:]]
    made = [
        media.mux(
            path.with_name(f"{number}-{path.name}"),
            media.Voice(part),
            rate=48_000,
            picture_s=len(part) / RATE,
        )
        for number, part in enumerate(parts)
    ]
    path.write_bytes(b"".join(one.read_bytes() for one in made))
    for one in made:
        one.unlink()
    return path


def chained(path: Path) -> object:
    """Write two Ogg streams one after the other, mono and then stereo."""
    parts = (speech()[: 3 * RATE], "mono"), (speech()[3 * RATE :], "stereo")
    made = [
        media.mux(
            path.with_name(f"{layout}.ogg"), media.Voice(pcm), codec="libopus", rate=48_000, layout=layout
        )
        for pcm, layout in parts
    ]
    path.write_bytes(b"".join(one.read_bytes() for one in made))
    for one in made:
        one.unlink()
    return path


def in_surround(path: Path) -> object:
    """Write 5.1 with noise everywhere but in the centre."""
    loud = media.noise(len(speech()), peak=8_000)
    return media.write_sound(path, np.column_stack([loud, loud[::-1], speech(), loud, loud, loud[::-1]]))


CASES = {
    # Containers, codecs, rates and depths.
    "a.mp3": Case(make=muxed("libmp3lame")),
    "a.opus": Case(make=muxed("libopus")),
    "a.webm": Case(make=muxed("libopus")),
    "a.wma": Case(make=muxed("wmav2")),
    "a.avi": Case(make=muxed("libmp3lame", picture_s=LENGTH_S)),
    "a.mpg": Case(make=muxed("mp2", picture_s=LENGTH_S)),
    "a.m4b": Case(make=muxed("alac"), form=".m4a"),
    "8 bit.wav": Case(make=sound("PCM_U8")),
    "96 kHz.wav": Case(make=sound("PCM_32", 96_000)),
    "24 bit.aiff": Case(make=sound("PCM_24", 48_000)),
    "a.au": Case(make=sound("ULAW")),
    # Endings that no list has.
    "quicktime.qta": Case(make=muxed(), form=".mov"),
    "a.mpga": Case(make=muxed("libmp3lame"), form=".mp3"),
    "a.mk3d": Case(make=muxed(), form=".mkv"),
    "a.tp": Case(make=muxed(picture_s=LENGTH_S), form=".ts"),
    "no ending": Case(make=muxed(), form=".mkv"),
    "名" * 81 + ".mka": Case(make=muxed()),
    # Clocks.
    "late.mkv": Case(make=muxed(start_s=2, picture_s=10), shift_s=(2, 2)),
    "late.mp4": Case(make=muxed(start_s=2, picture_s=10), shift_s=(2, 2)),
    "late.ts": Case(make=muxed(start_s=2, picture_s=10), shift_s=(2, 2)),
    "segment.mka": Case(make=muxed(start_s=20)),
    "segment.m4a": Case(make=muxed(start_s=20)),
    "gap.mkv": Case(make=muxed(holes=((3.0, 4.0),)), shift_s=(0, 4)),
    "joined.ts": Case(make=joined),
    "chained.ogg": Case(make=chained),
    "silence first.flac": Case(make=after_silence, shift_s=(60, 60)),
    # Headers that were never finished.
    "size 0.wav": Case(make=sizes(0)),
    "size 36.wav": Case(make=sizes(36)),
    "size of a pipe.wav": Case(make=sizes(0xFFFFFFFF)),
    "tagged.wav": Case(make=tagged),
    # Damage: the rest is right and in time, and the loss is reported.
    "damaged.flac": Case(make=damaged(sound(), 0.55), damaged_s=(4.0, 7.0), heard=(0,)),
    "damaged.mp4": Case(make=damaged(muxed(muxer=FASTSTART), 0.4), damaged_s=(1.5, 4.2)),
    "damaged.mkv": Case(make=damaged(muxed(picture_s=LENGTH_S), 0.3, 0.03), damaged_s=(1.0, 5.2), heard=()),
    "damaged.opus": Case(make=damaged(muxed("libopus"), 0.35, 0.03), damaged_s=(1.0, 4.2), heard=()),
    "cut.mkv": Case(make=cut(muxed(picture_s=LENGTH_S), 0.5), damaged_s=(2.1, 8.0), heard=(0,)),
    "cut.mp3": Case(make=cut(muxed("libmp3lame"), 0.5), damaged_s=(2.1, 8.0), heard=(0,)),
    "cut.flac": Case(make=cut(sound(), 0.5), damaged_s=(2.1, 8.0), heard=(0,)),
    "cut.wav": Case(make=cut(sound(), 0.5), damaged_s=(2.1, 8.0), heard=(0,)),
    # Surround.
    "surround.wav": Case(make=in_surround, has_noise=True),
}
CLOCKS = ("late.mkv", "late.mp4", "late.ts", "segment.mka", "segment.m4a", "joined.ts", "silence first.flac")
UNPLAYED = ("tagged.wav", "chained.ogg")
"""Files that mpv plays as a whole, with FFmpeg 5, but not every version of FFmpeg."""
IGNORED = (
    *(
        "@eaDir/a.mkv",
        "#recycle/b.mkv",
        "#snapshot/c.mkv",
        "$RECYCLE.BIN/d.mkv",
        ".Trash-1000/e.mkv",
        "lost+found/f.mkv",
    ),
    *(
        "@Recycle/g.mkv",
        ".stfolder/h.mkv",
        ".sync/i.mkv",
        "j.f140.m4a",
        "k.temp.mp4",
        "l.mkv.!qB",
        "m.mkv.part",
    ),
    *("Film-trailer.mkv", "Sample/n.mkv", "theme.mp3"),
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the file of each case."""
    folder = tmp_path_factory.mktemp("files")
    for name, case in CASES.items():
        made = folder / f"made{case.form or name[name.rindex('.') :]}"
        case.make(made)
        made.rename(folder / name)
    return folder


@pytest.fixture(scope="module")
def daemon(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run a daemon that gets all files at once."""
    with Daemon(tmp_path_factory.mktemp("daemon")) as running:
        for name in CASES:
            running.drop(files / name, name)
        for name in IGNORED:
            running.drop(files / "a.mp3", name)
        running.start()
        yield running
        running.stop()


@pytest.mark.parametrize("name", CASES)
def test_file_has_its_text_in_its_time(daemon: Daemon, name: str) -> None:
    case = CASES[name]
    job = daemon.wait_for(daemon.inbox / name)
    assert (job.state, job.cause) == ("done", "")
    output = next(path for path in job.outputs if path.endswith(".json"))
    transcript = read_json(Path(output).read_bytes())
    phrases = [phrase for segment in transcript.segments for phrase in segment.phrases]
    for number in case.heard:
        true, shift_ms = SENTENCES[number], case.shift_s[number] * 1000
        match = next((one for one in phrases if one.text.strip() == true.text), None)
        assert match is not None, [one.text for one in phrases]
        assert abs(match.start_ms - true.start_ms - shift_ms) < TOLERANCE_MS, match
        assert abs(match.end_ms - true.end_ms - shift_ms) < TOLERANCE_MS, match
    assert transcript.damaged == job.damaged
    if case.damaged_s is None:
        assert job.damaged == ()
        return
    assert job.damaged
    first, last = case.damaged_s
    assert all(first <= start <= end <= last for start, end in job.damaged), job.damaged
    line = daemon.wait_for_log("job.damaged", job=job.id, level="warning")
    assert line["damaged_s"] == round(sum(end - start for start, end in job.damaged), 2)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="FFmpeg is not installed")
@pytest.mark.parametrize(
    "name",
    [name for name, case in CASES.items() if not case.has_noise and case.heard and name not in UNPLAYED],
)
def test_true_times_are_those_that_ffmpeg_plays(files: Path, name: str) -> None:
    play = (
        "-map",
        "0:a:0",
        "-af",
        "aresample=async=1:first_pts=0",
        "-ac",
        "1",
        "-ar",
        str(RATE),
        "-f",
        "s16le",
        "-",
        # FFmpeg counts from the earliest stream that it uses.
        *("-map", "0:v?", "-c", "copy", "-f", "null", "/dev/null"),
    )
    played = subprocess.run(
        ("ffmpeg", "-v", "quiet", "-i", files / name, *play), capture_output=True, check=False
    )
    pcm = np.frombuffer(played.stdout, np.int16)
    assert abs(onset_s(pcm) - onset_s(speech()) - CASES[name].shift_s[0]) < 0.1


@pytest.mark.skipif(shutil.which("mpv") is None, reason="mpv is not installed")
@pytest.mark.parametrize("name", CLOCKS)
def test_true_times_are_those_that_mpv_plays(files: Path, name: str, tmp_path: Path) -> None:
    output, log = tmp_path / "played", tmp_path / "log"
    play = ("--no-config", "--no-terminal", "--untimed", "--vo=null", "--ao=pcm", "--ao-pcm-waveheader=no")
    convert = (f"--audio-samplerate={RATE}", "--audio-format=s16", "--audio-channels=mono")
    command = ("mpv", *play, *convert, f"--ao-pcm-file={output}", f"--log-file={log}", files / name)
    subprocess.run(command, capture_output=True, check=True)
    # mpv waits with the sound until the picture is there.
    delay = re.search(r"delaying audio start .* diff=([\d.]+)", log.read_text("utf-8"))
    start_s = float(delay[1]) if delay else 0.0
    pcm = np.fromfile(output, np.int16)
    assert abs(start_s + onset_s(pcm) - onset_s(speech()) - CASES[name].shift_s[0]) < 0.1


@pytest.mark.last
def test_other_files_are_left_alone(daemon: Daemon) -> None:
    for name in IGNORED:
        assert (daemon.inbox / name).is_file(), name
    assert len(daemon.jobs()) == len(CASES)
    assert daemon.log("worker.lost") == []


@pytest.mark.last
def test_long_name_is_kept(daemon: Daemon) -> None:
    assert (daemon.outbox / f"{'名' * 81}.en.srt").is_file()
