"""The form of a job's page in which other limits are asked for."""

from __future__ import annotations

import pytest

from subtitle.messages import LayoutOptions
from subtitled.config.layout_limits import LayoutLimits
from subtitled.http.errors import RequestError
from subtitled.web.job_page import form_fields, layout_for


def test_empty_fields_are_ignored() -> None:
    assert form_fields({"max_chars": " ", "profile": "", "lang": "en", "from": "3"}) == {}
    assert form_fields({"max_chars": " 20", "gap_ms": "0"}) == {"max_chars": "20", "gap_ms": "0"}


def test_a_profile_replaces_the_jobs_limits() -> None:
    asked = {"profile": "strict", "max_lines": "1"}
    assert layout_for(asked, LayoutLimits(max_chars=32)) == LayoutOptions(profile="strict", max_lines=1)


def test_without_a_profile_the_jobs_limits_are_kept() -> None:
    made = LayoutLimits(
        max_chars=32, max_lines=1, max_chars_per_s=17, min_ms=500, max_ms=6000, gap_ms=40, chain_ms=200
    )
    asked = layout_for({"max_chars": "20"}, made)
    assert asked == LayoutOptions(
        max_chars=20, max_lines=1, max_chars_per_s=17, min_ms=500, max_ms=6000, gap_ms=40, chain_ms=200
    )


def test_limits_that_clients_may_not_request_are_left_out() -> None:
    made = LayoutLimits(max_chars=4, max_lines=9)
    asked = layout_for({"min_ms": "0"}, made)
    assert (asked.max_chars, asked.max_lines, asked.min_ms) == (None, None, 0)


def test_a_job_without_limits_keeps_the_raw_profile() -> None:
    made = LayoutLimits(max_chars=0, max_lines=2, max_chars_per_s=0, min_ms=0, max_ms=0, gap_ms=0, chain_ms=0)
    assert layout_for({"gap_ms": "100"}, made) == LayoutOptions(profile="raw", max_lines=2, gap_ms=100)


def test_a_wider_gap_raises_the_chain_limit() -> None:
    assert layout_for({"gap_ms": "800"}, LayoutLimits()).chain_ms == 800


@pytest.mark.parametrize("asked", [{"max_chars": "7"}, {"max_lines": "two"}, {"profile": "loose"}])
def test_an_invalid_field_is_named_in_the_error(asked: dict[str, str]) -> None:
    with pytest.raises(RequestError, match=next(iter(asked))) as refused:
        layout_for(asked, None)
    assert refused.value.status == 400
