"""The memory of models on a CPU, and how many batches it has room for."""

from __future__ import annotations

from pathlib import Path

import pytest

from subtitled.asr import memory, model
from subtitled.asr.model import Streams, cpu_streams, load, locate
from subtitled.asr.model_size import ModelSize, read_size
from subtitled.errors import ModelError

GB = 10**9
BASE = ModelSize(145_217_607, 72_603_147, decoder_layers=6, width=512)
TURBO = ModelSize(1_617_000_000, 809_000_000, decoder_layers=4, width=1280)
LARGE = ModelSize(3_087_000_000, 1_543_000_000, decoder_layers=32, width=1280)


def test_sizes_are_read_from_the_weights() -> None:
    folder = locate("demo")
    size = read_size(folder)
    assert (size.decoder_layers, size.width) == (3, 192)
    # One byte a weight, but for some that are not quantized.
    assert size.file_bytes == (folder / "model.bin").stat().st_size
    assert 0.8 * size.file_bytes < size.parameters < size.file_bytes
    assert size.weights_bytes("float32") == 4 * size.weights_bytes("int8")


@pytest.mark.parametrize("kept", [0, 3, 30, 1000])
def test_a_truncated_file_is_an_error(tmp_path: Path, kept: int) -> None:
    whole = (locate("demo") / "model.bin").read_bytes()
    (tmp_path / "model.bin").write_bytes(whole[:kept])
    with pytest.raises(ValueError, match=r"model.bin: ends inside the header of a weight"):
        read_size(tmp_path)


def test_an_absurd_number_of_weights_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"\x06\0\0\0\1\0x\1\0\0\0\xff\xff\xff\xff")
    with pytest.raises(ValueError, match="4294967295 weights"):
        read_size(tmp_path)


def header(*weights: tuple[bytes, bytes], version: int = 6) -> bytes:
    """Return a model.bin: its weights' names, and what follows them."""
    start = version.to_bytes(4, "little") + b"\1\0x\1\0\0\0" + len(weights).to_bytes(4, "little")
    return start + b"".join(len(name).to_bytes(2, "little") + name + rest for name, rest in weights)


@pytest.mark.parametrize(("version", "length"), [(6, 8), (3, 4)])
def test_the_length_of_a_weight_depends_on_the_version(tmp_path: Path, version: int, length: int) -> None:
    """Since version 4 it is in bytes, before that in numbers."""
    one = b"\1\4\0\0\0" + b"\2" + length.to_bytes(4, "little") + bytes(8)
    (tmp_path / "model.bin").write_bytes(header((b"a", one), (b"decoder/layer_0/b", one), version=version))
    size = read_size(tmp_path)
    assert (size.parameters, size.decoder_layers) == (8, 1)


def test_hostile_headers_are_errors_or_harmless(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(header((b"a", b"\xff" + bytes(2000))))
    with pytest.raises(ValueError, match="255 dimensions"):
        read_size(tmp_path)
    scalar = b"\0" + b"\0\0\0\0\0"
    (tmp_path / "model.bin").write_bytes(header((b"decoder/position_encodings/encodings", scalar)))
    assert read_size(tmp_path).width == 0


def streams(
    monkeypatch: pytest.MonkeyPatch,
    size: ModelSize,
    free_gb: float,
    *,
    threads: int,
    batch_size: int = 16,
    compute_type: str = "int8",
) -> Streams:
    """Return the streams of a model on a CPU with so much free memory."""
    monkeypatch.setattr(memory, "free_bytes", lambda _: int(free_gb * GB))
    monkeypatch.setattr("os.cpu_count", lambda: threads)
    monkeypatch.setattr(model, "read_size", lambda _: size)
    return cpu_streams(
        "demo", threads=threads, batch_size=batch_size, compute_type=compute_type, is_text=False
    )


@pytest.mark.parametrize(
    ("size", "free_gb", "threads", "found"),
    [
        (BASE, 16, 2, Streams(2, 16)),
        (BASE, 3, 2, Streams(2, 6)),
        (BASE, 0.5, 2, Streams(1, 1)),
        (TURBO, 15, 4, Streams(4, 7)),
        (TURBO, 7, 4, Streams(2, 4)),
        (TURBO, 6, 4, Streams(1, 11)),
        (TURBO, 60, 16, Streams(16, 9)),
        (LARGE, 15, 4, Streams(1, 4)),
        (LARGE, 60, 16, Streams(4, 5)),
    ],
)
def test_streams_and_batches_follow_the_free_memory(
    monkeypatch: pytest.MonkeyPatch, size: ModelSize, free_gb: float, threads: int, found: Streams
) -> None:
    assert streams(monkeypatch, size, free_gb, threads=threads) == found


@pytest.mark.parametrize("compute_type", ["int8", "float32"])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
@pytest.mark.parametrize("size", [BASE, TURBO, LARGE])
def test_weights_and_batches_fit_into_half_of_the_free_memory(
    monkeypatch: pytest.MonkeyPatch, size: ModelSize, batch_size: int, compute_type: str
) -> None:
    for free_gb in (4, 6, 8, 10, 14, 20, 40, 80):
        found = streams(
            monkeypatch, size, free_gb, threads=8, batch_size=batch_size, compute_type=compute_type
        )
        if found.count == 1:
            continue
        weights = 2 * size.weights_bytes(compute_type)
        batches = found.count * (found.batch_size * size.window_bytes + size.encoding_bytes)
        assert weights + max(size.file_bytes, batches) <= free_gb * GB / 2


def test_a_cpu_with_unknown_memory_decodes_one_batch_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _: None)
    assert cpu_streams("demo", threads=8, batch_size=0, compute_type="auto", is_text=False) == Streams(1, 8)


def test_a_damaged_model_is_reported(tmp_path: Path) -> None:
    for file in locate("demo").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.bin").write_bytes(b"\x06\0\0\0")
    with pytest.raises(ModelError):
        load(str(tmp_path), device="cpu", compute_type="int8", cpu_threads=1)
    found = cpu_streams(str(tmp_path), threads=2, batch_size=0, compute_type="auto", is_text=False)
    assert found == Streams(1, 8)
