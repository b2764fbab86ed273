"""PCM as FLAC and back."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from subtitled.errors import AudioTransferError
from subtitled.workers.flac import HEADER_BYTES, MAX_SAMPLES, decode, encode

SAMPLE = st.integers(-(2**15), 2**15 - 1)


def pcm_of(*, samples: int, loudness: float = 3000.0, seed: int = 0) -> bytes:
    noise = np.random.default_rng(seed).normal(0, loudness, samples)
    return noise.clip(-(2**15), 2**15 - 1).astype("<i2").tobytes()


@given(st.lists(SAMPLE, min_size=1, max_size=5000))
@settings(max_examples=50, deadline=None)
def test_any_samples_are_restored_exactly(samples: list[int]) -> None:
    assert decode(encode(np.array(samples, "<i2").tobytes())).tolist() == samples


@pytest.mark.parametrize("loudness", [0.0, 1.0, 1000.0, 1e6], ids=["silence", "quiet", "loud", "clipped"])
def test_longest_segment_is_restored_exactly(loudness: float) -> None:
    pcm = pcm_of(samples=MAX_SAMPLES, loudness=loudness)
    assert decode(encode(memoryview(pcm))).tobytes() == pcm


def test_empty_or_too_long_audio_is_not_encoded() -> None:
    for samples in (0, MAX_SAMPLES + 1):
        with pytest.raises(ValueError, match=f"{samples} samples; a segment has 1 to 480000"):
            encode(bytes(2 * samples))


@pytest.mark.parametrize("form", ["WAV", "OGG", "AIFF"])
def test_no_other_format_is_decoded(form: str) -> None:
    """Libsndfile reads two dozen, each with a parser of its own."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(1000, np.int16), 16_000, format=form)
    with pytest.raises(AudioTransferError, match="without a FLAC header"):
        decode(file.getvalue())


@pytest.mark.parametrize(
    ("rate", "channels", "subtype"), [(8_000, 1, "PCM_16"), (16_000, 2, "PCM_16"), (16_000, 1, "PCM_24")]
)
def test_flac_of_another_kind_is_rejected_with_its_properties(rate: int, channels: int, subtype: str) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros((1000, channels), np.int16), rate, subtype, format="FLAC")
    with pytest.raises(
        AudioTransferError, match=f"FLAC of {rate} Hz, {channels} channels, {subtype[-2:]} bits"
    ):
        decode(file.getvalue())


def test_an_hour_of_silence_in_few_bytes_is_rejected_before_decoding() -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(3600 * 16_000, np.int16), 16_000, "PCM_16", format="FLAC")
    assert len(file.getvalue()) < 2**18
    with pytest.raises(AudioTransferError, match="FLAC of 57600000 samples; a segment has 1 to 480000"):
        decode(file.getvalue())


def test_header_with_too_few_samples_gets_no_more_memory() -> None:
    flac = bytearray(encode(pcm_of(samples=MAX_SAMPLES)))
    flac[22:26] = (100).to_bytes(4, "big")  # the low bytes of the number of samples
    with pytest.raises(AudioTransferError, match="the checksum does not match"):
        decode(bytes(flac))


def test_stream_cut_at_any_place_is_rejected() -> None:
    flac = encode(pcm_of(samples=20_000))
    for kept in (*range(0, HEADER_BYTES + 60, 7), *range(100, len(flac), 997), len(flac) - 1):
        with pytest.raises(AudioTransferError):
            decode(flac[:kept])


@given(place=st.integers(0, 10**6), bits=st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_changed_byte_never_changes_a_sample(place: int, bits: int) -> None:
    """It is refused, unless it was one that says nothing, as in the encoder's name."""
    pcm = pcm_of(samples=3000)
    flac = bytearray(encode(pcm))
    flac[place % len(flac)] ^= bits
    with contextlib.suppress(AudioTransferError):
        assert decode(bytes(flac)).tobytes() == pcm


@given(st.binary(max_size=300))
def test_noise_is_rejected(noise: bytes) -> None:
    for blob in (noise, encode(bytes(2))[:HEADER_BYTES] + noise):
        with pytest.raises(AudioTransferError):
            decode(blob)
