"""How much memory a model takes on a CPU, from the header of each weight in its model.bin."""

from __future__ import annotations

import re
from pathlib import Path
from struct import Struct as Format
from typing import BinaryIO

from msgspec import Struct

BYTES_PER_PARAMETER = {"int8": 1, "int8_float32": 1, "int16": 2, "bfloat16": 2, "int8_bfloat16": 1}
"""By compute type; all others are float32 on a CPU."""
FLOAT = 4
ENCODER_FRAMES = 1500
"""The encoder's output for 30 s."""
HEAD_WIDTH = 64
"""The same in all Whisper models."""
BEAMS = 5
TOKENS = 224
"""Maximum tokens of a window's text."""
VOCABULARY = 51_866

_COUNT, _LENGTH, _RANK, _CONTENT = Format("<I"), Format("<H"), Format("<B"), Format("<BI")
_DECODER_LAYER = re.compile(rb"decoder/layer_(\d{1,4})/")
_LARGEST_COUNT = 100_000
"""No model has so many weights."""
_LARGEST_RANK = 8
_BYTES_SINCE = 4
"""The version since which the size of a weight is in bytes; before, it is the size of a number and how many there are."""


class ModelSize(Struct, frozen=True):
    """The sizes from which a model's memory follows."""

    file_bytes: int
    parameters: int
    decoder_layers: int
    width: int
    """Of the encoder's output, and of every layer."""

    def weights_bytes(self, compute_type: str) -> int:
        """Return the memory of its weights."""
        return self.parameters * BYTES_PER_PARAMETER.get(compute_type, FLOAT)

    @property
    def window_bytes(self) -> int:
        """The memory of a window while its text is searched: the attention's keys and values, and the scores of all tokens."""
        keys_and_values = 2 * FLOAT * self.decoder_layers * self.width
        # Those of earlier tokens are copied at each step.
        attention = keys_and_values * (ENCODER_FRAMES + 2 * BEAMS * TOKENS)
        return attention + 2 * FLOAT * (ENCODER_FRAMES * self.width + BEAMS * VOCABULARY)

    @property
    def encoding_bytes(self) -> int:
        """The memory of a window while it is encoded: the attention of all heads."""
        return FLOAT * ENCODER_FRAMES**2 * self.width // HEAD_WIDTH


def read_size(folder: Path) -> ModelSize:
    """Return the sizes of the CTranslate2 model in a folder; raises OSError, and ValueError for a file of another format.

    A model.bin is its version, the name of its kind, and its weights: the name, the dimensions and the data of each.
    """
    path = folder / "model.bin"
    parameters, width = 0, 0
    layers: set[bytes] = set()
    with path.open("rb") as file:
        [version] = _read(file, _COUNT)
        _name(file)
        _read(file, _COUNT)
        [count] = _read(file, _COUNT)
        if count > _LARGEST_COUNT:
            raise ValueError(f"{path}: {count} weights; at most {_LARGEST_COUNT} are expected")
        for _ in range(count):
            name = _name(file)
            [rank] = _read(file, _RANK)
            if rank > _LARGEST_RANK:
                raise ValueError(
                    f"{path}: a weight has {rank} dimensions; at most {_LARGEST_RANK} are expected"
                )
            dimensions = Format(f"<{rank}I").unpack(_bytes(file, 4 * rank))
            item, length = _read(file, _CONTENT)
            file.seek(length if version >= _BYTES_SINCE else item * length, 1)
            size = 1
            for dimension in dimensions:
                size *= dimension
            parameters += size
            if dimensions and name.startswith(b"decoder/position_encodings/encodings"):
                width = dimensions[-1]
            if found := _DECODER_LAYER.match(name):
                layers.add(found[1])
    return ModelSize(path.stat().st_size, parameters, len(layers), width)


def _name(file: BinaryIO) -> bytes:
    [length] = _read(file, _LENGTH)
    return _bytes(file, length)


def _read(file: BinaryIO, form: Format) -> tuple[int, ...]:
    return form.unpack(_bytes(file, form.size))


def _bytes(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise ValueError(f"{file.name}: ends inside the header of a weight")
    return data
