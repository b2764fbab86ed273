"""What of a changed configuration comes into force, and what needs a restart."""

from __future__ import annotations

import pytest

from subtitled.config.schema import (
    ClientConfig,
    Config,
    ListenConfig,
    ModelConfig,
    PoolConfig,
    RemoteConfig,
    StateConfig,
)
from subtitled.core.config_mapping import merge

ANN = ClientConfig(name="ann", key="a" * 40)
ON_TCP = ListenConfig(clients=("ipc:///x", "tcp://127.0.0.1:7000"))


def test_sockets_and_model_stay_as_they_were() -> None:
    new = Config(
        model=ModelConfig(beam_size=1),
        listen=ListenConfig(metrics=""),
        state=StateConfig(dir="/elsewhere", reserve_mb=1),
    )
    merged, kept = merge(Config(), new)
    assert kept == ["model.beam_size", "listen.metrics", "state.dir"]
    assert (merged.model, merged.listen) == (ModelConfig(), ListenConfig())
    assert merged.state == StateConfig(reserve_mb=1)


def test_the_listener_for_other_hosts_stays_where_it_is_and_its_keys_change() -> None:
    old = Config(remote=RemoteConfig(listen="tcp://0.0.0.0:8700", keys={"gpu2": "a" * 40}))
    new = Config(remote=RemoteConfig(listen="tcp://0.0.0.0:8701", keys={"gpu3": "b" * 40}))
    merged, kept = merge(old, new)
    assert kept == ["remote.listen"]
    assert merged.remote == RemoteConfig(listen="tcp://0.0.0.0:8700", keys={"gpu3": "b" * 40})


def test_first_devices_of_a_head_without_any_need_a_restart() -> None:
    """The model is not there."""
    merged, kept = merge(Config(pool=PoolConfig(devices=())), Config(pool=PoolConfig(devices=("cpu",))))
    assert (merged.pool.devices, kept) == ((), ["pool.devices"])


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        (Config(listen=ON_TCP), Config(listen=ON_TCP, client=(ANN,)), ["client"]),
        (Config(listen=ON_TCP, client=(ANN,)), Config(listen=ON_TCP), []),
        (Config(), Config(client=(ANN,)), []),
    ],
)
def test_first_keys_of_an_open_endpoint_need_a_restart(old: Config, new: Config, kept: list[str]) -> None:
    """The endpoint was opened without keys: a reload must not suggest that it needs them."""
    merged, named = merge(old, new)
    assert named == kept
    assert merged.client == (() if kept else new.client)
    assert merge(merged, new)[1] == kept, "the next reload says so again"
