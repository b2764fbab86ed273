"""Who may work for a daemon on another host: release, protocol, weights."""

from __future__ import annotations

from msgspec.structs import replace

from subtitled.core.protocol import PROTOCOL, JoinSession
from subtitled.version import VERSION
from subtitled.workers.admission import ModelWeightsCheck, why_not_to_join
from subtitled.workers.remote_session import MAX_REMEMBERED, PreviousSession

JOIN = JoinSession(version=VERSION, protocol=PROTOCOL, place="cuda0")
ONE, OTHER = "1" * 64, "2" * 64


def test_the_same_release_is_welcome_and_another_told_what_to_do() -> None:
    assert why_not_to_join(JOIN) == ""
    assert "0.0.1" in why_not_to_join(replace(JOIN, version="0.0.1"))
    assert "install the same release" in why_not_to_join(replace(JOIN, protocol=PROTOCOL + 1))


def test_the_first_of_another_host_decides_until_all_are_gone() -> None:
    weights = ModelWeightsCheck("")
    assert weights.why_not("gpu2/cuda0.1", ONE, is_remote=True) == ""
    assert f"gpu2/cuda0 has {ONE}" in weights.why_not("gpu3/cuda0.1", OTHER, is_remote=True)
    assert weights.why_not("gpu3/cuda0.2", ONE, is_remote=True) == ""
    weights.forget("gpu2/cuda0.1")
    assert weights.why_not("gpu2/cuda0.2", OTHER, is_remote=True) != ""
    weights.forget("gpu3/cuda0.2")
    assert weights.why_not("gpu2/cuda0.3", OTHER, is_remote=True) == ""


def test_a_worker_of_this_host_goes_before_those_of_others() -> None:
    weights = ModelWeightsCheck("")
    assert weights.why_not("gpu2/cuda0.1", OTHER, is_remote=True) == ""
    assert weights.why_not("gpu0.1", ONE, is_remote=False) == ""
    assert f"gpu0 has {ONE}" in weights.why_not("gpu2/cuda0.1", OTHER, is_remote=True)


def test_what_the_configuration_says_goes_before_all() -> None:
    weights = ModelWeightsCheck(ONE)
    assert f"model.digest is {ONE}" in weights.why_not("gpu0.1", OTHER, is_remote=False)
    assert f"model.digest is {ONE}" in weights.why_not("gpu2/cuda0.1", OTHER, is_remote=True)
    assert weights.why_not("gpu2/cuda0.2", ONE, is_remote=True) == ""


def test_who_does_not_tell_its_weights_is_not_welcome_from_elsewhere() -> None:
    weights = ModelWeightsCheck("")
    assert weights.why_not("prepare0.1", "", is_remote=False) == ""
    assert "SHA-256" in weights.why_not("gpu2/cuda0.1", "", is_remote=True)


def test_what_strangers_send_is_remembered_up_to_a_bound() -> None:
    seen: PreviousSession[int] = PreviousSession()
    assert seen.note(-1)
    assert not seen.note(-1)
    for number in range(MAX_REMEMBERED):
        seen.note(number)
    assert -1 not in seen
    assert 0 in seen
