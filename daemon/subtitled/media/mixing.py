"""Which audio track of a file is transcribed, and how its channels are mixed to mono: decisions, without I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

import numpy as np
from msgspec import Struct

from subtitled.config.schema import SAMPLE_RATE
from subtitled.core.plan import FRAME
from subtitled.languages import is_in, name_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from subtitle.messages import AudioTrack

Mix = Literal["mono", "stereo", "surround", "sum", "difference", "left", "right", "centre", "surroundings"]
"""How channels become one. "surroundings" is "surround" without the centre."""

SPLIT = "split"
"""In place of a mix: two channels are transcribed separately, as SPLIT_MIXES."""
SPLIT_MIXES: tuple[Mix, ...] = ("left", "right")

_FALLBACKS: dict[str, Mix] = {
    "left": "right",
    "right": "left",
    "stereo": "difference",
    "sum": "difference",
    "centre": "surroundings",
    "surround": "centre",
}

ENOUGH_FRAMES = 10 * SAMPLE_RATE // FRAME
"""10 s of speech that decide the mix. In a recorded call the second voice may come late: its channel must not be dropped."""

_SECONDARY_FLAGS = frozenset(
    {"comment", "visual_impaired", "karaoke", "clean_effects", "non_diegetic", "descriptions", "dependent"}
)
"""FFmpeg's dispositions of tracks that are not the programme, or have no speech."""
_SECONDARY_TITLE = re.compile(
    r"comment|kommentar|coment|descripti|beschreibung|audiodes|\bAD\b|\bDVS\b|karaoke|isolated|music (?:and|&) effects"
    r"|\bM&E\b|\bscore\b|解説|解说|コメンタリー|评论",
    re.IGNORECASE,
)
"""Words in the titles of such tracks, for files without dispositions."""

_FRONT, _BACK = 0.7071, 0.5
_FRONTS = frozenset({"FL", "FR", "FLC", "FRC", "WL", "WR", "DL", "DR"})
_LOW = frozenset({"LFE", "LFE2"})
_USUAL_LAYOUTS = {5: "FL FR FC BL BR", 6: "FL FR FC LFE BL BR", 8: "FL FR FC LFE BL BR SL SR"}
"""Channels of files that name none."""

_CANCELLED = -0.5
"""Correlation of two channels below which their sum would cancel much of the speech."""
_ALIKE = 0.8
"""Correlation of two channels from which they have the same speech."""
_MAX_SHIFT = 3
"""Frames (96 ms) by which encoders shift copies of a track."""
_DOMINANT = 20
"""Speech in one channel to speech in the other, from which only the first is taken to have speech."""
_LOUD = 0.25
"""Power of a channel without speech, relative to the speech in the other, from which it is left out (-6 dB)."""
_DOUBTFUL = 0.03
"""Power of the other channels, relative to the speech in the centre, from which only the centre is used (-15 dB)."""
_SURROUNDINGS_LEVEL = 0.5
"""Weight of the channels beside the centre, so that their sum is not clipped."""
_MIN_CANCELLED_FRAMES = 4
"""Frames (128 ms) of a block from which it has audio that cancels."""
_QUIET = 100.0
"""Mean square of 16-bit samples below which a frame has no speech (-70 dB)."""


def default_mix(channels: int) -> Mix:
    """Return the mix of a track whose speech was not examined."""
    return "mono" if channels == 1 else "stereo" if channels == 2 else "surround"


def measured_mixes(names: Sequence[str]) -> tuple[Mix, ...]:
    """Return the one or two mixes of a track's channels in which speech is searched before the mix is chosen."""
    if len(names) == 2:
        return "left", "right"
    if len(names) > 2 and "FC" in _named(names):
        return "centre", "surroundings"
    return (default_mix(len(names)),)


def fallback_of(mix: str, names: Sequence[str]) -> Mix | None:
    """Return the mix that may have speech where `mix` of the same channels has none; None if there is no such mix."""
    fallback = _FALLBACKS.get(mix)
    return None if fallback == "centre" and "FC" not in _named(names) else fallback


def weights_of(names: Sequence[str], mix: str) -> NDArray[np.float32] | None:
    """Return the weight of each channel in a mix to mono; None: all are averaged.

    If a mix needs channels that are not in `names`, the default is used: a track may change its channels.

    Surround sound is mixed as in ITU-R BS.775: the fronts 3 dB below the centre, the others 6 dB, without low frequency
    channels.
    """
    names = _named(names)
    match mix, len(names):
        case "left", 2:
            return np.array([1, 0], np.float32)
        case "right", 2:
            return np.array([0, 1], np.float32)
        case "difference", 2:
            return np.array([0.5, -0.5], np.float32)
        case "sum", 2:
            return np.array([1, 1], np.float32)
        case _, count if count < 3 or not any(names):
            return None
        case "centre", _ if "FC" in names:
            return np.array([name == "FC" for name in names], np.float32)
    weights = np.array([_itu_weight(name) for name in names], np.float32)
    if mix == "surroundings":
        return np.where([name == "FC" for name in names], np.float32(0), weights * _SURROUNDINGS_LEVEL)
    weights /= weights.sum()
    return weights


def _named(names: Sequence[str]) -> Sequence[str]:
    """Return the names of channels; the usual ones if a file names none, else empty ones if they are unknown."""
    if len(names) < 3 or "FC" in names or {"FL", "FR"} <= set(names):
        return names
    return _USUAL_LAYOUTS.get(len(names), " " * (len(names) - 1)).split(" ")


def _itu_weight(name: str) -> float:
    if name in _LOW:
        return 0.0
    return 1.0 if name == "FC" else _FRONT if name in _FRONTS else _BACK


class Evidence(Struct, frozen=True, kw_only=True):
    """Where a track has speech, in each of its `measured_mixes`."""

    mixes: tuple[Mix, ...]
    speech: NDArray[np.bool_]
    """(mixes, frames): whether a frame of 512 samples at 16 kHz has speech."""
    power: NDArray[np.float32]
    """(mixes, mixes, frames): products of the samples, summed over each frame."""

    @property
    def frames(self) -> int:
        """Frames in which any of the mixes has speech."""
        return int(np.count_nonzero(self.speech.any(axis=0)))

    @property
    def is_enough(self) -> bool:
        """Whether further audio cannot change the choice."""
        return self.frames >= ENOUGH_FRAMES


def choose_mix(evidence: Evidence, *, is_split: bool = False) -> str:
    """Return the mix of a track in which its speech is clearest.

    `is_split`: SPLIT for two channels, unless both have the same speech.
    """
    if len(evidence.mixes) == 1:
        return evidence.mixes[0]
    if evidence.mixes == SPLIT_MIXES:
        return SPLIT if is_split and not _are_alike(evidence) else _choose_stereo(evidence)
    return _choose_surround(evidence)


def _are_alike(evidence: Evidence) -> bool:
    """Return whether two channels have the same speech, upright or inverted, about as loud; one may leak into the other."""
    spoken = evidence.power[:, :, evidence.speech.any(axis=0)].sum(axis=2)
    quieter, louder = sorted((spoken[0, 0], spoken[1, 1]))
    return bool(quieter > _LOUD * louder and abs(spoken[0, 1]) > _ALIKE * np.sqrt(quieter * louder))


def _choose_stereo(evidence: Evidence) -> Mix:
    left, right = evidence.speech
    spoken = evidence.power[:, :, left | right].sum(axis=2)
    if spoken[0, 1] < _CANCELLED * np.sqrt(spoken[0, 0] * spoken[1, 1]):
        # Their difference would cancel speech that is upright in both later.
        return "left" if spoken[0, 0] >= spoken[1, 1] else "right"
    for here, there in ((0, 1), (1, 0)):
        if np.count_nonzero(evidence.speech[here]) > _DOMINANT * np.count_nonzero(evidence.speech[there]):
            # The other channel may have speech later; while it is quiet nothing is lost by keeping it.
            return evidence.mixes[here] if spoken[there, there] > _LOUD * spoken[here, here] else "sum"
    return "stereo"


def _choose_surround(evidence: Evidence) -> Mix:
    centre, others = evidence.speech
    elsewhere = np.count_nonzero(others & ~centre)
    if 4 * elsewhere > np.count_nonzero(centre):
        return "surround"
    spoken = evidence.power[:, :, centre].sum(axis=2)
    others_power = spoken[1, 1] / _SURROUNDINGS_LEVEL**2
    return "centre" if others_power > _DOUBTFUL * spoken[0, 0] else "surround"


def is_cancelled(mixed: NDArray[np.int16], difference: NDArray[np.int16]) -> bool:
    """Return whether some of two channels' audio cancels in their mix, given the same samples of both, (n,)."""
    samples = len(mixed) // FRAME * FRAME
    power, cancelled = (
        np.square(pcm[:samples].reshape(-1, FRAME), dtype=np.float32).mean(axis=1)
        for pcm in (mixed, difference)
    )
    # Of two channels equally loud, with this correlation, the powers have this ratio.
    ratio = (1 - _CANCELLED) / (1 + _CANCELLED)
    return bool(np.count_nonzero((cancelled > _QUIET) & (cancelled > ratio * power)) >= _MIN_CANCELLED_FRAMES)


def choose_track(speech_frames: Sequence[int]) -> int | None:
    """Return the first track with much speech, given the frames of speech of each; None: no track has any.

    A track with a quarter of the most speech has much: a little may be an error of the VAD.
    """
    most = max(speech_frames, default=0)
    return next((at for at, frames in enumerate(speech_frames) if frames and 4 * frames >= most), None)


def order_tracks(tracks: Sequence[AudioTrack], wanted: str, language: str | None) -> tuple[AudioTrack, ...]:
    """Return the tracks to transcribe, the preferred one first; raises ValueError if there is none.

    `wanted`: the number of a track, a language, or "auto": first tracks in `language`, then those that are not commentary,
    then the default one. Tracks without a decoder are left out.
    """
    usable = [track for track in tracks if track.codec]
    if wanted.isdecimal():
        found = [track for track in usable if track.number == int(wanted)]
    elif wanted == "auto":
        found = usable
    else:
        found = [track for track in usable if is_in(track.language, wanted)]
    if found:
        return tuple(
            sorted(
                found,
                key=lambda track: (
                    not (language and is_in(track.language, language)),
                    _is_secondary(track),
                    "default" not in track.flags,
                    track.number,
                ),
            )
        )
    if wanted == "auto":
        raise ValueError("its audio format has no decoder; convert it to another format")
    count = f"{len(tracks)} audio track{'' if len(tracks) == 1 else 's'}"
    listed = f"the file has {count}: {'; '.join(track.summary for track in tracks)}"
    if not wanted.isdecimal():
        language_name = (name_of(wanted) or wanted).title()
        raise ValueError(f"audio_track = {wanted!r}: no audio track is in {language_name}; {listed}")
    if any(track.number == int(wanted) for track in tracks):
        raise ValueError(f"audio_track = {wanted}: its format has no decoder; {listed}")
    raise ValueError(f"audio_track = {wanted}: {listed}")


def split_tracks(
    tracks: Sequence[AudioTrack], found: Sequence[tuple[int, Evidence]]
) -> list[tuple[int, Evidence]]:
    """Return the tracks with different speech, given the number and evidence of those with an order, the preferred one first.

    Commentary beside the programme is left out, as are tracks in another language than that of the first, copies and silence.
    """
    spoken = [(number, evidence) for number, evidence in found if evidence.frames]
    first = tracks[spoken[0][0] - 1] if spoken else None
    kept: list[tuple[int, Evidence]] = []
    for number, evidence in spoken:
        track = tracks[number - 1]
        is_other_language = first and first.language and track.language and track.language != first.language
        if is_other_language or (first and _is_secondary(track) != _is_secondary(first)):
            continue
        if not any(_is_copy(evidence, other) for _, other in kept):
            kept.append((number, evidence))
    return sorted(kept, key=lambda one: one[0])


def _is_copy(one: Evidence, other: Evidence) -> bool:
    """Return whether two tracks are as loud at the same times: the same sound, encoded twice."""
    levels = [np.sqrt(np.einsum("aaf->f", evidence.power)) for evidence in (one, other)]
    frames = min(map(len, levels)) - 2 * _MAX_SHIFT
    if frames < 2 * _MAX_SHIFT:
        return False
    middle = levels[0][_MAX_SHIFT : _MAX_SHIFT + frames]
    shifted = (levels[1][shift : shift + frames] for shift in range(2 * _MAX_SHIFT + 1))
    return any(_correlation(middle, part) > _ALIKE for part in shifted)


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    one, other = one - one.mean(), other - other.mean()
    scale = np.sqrt(one.dot(one) * other.dot(other))
    return float(one.dot(other) / scale) if scale else 0.0


def _is_secondary(track: AudioTrack) -> bool:
    return bool(_SECONDARY_FLAGS.intersection(track.flags) or _SECONDARY_TITLE.search(track.title))
