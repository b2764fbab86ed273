from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from subtitle.messages import LayoutOptions
from subtitled.config import checks, schema
from subtitled.config.checks import layout_of
from subtitled.config.load import load_config, to_toml
from subtitled.config.schema import (
    Config,
    InboxConfig,
    ListenConfig,
    LogConfig,
    ModelConfig,
    PoolConfig,
    StateConfig,
)
from subtitled.errors import ConfigError, ExitCode

_ROOT = Path(__file__).parents[2]


def faults_of(
    text: str, tmp_path: Path, environ: dict[str, str] | None = None, *, check_paths: bool = False
) -> list[str]:
    """Give the faults of a configuration file with `text`, the file's name replaced by FILE."""
    file = tmp_path / "subtitled.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(str(file), environ or {}, check_paths=check_paths)
    return [fault.replace(str(file), "FILE") for fault in caught.value.faults]


def one_fault(text: str, tmp_path: Path, *, check_paths: bool = False) -> str:
    (fault,) = faults_of(text, tmp_path, check_paths=check_paths)
    return fault


def loaded(
    text: str, tmp_path: Path, environ: dict[str, str] | None = None, *, check_paths: bool = False
) -> Config:
    file = tmp_path / "subtitled.toml"
    file.write_text(text, encoding="utf-8")
    return load_config(str(file), environ or {}, check_paths=check_paths)


# What is read


def test_nothing_set_gives_the_defaults() -> None:
    assert load_config(None, {}, check_paths=False) == Config()


def test_a_file_overrides_defaults_and_the_environment_overrides_the_file(tmp_path: Path) -> None:
    text = '[model]\nname = "small"\nbeam_size = 1\n[vad]\nthreshold = 0.3\n'
    got = loaded(text, tmp_path, {"SUBTITLED_MODEL__NAME": "demo", "SUBTITLED_LOG__LEVEL": "debug"})
    assert got.model == ModelConfig(name="demo", beam_size=1)
    assert got.vad.threshold == 0.3
    assert got.log == LogConfig(level="debug")


def test_the_environment_is_read_as_toml_except_where_text_is_wanted() -> None:
    environ = {
        "SUBTITLED_MODEL__NAME": "5/6",
        "SUBTITLED_MODEL__BATCH_SIZE": "8",
        "SUBTITLED_POOL__DEVICES": '["cpu", "cpu"]',
        "SUBTITLED_POOL__PREPARE_WORKERS": "auto",
        "SUBTITLED_VAD__THRESHOLD": "0.25",
        "SUBTITLED_LISTEN__METRICS": "",
        "SUBTITLED_LOG__FORMAT": '"json"',
    }
    got = load_config(None, environ, check_paths=False)
    assert (got.model.name, got.model.batch_size) == ("5/6", 8)
    assert got.pool == PoolConfig(devices=("cpu", "cpu"), prepare_workers="auto")
    assert (got.vad.threshold, got.listen.metrics, got.log.format) == (0.25, "", "json")


def test_the_environment_sets_the_whole_list_of_inboxes() -> None:
    environ = {"SUBTITLED_INBOX": '[{path = "/a", output = "/b"}, {path = "/c", output = "beside"}]'}
    got = load_config(None, environ, check_paths=False)
    assert got.inbox == (InboxConfig(path="/a", output="/b"), InboxConfig(path="/c", output="beside"))


def test_there_may_be_no_inbox(tmp_path: Path) -> None:
    assert loaded("inbox = []", tmp_path).inbox == ()


def test_variables_without_a_section_are_ignored() -> None:
    assert (
        load_config(None, {"SUBTITLED_CONFIG": "/x", "SUBTITLE_SERVER": "y"}, check_paths=False) == Config()
    )


def test_value_in_the_environment_cannot_set_another_key() -> None:
    with pytest.raises(ConfigError, match=r"model\.beam_size: \".* is not allowed"):
        load_config(None, {"SUBTITLED_MODEL__BEAM_SIZE": "1\nbatch_size = 2"}, check_paths=False)


def test_one_device_becomes_a_list_of_one(tmp_path: Path) -> None:
    assert loaded('[pool]\ndevices = "cuda:0"', tmp_path).pool.devices == ("cuda:0",)
    assert loaded('[pool]\ndevices = "auto"', tmp_path).pool.devices == "auto"


@pytest.mark.parametrize(
    "device", ["cpu", "cuda:0", "cuda:15", "cuda:GPU-0f1e2d3c-0000-1111-2222-333344445555"]
)
def test_valid_devices_are_accepted(device: str, tmp_path: Path) -> None:
    assert loaded(f'[pool]\ndevices = ["{device}"]', tmp_path).pool.devices == (device,)


def test_folders_come_back_in_normal_form(tmp_path: Path) -> None:
    got = loaded('[[inbox]]\npath = "/in//a/"\noutput = "/x/../out"\n[state]\ndir = "/s/"\n', tmp_path)
    assert (got.inbox[0].path, got.inbox[0].output, got.state.dir) == ("/in/a", "/out", "/s")


# Faults of files and keys


def test_all_faults_of_a_bad_file_are_reported_at_once(tmp_path: Path) -> None:
    text = """
    colour = "red"
    model = 3
    [pool]
    devices = ["gpu0"]
    queue_mb = "many"
    [vad]
    treshold = 0.5
    pad_ms = 2.5
    [[inbox]]
    path = "/in"
    output = "/in/out"
    [[inbox]]
    path = "/in/side"
    formats = ["srt", "doc"]
    settle_s = -1
    language = "klingon"
    [listen]
    clients = ["tcp://0.0.0.0:9000", "/run/x.sock"]
    metrics = "9477"
    [state]
    dir = "state"
    """
    faults = faults_of(
        text, tmp_path, {"SUBTITLED_MODEL__NAM": "x", "SUBTITLED_SEGMENTS__MAX_SEGMENT_S": "0"}
    )
    expected = [
        'model.nam: unknown key (value: "x"); did you mean model.name? [SUBTITLED_MODEL__NAM in the environment]',
        'colour: unknown key (value: "red"); known here: model, models, decoding, pool, vad, segments, recovery, inbox, listen, remote, ray, client, uploads, url, http, webhook, state, log [FILE]',
        "model: 3 is not allowed (must be a table, started by the line [model]) [FILE]",
        'pool.queue_mb: "many" is not allowed (a whole number, 16 to 65536) [FILE]',
        "vad.treshold: unknown key (value: 0.5); did you mean vad.threshold? [FILE]",
        "vad.pad_ms: 2.5 is not allowed (a whole number, 0 to 2000) [FILE]",
        'inbox[1].formats: ["srt", "doc"] is not allowed (a list such as [A, B] of: "ass" or "json" or ',
        "inbox[1].settle_s: -1 is not allowed (0 to 3600) [FILE]",
        "segments.max_segment_s: 0 is not allowed (1 to 30) [SUBTITLED_SEGMENTS__MAX_SEGMENT_S in the environment]",
        'pool.devices: ["gpu0"] is not allowed ("auto", or a list of "cpu", "cuda:N", "cuda:GPU-uuid" or "cuda:MIG-uuid"',
        'inbox[1].language: "klingon" is not allowed ("auto", "multi" (several languages in one file), or one of af am',
        'inbox[1].path: "/in/side" is not allowed (a folder neither the same as, in, nor around inbox[0].path (/in)',
        'inbox[0].output: "/in/out" is not allowed (a folder outside it, or "beside"; inbox[0].path (/in) is watched',
        'listen.clients[0]: "tcp://0.0.0.0:9000" is not allowed (tcp:// only on loopback',
        'listen.clients[1]: "/run/x.sock" is not allowed (ipc:///absolute/path or tcp://127.0.0.1:PORT) [FILE]',
        'listen.metrics: "9477" is not allowed ("" (off), or HOST:PORT',
        'state.dir: "state" is not allowed (must be an absolute path',
    ]
    missing = [line for line in expected if not any(fault.startswith(line) for fault in faults)]
    assert not missing, "\n".join(faults)
    assert len(faults) == len(expected)


def test_error_text_contains_all_faults(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("a = 1\nb = 2\n")
    with pytest.raises(ConfigError) as caught:
        load_config(str(file), {}, check_paths=False)
    assert str(caught.value) == "\n".join(caught.value.faults)
    assert len(caught.value.faults) == 2


def test_a_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    assert re.match(r"FILE: not TOML: .*line 2", one_fault("[model]\nname = large\n", tmp_path))


def test_a_syntax_error_does_not_hide_faults_of_the_environment(tmp_path: Path) -> None:
    faults = faults_of("[model", tmp_path, {"SUBTITLED_MODEL__BEAM_SIZE": "0"})
    assert [fault.partition(":")[0] for fault in faults] == ["FILE", "model.beam_size"]


def test_a_key_given_twice_is_a_fault(tmp_path: Path) -> None:
    assert "FILE: not TOML" in one_fault("[vad]\npad_ms = 1\npad_ms = 2\n", tmp_path)


def test_a_file_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "latin1.toml"
    file.write_bytes(b"# one\n# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin1\.toml: not UTF-8 \(at line 2\)"):
        load_config(str(file), {}, check_paths=False)


def test_a_missing_file_is_a_fault_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: no such file; `subtitled config init`"):
        load_config(str(tmp_path / "absent.toml"), {}, check_paths=False)


def test_a_folder_in_place_of_the_file_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(str(tmp_path), {}, check_paths=False)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[model]\nbatch_size = 0", 'model.batch_size: 0 is not allowed ("auto", or 1 to 256) [FILE]'),
        (
            "[model]\nbatch_size = true",
            'model.batch_size: true is not allowed ("auto", or a whole number, 1 to 256) [FILE]',
        ),
        ("[model]\nname = 3", "model.name: 3 is not allowed (text in quotes) [FILE]"),
        ("[vad]\nthreshold = 1", "vad.threshold: 1 is not allowed (more than 0 and less than 1) [FILE]"),
        ("[vad]\nthreshold = nan", "vad.threshold: nan is not allowed (more than 0 and less than 1) [FILE]"),
        ("[recovery]\nlease_min_s = inf", "recovery.lease_min_s: inf is not allowed (more than 0"),
        ('[recovery]\nlease_min_s = "1"', 'recovery.lease_min_s: "1" is not allowed (a number, more than 0'),
        ("[pool]\nprepare_workers = 0", 'pool.prepare_workers: 0 is not allowed ("auto", or 1 to 64) [FILE]'),
        ("[pool]\ndevices = 2", "pool.devices: 2 is not allowed (text in quotes, or a list such as [A, B]"),
        (
            "[[inbox]]\nword_timestamps = 1",
            'inbox[0].word_timestamps: 1 is not allowed (true or false, or "auto") [FILE]',
        ),
        (
            '[[inbox]]\nafter = "burn"',
            'inbox[0].after: "burn" is not allowed ("delete" or "keep" or "move") [FILE]',
        ),
        (
            "[inbox]\npath = 3",
            "inbox: {path = 3} is not allowed (must be a list of tables, each started by the line [[inbox]]",
        ),
        ("inbox = [1]", "inbox[0]: 1 is not allowed (must be a table) [FILE]"),
        ("[log]\nlevel = 1979-05-27", "log.level: 1979-05-27 is not allowed ("),
        (
            "[state]\ndir = '/a\\u0000'".replace("'", '"'),
            'state.dir: "/a\\u0000" is not allowed (must be UTF-8 text without NUL',
        ),
    ],
)
def test_a_value_of_the_wrong_kind_or_range_says_what_is_allowed(
    text: str, fault: str, tmp_path: Path
) -> None:
    got = one_fault(text, tmp_path)
    assert got.startswith(fault), got


def test_a_path_that_is_not_utf8_is_a_fault_that_can_be_printed() -> None:
    with pytest.raises(ConfigError, match="UTF-8 text") as caught:
        load_config(None, {"SUBTITLED_STATE__DIR": os.fsdecode(b"/srv/\xff")}, check_paths=False)
    str(caught.value).encode("utf-8")


def test_key_in_the_wrong_section_gets_a_suggestion(tmp_path: Path) -> None:
    assert "did you mean model.batch_size?" in one_fault("[pool]\nbatch_size = 3", tmp_path)


def test_misspelt_section_gets_a_suggestion(tmp_path: Path) -> None:
    assert one_fault("[modle]\nname = 3", tmp_path).startswith(
        "modle: unknown key (value: {name = 3}); did you mean model?"
    )


def test_an_unknown_section_in_the_environment_is_a_fault() -> None:
    with pytest.raises(
        ConfigError,
        match=r"colour\.red: unknown key \(value: \"1\"\); known here: model, models, decoding, pool",
    ):
        load_config(None, {"SUBTITLED_COLOUR__RED": "1"}, check_paths=False)


def test_inboxes_are_set_by_variable_only_as_a_whole() -> None:
    with pytest.raises(
        ConfigError, match=r"inbox\.path: \"/x\" is not allowed \(set the whole list: SUBTITLED_INBOX="
    ):
        load_config(None, {"SUBTITLED_INBOX__PATH": "/x"}, check_paths=False)


def chinese_faults_without_opencc(folder: Path, chinese: str) -> str:
    """Return the faults of an inbox, in an interpreter that finds all packages of this one but OpenCC."""
    for package in Path(msgspec.__file__).parents[1].iterdir():
        if not package.name.startswith("opencc"):
            (folder / package.name).symlink_to(package)
    roots = [str(folder), str(_ROOT / "client"), str(_ROOT / "daemon")]
    inbox = f'[{{chinese = "{chinese}", path = "/in", output = "/out"}}]'
    program = (
        f"import sys; sys.path[:0] = {roots!r}; from subtitled.config.load import load_config; "
        f"""load_config(None, {{"SUBTITLED_INBOX": {inbox!r}}}, check_paths=False)"""
    )
    return subprocess.run(
        [sys.executable, "-S", "-c", program], capture_output=True, text=True, check=False
    ).stderr


def test_converting_chinese_without_opencc_is_a_fault_with_its_remedy(tmp_path: Path) -> None:
    faults = chinese_faults_without_opencc(tmp_path, "tw")
    assert 'inbox[0].chinese: "tw" is not allowed ("off", until OpenCC is installed: pip install' in faults


def test_inbox_with_defaults_needs_no_opencc(tmp_path: Path) -> None:
    assert chinese_faults_without_opencc(tmp_path, "auto") == ""


def test_a_command_that_cannot_be_run_is_a_fault(tmp_path: Path) -> None:
    text = folders(tmp_path) + '[webhook]\nsecret_file = "/nowhere/key"\n'
    text = text.replace("[[inbox]]\n", '[[inbox]]\non_done = ["true"]\non_failed = ["/nowhere/x"]\n')
    faults = faults_of(text, tmp_path, check_paths=True)
    assert len(faults) == 2
    assert (
        'inbox[0].on_failed: ["/nowhere/x"] is not allowed (the first item must be a program that user'
        in faults[0]
    )
    assert 'webhook.secret_file: "/nowhere/key" is not allowed (a file that user' in faults[1]


def test_fault_of_a_default_does_not_name_the_file(tmp_path: Path) -> None:
    fault = one_fault('[[inbox]]\npath = "/srv"\n', tmp_path)
    assert fault.startswith('inbox[0].output: "/srv/subtitled/outbox"')
    assert fault.endswith("[default]")


# Faults of values that only make sense together


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            '[model]\ncompute_type = "int4"',
            'model.compute_type: "int4" is not allowed (auto, default, int8, ',
        ),
        ('[model]\nname = ""', 'model.name: "" is not allowed (a Whisper size'),
        ('[pool]\ndevices = "gpu"', 'pool.devices: "gpu" is not allowed ("auto", or a list'),
        ("[pool]\ndevices = []", "pool.devices: [] is not allowed ("),
        ('[pool]\ndevices = ["auto"]', 'pool.devices: ["auto"] is not allowed ('),
        ('[pool]\ndevices = ["cuda:x"]', 'pool.devices: ["cuda:x"] is not allowed ('),
        (
            "[recovery]\nsilence_s = 2.0",
            "recovery.silence_s: 2.0 is not allowed (at least 3 x recovery.heartbeat_s",
        ),
        (
            "[segments]\nmin_speech_ms = 2000\nmax_segment_s = 2",
            "segments.min_speech_ms: 2000 is not allowed (less than segments.max_segment_s (2 s)",
        ),
        (
            "[[inbox]]\nkaraoke = true",
            'inbox[0].karaoke: true is not allowed (false, unless word_timestamps = true and "ass" is among',
        ),
        ("[[inbox]]\nformats = []", "inbox[0].formats: [] is not allowed (at least one format"),
        (
            '[[inbox]]\naudio_track = "klingon"',
            'inbox[0].audio_track: "klingon" is not allowed (the number of a track, from 1 to 1000, a language',
        ),
        ("[[inbox]]\naudio_track = 0", "inbox[0].audio_track: 0 is not allowed ("),
        (
            '[model]\nname = "bse"',
            'model.name: "bse" is not allowed (a Whisper size, a hub id such as user/model, or a folder; did you mean "base"?',
        ),
        ('[[models]]\nname = "a b"\nsource = "base"', 'models[0].name: "a b" is not allowed ('),
        (
            '[[models]]\nname = "large-v3-turbo"\nsource = "base"',
            'models[0].name: "large-v3-turbo" is not allowed (must be unique; model.name is the same',
        ),
        ('[[models]]\nname = "a"', 'models[0].source: "" is not allowed (a Whisper size, a hub id'),
        (
            '[[models]]\nname = "a"\nsource = "mediun"',
            'models[0].source: "mediun" is not allowed (a Whisper size, a hub id such as user/model, or a folder; did you mean "medium"?',
        ),
        (
            '[[models]]\nname = "a"\nsource = "whisper-large-v3"',
            'models[0].source: "whisper-large-v3" is not allowed (a Whisper size, a hub id such as user/model, or a folder; did you mean "large-v3"?',
        ),
        (
            '[[models]]\nname = "a"\nsource = "openai/whisper-base"',
            'models[0].source: "openai/whisper-base" is not allowed (a repository in CTranslate2 format; openai\'s are checkpoints of Transformers; did you mean "base"?',
        ),
        (
            '[[models]]\nname = "a"\nsource = "base"\ncompute_type = "int4"',
            'models[0].compute_type: "int4" is not allowed (auto, default, int8, ',
        ),
        (
            '[[models]]\nname = "a"\nsource = "base"\ndigest = "0"',
            'models[0].digest: "0" is not allowed ("", or 64 hexadecimal digits',
        ),
        (
            '[[models]]\nname = "a"\nsource = "base"\nlanguages = ["Klingon!"]',
            'models[0].languages: "Klingon!" is not allowed (language codes such as "de", "nan" or "hak"',
        ),
        (
            '[pool]\ndevices = ["cpu", "cpu"]\n[[models]]\nname = "a"\nsource = "base"\ndevices = ["gpu*"]',
            'models[0].devices: ["gpu*"] is not allowed (a pattern of one of the worker slots cpu0, cpu1',
        ),
        (
            '[[models]]\nname = "abc"\nsource = "base"\n[[inbox]]\nmodel = "abd"',
            'inbox[0].model: "abd" is not allowed ("", or one of large-v3-turbo, abc; did you mean "abc"?',
        ),
        (
            '[http]\nmodels = ["whisper-1=abc"]',
            'http.models[0]: "whisper-1=abc" is not allowed (NAME, or NAME=MODEL with one of large-v3-turbo',
        ),
        ('[[inbox]]\nlanguage = "xx"', 'inbox[0].language: "xx" is not allowed ("auto", "multi"'),
        (
            '[[inbox]]\ntask = "translate"',
            'inbox[0].task: "translate" is not allowed ("transcribe", since large-v3-turbo',
        ),
        (
            '[[inbox]]\ntasks = ["translate"]',
            'inbox[0].tasks: ["translate"] is not allowed ([], since large-v3-turbo',
        ),
        (
            '[model]\nname = "small"\n[[inbox]]\ntasks = ["translate", "translate"]',
            'inbox[0].tasks: ["translate", "translate"] is not allowed (each task once',
        ),
        (
            '[[inbox]]\non_done = ["", "x"]',
            'inbox[0].on_done: ["", "x"] is not allowed (a program and its arguments',
        ),
        (
            '[webhook]\nurl = "example.org/x"',
            'webhook.url: "example.org/x" is not allowed ("" (off), or a URL',
        ),
        (
            '[webhook]\nurl = "https://a:b/"',
            'webhook.url: "https://a:b/" is not allowed ("" (off), or a URL',
        ),
        (
            '[http]\norigins = ["https://app.example/path"]',
            'http.origins[0]: "https://app.example/path" is not allowed ("*", or SCHEME://HOST[:PORT] without a path)',
        ),
        ('[http]\norigins = ["*"]', 'http.origins[0]: "*" is not allowed ("*" only with http.token_file)'),
        ('[http]\nlisten = "8600"', 'http.listen: "8600" is not allowed ("" (off), or HOST:PORT'),
        (
            '[http]\nlisten = "0.0.0.0:8600"',
            'http.listen: "0.0.0.0:8600" is not allowed (only loopback (127.0.0.1, [::1]) without http.token_file',
        ),
        (
            '[http]\ntoken_file = "tokens"',
            'http.token_file: "tokens" is not allowed (must be an absolute path',
        ),
        (
            '[http]\nserver = "http://gpu"',
            'http.server: "http://gpu" is not allowed (ipc:///absolute/path or tcp://127.0.0.1:PORT',
        ),
        (
            '[webhook]\nsecret_file = "key"',
            'webhook.secret_file: "key" is not allowed (must be an absolute path',
        ),
        ('[[inbox]]\npath = "in"', 'inbox[0].path: "in" is not allowed (must be an absolute path'),
        ('[[inbox]]\noutput = "out"', 'inbox[0].output: "out" is not allowed (must be an absolute path'),
        (
            '[[inbox]]\npath = "/a"\noutput = "/a/done"',
            'inbox[0].output: "/a/done" is not allowed (a folder outside it, or "beside"; inbox[0].path (/a) is watched',
        ),
        ('[[inbox]]\npath = "/a"\noutput = "/a"', 'inbox[0].output: "/a" is not allowed (a folder outside'),
        (
            '[[inbox]]\npath = "/a"\n[[inbox]]\npath = "/b"\noutput = "/a/x"',
            'inbox[1].output: "/a/x" is not allowed (a folder outside',
        ),
        (
            '[[inbox]]\npath = "/a"\n[[inbox]]\npath = "/a/"',
            'inbox[1].path: "/a/" is not allowed (a folder neither',
        ),
        (
            '[[inbox]]\npath = "/a/b"\n[[inbox]]\npath = "/a"',
            'inbox[1].path: "/a" is not allowed (a folder neither',
        ),
        (
            '[[inbox]]\npath = "/a"\n[state]\ndir = "/a/db"',
            'state.dir: "/a/db" is not allowed (a folder outside',
        ),
        (
            '[listen]\nclients = ["ipc://x"]',
            'listen.clients[0]: "ipc://x" is not allowed (ipc:///absolute/path',
        ),
        ('[listen]\nclients = ["tcp://localhost"]', "listen.clients[0]: "),
        ('[listen]\nclients = ["tcp://127.0.0.1:0"]', "listen.clients[0]: "),
        ('[listen]\nclients = ["tcp://127.0.0.1:70000"]', "listen.clients[0]: "),
        ('[listen]\nclients = ["udp://127.0.0.1:7"]', "listen.clients[0]: "),
        ('[listen]\nworkers = "ipc:///run/subtitled/clients.sock"', "listen.workers: "),
        ('[model]\ndigest = "abc"', 'model.digest: "abc" is not allowed ("", or 64 hexadecimal digits'),
        (
            '[remote]\nlisten = "0.0.0.0:8700"',
            'remote.listen: "0.0.0.0:8700" is not allowed ("" (off), or tcp',
        ),
        ('[remote]\nlisten = "tcp://gpu"', 'remote.listen: "tcp://gpu" is not allowed ("" (off), or tcp://'),
        (
            '[listen]\nclients = ["tcp://127.0.0.1:8700"]\n[remote]\nlisten = "tcp://127.0.0.1:8700"',
            'remote.listen: "tcp://127.0.0.1:8700" is not allowed (must be unique',
        ),
        ("[remote]\nkeys = []", "remote.keys: [] is not allowed (a table such as {NAME = VALUE} of: text"),
        (
            '[remote.keys]\ngpu2 = "short"',
            'remote.keys: {gpu2 = "short"} is not allowed (a public key, as `subtitled keys new NAME --worker`',
        ),
        (
            f'[remote.keys]\n"gpu 2" = "{"a" * 40}"',
            f'remote.keys: {{"gpu 2" = "{"a" * 40}"}} is not allowed (for a name, 1 to 64 letters',
        ),
        (
            f'[remote.keys]\na = "{"a" * 40}"\nb = "{"a" * 40}"',
            f'remote.keys: {{b = "{"a" * 40}"}} is not allowed (must be unique; a has the same key',
        ),
        (
            "[ray]\nmin_workers = 9",
            "ray.min_workers: 9 is not allowed (at most ray.max_workers (8)",
        ),
        (
            '[ray]\nendpoint = "head:8700"',
            'ray.endpoint: "head:8700" is not allowed ("", or tcp://HOST:PORT',
        ),
        ('[listen]\nmetrics = "localhost:http"', 'listen.metrics: "localhost:http" is not allowed ("" (off)'),
    ],
)
def test_values_that_cannot_work_are_faults(text: str, fault: str, tmp_path: Path) -> None:
    got = one_fault(text, tmp_path)
    assert got.startswith(fault), got


def test_daemon_with_remote_workers_needs_no_device(tmp_path: Path) -> None:
    text = '[pool]\ndevices = []\n[remote]\nlisten = "tcp://0.0.0.0:8700"\n[remote.keys]\n"gpu2.lan" = '
    found = loaded(f'{text}"{"a" * 40}"\n', tmp_path)
    assert found.pool.devices == ()
    assert found.remote.keys == {"gpu2.lan": "a" * 40}
    assert loaded(to_toml(found), tmp_path) == found


def test_ray_workers_need_a_listener_and_a_reserved_name(tmp_path: Path) -> None:
    text = f'[pool]\nengine = "ray"\n[listen]\nclients = []\n[remote.keys]\nray = "{"a" * 40}"\n'
    faults = [fault for fault in faults_of(text, tmp_path) if not fault.startswith("pool.engine")]
    keys = [fault.partition(":")[0] for fault in faults]
    assert keys == ["remote.keys", "listen.clients", "remote.listen"]


@pytest.mark.parametrize(
    "endpoint", ["tcp://0.0.0.0:9000", "tcp://*:9000", "tcp://10.0.0.7:9000", "tcp://[::]:9000"]
)
def test_tcp_beyond_loopback_requires_keys(endpoint: str, tmp_path: Path) -> None:
    assert "listen.workers: " in (fault := one_fault(f'[listen]\nworkers = "{endpoint}"', tmp_path))
    assert "CURVE" in fault or "HOST:PORT" in fault


@pytest.mark.parametrize(
    "endpoint", ["tcp://127.0.0.1:9000", "tcp://localhost:9000", "tcp://[::1]:9000", "ipc:///x"]
)
def test_loopback_and_ipc_are_fine(endpoint: str, tmp_path: Path) -> None:
    assert loaded(f'[listen]\nclients = ["{endpoint}"]', tmp_path).listen.clients == (endpoint,)


@pytest.mark.parametrize("address", ["", "127.0.0.1:9477", "0.0.0.0:80", "[::]:9477", "metrics.lan:1"])
def test_metrics_may_be_served_anywhere(address: str, tmp_path: Path) -> None:
    assert loaded(f'[listen]\nmetrics = "{address}"', tmp_path).listen.metrics == address


def test_a_socket_path_over_107_bytes_is_a_fault(tmp_path: Path) -> None:
    fits, too_long = "/" + "é" * 53, "/" + "é" * 53 + "x"
    assert loaded(f'[listen]\nworkers = "ipc://{fits}"', tmp_path).listen.workers == f"ipc://{fits}"
    fault = one_fault(f'[listen]\nworkers = "ipc://{too_long}"', tmp_path)
    assert "a path of at most 107 bytes (this one has 108)" in fault


def test_task_and_language_that_another_model_can_do_are_accepted(tmp_path: Path) -> None:
    models = """
        [[models]]
        name = "translator"
        source = "large-v3"
        [[models]]
        name = "hakka"
        source = "base"
        languages = ["hak"]
        """
    assert loaded(f'{models}[[inbox]]\ntask = "translate"', tmp_path).inbox[0].task == "translate"
    assert loaded(f'{models}[[inbox]]\nlanguage = "hak"', tmp_path).inbox[0].language == "hak"


def test_models_that_can_translate_are_accepted(tmp_path: Path) -> None:
    text = '[model]\nname = "demo"\n[[inbox]]\ntask = "translate"'
    assert loaded(text, tmp_path).inbox[0].task == "translate"


# Folders


def folders(tmp_path: Path, *, inbox: str = "in", output: str = "out", state: str = "state") -> str:
    (tmp_path / "in").mkdir(exist_ok=True)
    where = {"path": tmp_path / inbox, "output": tmp_path / output}
    lines = [f'{key} = "{folder}"' for key, folder in where.items()]
    return "[[inbox]]\n" + "\n".join(lines) + f'\n[state]\ndir = "{tmp_path / state}"\n'


def test_folders_that_exist_or_can_be_created_are_accepted(tmp_path: Path) -> None:
    loaded(folders(tmp_path, state="a/b/c"), tmp_path, check_paths=True)
    assert not (tmp_path / "out").exists(), "checking makes nothing"


def test_a_missing_inbox_is_a_fault_with_its_remedy(tmp_path: Path) -> None:
    fault = one_fault(folders(tmp_path, inbox="absent"), tmp_path, check_paths=True)
    assert fault.startswith("inbox[0].path: ")
    assert f'mkdir -p "{tmp_path}/absent"' in fault


def test_an_inbox_that_is_a_file_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fault = one_fault(folders(tmp_path, inbox="file"), tmp_path, check_paths=True)
    assert "must be a folder" in fault


def test_an_output_whose_parent_is_missing_is_a_fault(tmp_path: Path) -> None:
    fault = one_fault(folders(tmp_path, output="no/such/out"), tmp_path, check_paths=True)
    assert fault.startswith("inbox[0].output: ")
    assert f'mkdir -p "{tmp_path}/no/such"' in fault


def test_a_state_folder_below_a_file_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fault = one_fault(folders(tmp_path, state="file/state"), tmp_path, check_paths=True)
    assert fault.startswith("state.dir: ")
    assert "cannot write" in fault


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folders_without_write_permission_are_faults(tmp_path: Path) -> None:
    text = folders(tmp_path, output="closed", state="closed/state")
    (tmp_path / "closed").mkdir(mode=0o500)
    (tmp_path / "in").chmod(0o500)
    faults = faults_of(text, tmp_path, check_paths=True)
    assert [fault.partition(":")[0] for fault in faults] == ["inbox[0].path", "inbox[0].output", "state.dir"]


def test_nesting_is_seen_through_symbolic_links(tmp_path: Path) -> None:
    text = folders(tmp_path, output="link/out")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    assert "is watched" in one_fault(text, tmp_path, check_paths=True)


def test_a_model_folder_must_hold_a_model(tmp_path: Path) -> None:
    text = folders(tmp_path) + f'[model]\nname = "{tmp_path}"\n'
    assert one_fault(text, tmp_path, check_paths=True).startswith("model.name: ")
    for file in ("model.bin", "config.json", "tokenizer.json"):
        (tmp_path / file).touch()
    assert loaded(text, tmp_path, check_paths=True).model.name == str(tmp_path)


# What is written


def test_the_default_file_holds_every_key_at_its_default() -> None:
    table = tomllib.loads(schema.DEFAULT_FILE.read_text(encoding="utf-8"))
    # A list of tables cannot be written empty and be added to: [[client]] and [[models]] are explained only.
    assert {**table, "client": [], "models": []} == msgspec.json.decode(msgspec.json.encode(Config()))


def test_the_default_file_loads_as_the_defaults() -> None:
    assert load_config(str(schema.DEFAULT_FILE), {}, check_paths=False) == Config()


def test_every_key_of_the_default_file_is_explained() -> None:
    lines = schema.DEFAULT_FILE.read_text(encoding="utf-8").splitlines()
    bare = [line for line in lines if re.match(r"\w+ = ", line) and not re.search(r"  # .", line)]
    assert bare == []


def test_config_subtitled_toml_is_the_default_file() -> None:
    assert (_ROOT / "config" / "subtitled.toml").read_bytes() == schema.DEFAULT_FILE.read_bytes()


_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(
    name=_TEXT.filter(len),
    folder=_TEXT,
    threshold=st.floats(1e-9, 1, exclude_max=True),
    count=st.integers(0, 3),
)
def test_emitted_toml_is_read_back_as_equal(
    name: str, folder: str, threshold: float, count: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    inboxes = tuple(
        InboxConfig(path=os.path.normpath(f"/{i}/{folder}"), output="beside") for i in range(count)
    )
    given_config = structs.replace(
        Config(),
        model=ModelConfig(name=name),
        vad=structs.replace(Config().vad, threshold=threshold),
        inbox=inboxes,
        pool=PoolConfig(devices=("cpu", "cuda:1")),
    )
    file = tmp_path_factory.getbasetemp() / "shown.toml"
    file.write_text(to_toml(given_config), encoding="utf-8", newline="")
    table: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    assert table["model"]["name"] == name
    assert [inbox["path"] for inbox in table["inbox"]] == [inbox.path for inbox in inboxes]
    assert msgspec.convert(table, Config) == given_config


def test_emitted_configuration_loads_as_equal(tmp_path: Path) -> None:
    text = '[pool]\ndevices = ["cpu"]\nprepare_workers = 2\n[[inbox]]\npath = "/a"\n[[inbox]]\npath = "/b c\\n"\n'
    once = loaded(text, tmp_path)
    assert loaded(to_toml(once), tmp_path) == once


# Copies of others' lists


def test_the_languages_are_faster_whispers() -> None:
    tokenizer = pytest.importorskip("faster_whisper.tokenizer")
    assert tokenizer._LANGUAGE_CODES == checks.LANGUAGES


def test_the_sizes_are_those_of_faster_whisper() -> None:
    utils = pytest.importorskip("faster_whisper.utils")
    assert sorted(utils._MODELS) == sorted(checks.SIZES)


def test_the_compute_types_include_all_that_ctranslate2_has() -> None:
    ctranslate2 = pytest.importorskip("ctranslate2")
    assert ctranslate2.get_supported_compute_types("cpu") <= set(checks.COMPUTE_TYPES)


def test_the_service_gives_the_daemon_what_its_defaults_need() -> None:
    unit = (_ROOT / "systemd" / "subtitled.service").read_text(encoding="utf-8")
    values = dict(re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE))
    assert ListenConfig().clients[0].startswith(f"ipc:///run/{values['RuntimeDirectory']}/")
    assert StateConfig().dir == f"/var/lib/{values['StateDirectory']}"
    assert InboxConfig().path.startswith(values["ReadWritePaths"].lstrip("-") + "/")
    assert int(values["TimeoutStopSec"]) > Config().recovery.stop_timeout_s
    assert int(values["RestartPreventExitStatus"]) == ExitCode.FATAL
    # It says that it is ready when a model is loaded, which may take a download; and it is never given up.
    assert values["TimeoutStartSec"] == "infinity"
    assert values["StartLimitIntervalSec"] == "0"


def test_layout_of_an_inbox_has_its_limits(tmp_path: Path) -> None:
    text = '[[inbox]]\nprofile = "strict"\nmax_chars = 36\nmax_chars_per_s = 15\nmin_ms = 0\n'
    (inbox,) = loaded(text, tmp_path).inbox
    assert layout_of(inbox) == LayoutOptions(profile="strict", max_chars=36, max_chars_per_s=15, min_ms=0)
    assert layout_of(schema.InboxConfig()) == LayoutOptions()


def test_contradicting_layout_limits_are_a_fault(tmp_path: Path) -> None:
    """Also with a limit that the profile has, not only with one that is named."""
    fault = one_fault("[[inbox]]\nmin_ms = 8000\n", tmp_path)
    assert fault.startswith("inbox[0].profile: ")
    assert "min_ms = 8000 is more than max_ms = 7000" in fault
    assert "inbox[0].max_lines" in one_fault("[[inbox]]\nmax_lines = 9\n", tmp_path)
