"""Makes vad.json: what the silero-vad package's own code finds in the recordings of tests/media.py.

Run once, in an environment of its own, since the package's code needs torch (made with torch 2.13.0,
silero-vad 6.2.3, onnxruntime 1.32.0, NumPy 2.4.6):

    PYTHONPATH=tests:daemon python tests/data/make_vad_reference.py

`recordings`: the spans that `get_speech_timestamps` gives with the per-frame model `silero_vad.onnx`.
`probabilities`: those that the package's model for whole recordings gives for the frames of a recording's start.
`verdicts`: the spans that `get_speech_timestamps_from_probs` gives for made-up probabilities, in percent.
"""

from __future__ import annotations

import json
import random
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import torch
from silero_vad import get_speech_timestamps, load_silero_vad
from silero_vad.utils_vad import get_speech_timestamps_from_probs

import media

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXACT, EXACT_FRAMES = "in noise", 500
"""The recording whose probabilities are kept, and how many."""
SETTINGS = (
    {"threshold": 0.5, "min_speech_ms": 100, "min_silence_ms": 160, "pad_ms": 200},
    {"threshold": 0.5, "min_speech_ms": 250, "min_silence_ms": 100, "pad_ms": 30},
    {"threshold": 0.3, "min_speech_ms": 0, "min_silence_ms": 0, "pad_ms": 0},
    {"threshold": 0.7, "min_speech_ms": 300, "min_silence_ms": 500, "pad_ms": 700},
)


def arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """Return our settings in the package's words."""
    return {
        "threshold": settings["threshold"],
        "min_speech_duration_ms": settings["min_speech_ms"],
        "min_silence_duration_ms": settings["min_silence_ms"],
        "speech_pad_ms": settings["pad_ms"],
    }


def pairs(spans: list[dict[str, int]]) -> list[list[int]]:
    """Return spans as [start, end]."""
    return [[span["start"], span["end"]] for span in spans]


def probabilities(pcm: NDArray[np.int16]) -> list[float]:
    """Return the probability of speech in each whole frame, from the package's model for whole recordings."""
    session = onnxruntime.InferenceSession(files("silero_vad.data") / "silero_vad_16k_sequence.onnx")
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(pcm, (64, 0)), 64 + 512)[::512]
    state = np.zeros((1, 1, 128), np.float32)
    inputs = {"input": frames / np.float32(32768), "h": state, "c": state}
    return [round(float(value), 6) for value in session.run(["speech_probs"], inputs)[0]]


def main() -> None:
    """Write vad.json beside this file."""
    model = load_silero_vad(onnx=True)
    recordings = []
    for name, pcm in media.mixtures().items():
        audio = torch.from_numpy(pcm.astype("float32") / 32768)
        for settings in SETTINGS:
            spans = pairs(get_speech_timestamps(audio, model, **arguments(settings)))
            recordings.append({"name": name, "settings": settings, "spans": spans})
    dice = random.Random(1)
    verdicts = []
    for _ in range(150):
        settings = {
            "threshold": dice.choice([0.005, 0.1, 0.3, 0.5, 0.5, 0.9]),
            "min_speech_ms": dice.choice([0, 32, 64, 100, 250]),
            "min_silence_ms": dice.choice([0, 32, 100, 160, 200]),
            "pad_ms": dice.choice([0, 1, 10, 16, 30, 100, 200, 500]),
        }
        percent: list[int] = []
        while len(percent) < dice.choice([1, 20, 60, 120]):
            percent += [dice.choice([0, 1, 20, 36, 45, 60, 99, dice.randrange(100)])] * dice.randint(1, 9)
        samples = len(percent) * 512 - dice.choice([0, 1, 300, 511])
        spans = get_speech_timestamps_from_probs(
            [value / 100 for value in percent], audio_length_samples=samples, **arguments(settings)
        )
        verdicts.append({"settings": settings, "percent": percent, "samples": samples, "spans": pairs(spans)})
    exact = {"name": EXACT, "values": probabilities(media.mixtures()[EXACT][: EXACT_FRAMES * 512])}
    lines = [
        "{",
        f'"made_by": {json.dumps((__doc__ or "").strip())},',
        f'"probabilities": {json.dumps(exact)},',
    ]
    for name, cases in (("recordings", recordings), ("verdicts", verdicts)):
        lines += [f'"{name}": [', ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)]
        lines.append("]," if name == "recordings" else "]")
    Path(__file__).with_name("vad.json").write_text("\n".join([*lines, "}", ""]))


if __name__ == "__main__":
    main()
