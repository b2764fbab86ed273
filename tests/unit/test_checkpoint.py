"""What a model's name and files tell before it is loaded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from subtitled.asr.model import DEFAULT_BATCH, MAX_BATCH, Streams, batch_size_for, locate, streams_within
from subtitled.config.model_files import can_translate, fault_of, is_folder, is_transformers

if TYPE_CHECKING:
    from pathlib import Path

GB = 10**9


def checkpoint(folder: Path, **more: Any) -> Path:
    """Make a folder as Transformers saves a Whisper model."""
    folder.mkdir()
    config = {"model_type": "whisper", "vocab_size": 51_865, "decoder_layers": 4, "num_mel_bins": 80, **more}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    (folder / "model-00001-of-00002.safetensors").touch()
    (folder / "tokenizer.json").touch()
    return folder


def converted(folder: Path, *, tokens: int = 51_865, layers: int = 4, mels: int = 80) -> Path:
    """Make a folder as CTranslate2's converter leaves it."""
    folder.mkdir()
    heads = [[layer, 0] for layer in range(layers // 2, layers)]
    (folder / "config.json").write_text(json.dumps({"alignment_heads": heads}), "utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": mels}), "utf-8")
    (folder / "vocabulary.json").write_text(json.dumps(["word"] * tokens), "utf-8")
    (folder / "tokenizer.json").touch()
    (folder / "model.bin").touch()
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "large-v3-turbo",
        "turbo",
        "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
        "someone/turbo-finnish",
        "distil-large-v3",
        "Systran/faster-distil-whisper-large-v2",
        "tiny.en",
        "Systran/faster-whisper-small.en",
    ],
)
def test_models_that_cannot_translate_are_known_by_name(name: str) -> None:
    assert not can_translate(name)


@pytest.mark.parametrize(
    "name", ["large-v3", "medium", "demo", "Systran/faster-whisper-tiny", "me/turbocharged", "distillery"]
)
def test_others_may_be_asked(name: str) -> None:
    assert can_translate(name)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, True),
        ({"layers": 32, "mels": 128, "tokens": 51_866}, True),
        ({"layers": 4, "mels": 128, "tokens": 51_866}, False),
        ({"layers": 2, "mels": 128, "tokens": 51_866}, False),
        ({"tokens": 51_864}, False),
    ],
)
def test_a_folder_is_known_by_its_files(facts: dict[str, int], expected: bool, tmp_path: Path) -> None:
    """Whatever it is called: tiny, large-v3, turbo, distil-large-v3, tiny.en."""
    assert can_translate(str(converted(tmp_path / "model", **facts))) is expected


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, True),
        ({"decoder_layers": 4, "num_mel_bins": 128, "vocab_size": 51_866}, False),
        ({"vocab_size": 51_864}, False),
    ],
)
def test_a_checkpoint_is_known_by_its_configuration(
    facts: dict[str, int], expected: bool, tmp_path: Path
) -> None:
    assert can_translate(str(checkpoint(tmp_path / "model", **facts))) is expected


@pytest.mark.parametrize("heads", [None, [], 7, [[1]], "xy", [["a", "b"]]])
def test_a_configuration_that_makes_no_sense_is_no_reason_to_refuse(heads: object, tmp_path: Path) -> None:
    folder = converted(tmp_path / "model", mels=128)
    (folder / "config.json").write_text(json.dumps({"alignment_heads": heads}), "utf-8")
    (folder / "vocabulary.json").write_text("7", "utf-8")
    assert can_translate(str(folder))


def test_the_bundled_model_is_whole_and_may_translate() -> None:
    folder = locate("demo")
    assert fault_of(folder) is None
    assert can_translate(str(folder))


def test_a_checkpoint_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "fine tuned")
    assert is_transformers(folder)
    why = fault_of(folder)
    assert why is not None
    assert (
        f"ct2-transformers-converter --model '{folder}' --output_dir '{folder}-ct2' "
        "--copy_files tokenizer.json --quantization float16"
    ) in why
    (folder / "tokenizer.json").unlink()
    assert "it has no tokenizer.json" in str(fault_of(folder))


def test_other_folders_are_refused_with_what_they_lack(tmp_path: Path) -> None:
    assert "no such folder" in str(fault_of(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text("[]", "utf-8")
    assert "the folder has no model.bin, tokenizer.json" in str(fault_of(tmp_path))
    assert not is_transformers(tmp_path)
    assert fault_of(converted(tmp_path / "good")) is None


def test_paths_are_folders_and_names_are_not() -> None:
    assert is_folder("/models/x")
    assert is_folder("./x")
    assert not is_folder("small")
    assert not is_folder("Systran/faster-whisper-tiny")


@pytest.mark.parametrize(
    ("free_gb", "model_gb", "size"),
    [
        (78, 1.6, MAX_BATCH),
        (22, 1.6, MAX_BATCH),
        (22, 3.1, 20),
        (8, 1.6, 13),
        (4, 3.1, 3),
        (0.1, 3.1, 1),
        (4, 0.08, MAX_BATCH),
    ],
)
def test_a_batch_is_what_the_free_memory_has_room_for(free_gb: float, model_gb: float, size: int) -> None:
    assert batch_size_for(int(free_gb * GB), int(model_gb * GB)) == size
    assert 1 <= size <= MAX_BATCH
    assert DEFAULT_BATCH <= MAX_BATCH


@pytest.mark.parametrize(
    ("windows", "threads", "batch_size", "streams"),
    [
        (1000, 2, 16, Streams(2, 16)),
        (1000, 64, 16, Streams(16, 16)),
        (24, 4, 16, Streams(4, 6)),  # smaller batches before fewer
        (17, 16, 16, Streams(4, 4)),  # four threads for each
        (3, 2, 16, Streams(1, 3)),
        (0, 2, 16, Streams(1, 1)),
        (6, 8, 1, Streams(4, 1)),  # two threads for each
    ],
)
def test_each_thread_of_a_cpu_has_batches_of_its_own(
    windows: int, threads: int, batch_size: int, streams: Streams
) -> None:
    found = streams_within(windows * 100, 100, threads, batch_size)
    assert found == streams
    assert found.count * found.batch_size <= max(1, windows)


def test_each_stream_has_room_to_encode_a_window() -> None:
    assert streams_within(4 * 900, 100, 4, 16, encoding_bytes=500) == Streams(4, 4)
    assert streams_within(4 * 900 - 1, 100, 4, 16, encoding_bytes=500) == Streams(2, 12)


def test_another_model_has_no_more_streams_than_its_worker() -> None:
    assert streams_within(100_000, 100, 8, 16, most=2) == Streams(2, 16)
    assert streams_within(100_000, 100, 8, 16, most=1) == Streams(1, 16)
