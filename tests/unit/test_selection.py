"""What the commands about jobs choose."""

from __future__ import annotations

from typing import Any

import pytest

from subtitle.commands.selection import is_search_limited


@pytest.mark.parametrize(
    ("filters", "total", "is_limited"),
    [
        ({"language": "ja"}, 20_000, False),
        ({"language": "ja"}, 20_001, True),
        ({"is_damaged": True, "sort": "oldest"}, 20_001, True),
        ({"sort": "oldest"}, 20_001, False),
        ({"sort": "name"}, 20_001, True),
        ({}, 20_001, False),
    ],
)
def test_list_may_be_incomplete_where_the_server_searches_only_some_jobs(
    filters: dict[str, Any], total: int, is_limited: bool
) -> None:
    assert is_search_limited(filters, total) is is_limited
