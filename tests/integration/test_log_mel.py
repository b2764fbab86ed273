"""The features are those of faster-whisper."""

from __future__ import annotations

import numpy as np
import pytest
from faster_whisper.feature_extractor import FeatureExtractor

import media
from subtitled.asr.log_mel import log_mel

RATE = 16_000


@pytest.mark.parametrize("bins", [80, 128])
def test_features_equal_those_of_faster_whisper(bins: int) -> None:
    extractor = FeatureExtractor(feature_size=bins)
    loud_end = np.concatenate([np.zeros(RATE + 80, np.int16), np.full(80, 32_767, np.int16)])
    sounds = [
        *media.mixtures().values(),
        *(media.noise(2 * RATE, level) for level in (1, 100, 30_000)),
        *(media.noise(length) for length in (1, 159, 160, 161, 399, 40_960, 41_119)),
        loud_end,
    ]
    for pcm in sounds:
        expected = extractor(pcm.astype(np.float32) / 32768.0)[..., :-1]
        found = log_mel(pcm, extractor.mel_filters)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
