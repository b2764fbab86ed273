"""Acceptance of workers on other hosts: release, protocol, weights."""

from __future__ import annotations

from msgspec.structs import replace

from subtitled.core.protocol import PROTOCOL, JoinSession
from subtitled.version import VERSION
from subtitled.workers.remote_sessions import MAX_REMEMBERED, RecentlySeen
from subtitled.workers.validation import ModelWeightsCheck, join_refusal

JOIN = JoinSession(version=VERSION, protocol=PROTOCOL, place="cuda0")
ONE, OTHER = "1" * 64, "2" * 64


def test_the_same_release_joins_and_another_is_refused_with_the_remedy() -> None:
    assert join_refusal(JOIN) == ""
    assert "0.0.1" in join_refusal(replace(JOIN, version="0.0.1"))
    assert "install the same release" in join_refusal(replace(JOIN, protocol=PROTOCOL + 1))


def test_the_first_remote_worker_sets_the_weights_until_all_are_gone() -> None:
    weights = ModelWeightsCheck("")
    assert weights.refusal("gpu2/cuda0.1", ONE, is_remote=True) == ""
    assert f"gpu2/cuda0 has {ONE}" in weights.refusal("gpu3/cuda0.1", OTHER, is_remote=True)
    assert weights.refusal("gpu3/cuda0.2", ONE, is_remote=True) == ""
    weights.forget("gpu2/cuda0.1")
    assert weights.refusal("gpu2/cuda0.2", OTHER, is_remote=True) != ""
    weights.forget("gpu3/cuda0.2")
    assert weights.refusal("gpu2/cuda0.3", OTHER, is_remote=True) == ""


def test_a_worker_on_this_host_sets_the_weights_of_remote_workers() -> None:
    weights = ModelWeightsCheck("")
    assert weights.refusal("gpu2/cuda0.1", OTHER, is_remote=True) == ""
    assert weights.refusal("gpu0.1", ONE, is_remote=False) == ""
    assert f"gpu0 has {ONE}" in weights.refusal("gpu2/cuda0.1", OTHER, is_remote=True)


def test_the_configured_digest_takes_precedence() -> None:
    weights = ModelWeightsCheck(ONE)
    assert f"model.digest is {ONE}" in weights.refusal("gpu0.1", OTHER, is_remote=False)
    assert f"model.digest is {ONE}" in weights.refusal("gpu2/cuda0.1", OTHER, is_remote=True)
    assert weights.refusal("gpu2/cuda0.2", ONE, is_remote=True) == ""


def test_a_remote_worker_without_a_digest_is_refused() -> None:
    weights = ModelWeightsCheck("")
    assert weights.refusal("prepare0.1", "", is_remote=False) == ""
    assert "SHA-256" in weights.refusal("gpu2/cuda0.1", "", is_remote=True)


def test_recently_seen_items_are_bounded() -> None:
    seen: RecentlySeen[int] = RecentlySeen()
    assert seen.add(-1)
    assert not seen.add(-1)
    for number in range(MAX_REMEMBERED):
        seen.add(number)
    assert -1 not in seen
    assert 0 in seen
