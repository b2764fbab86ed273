"""What of a changed configuration comes into force, and what needs a restart."""

from __future__ import annotations

import pytest

from subtitled.config import Client, Config, Listen, Model, State
from subtitled.settings import merge

ANN = Client(name="ann", key="a" * 40)
ON_TCP = Listen(clients=("ipc:///x", "tcp://127.0.0.1:7000"))


def test_sockets_and_model_stay_as_they_were() -> None:
    new = Config(
        model=Model(beam_size=1), listen=Listen(metrics=""), state=State(dir="/elsewhere", reserve_mb=1)
    )
    merged, kept = merge(Config(), new)
    assert kept == ["model.beam_size", "listen.metrics", "state.dir"]
    assert (merged.model, merged.listen) == (Model(), Listen())
    assert merged.state == State(reserve_mb=1)


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        (Config(listen=ON_TCP), Config(listen=ON_TCP, client=(ANN,)), ["client"]),
        (Config(listen=ON_TCP, client=(ANN,)), Config(listen=ON_TCP), []),
        (Config(), Config(client=(ANN,)), []),
    ],
)
def test_first_keys_of_an_open_endpoint_need_a_restart(old: Config, new: Config, kept: list[str]) -> None:
    """The endpoint was opened without keys: nobody may think that it asks for them from now on."""
    merged, named = merge(old, new)
    assert named == kept
    assert merged.client == (() if kept else new.client)
    assert merge(merged, new)[1] == kept, "the next reload says so again"
