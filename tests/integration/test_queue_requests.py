"""Requests about a long queue: their cost in the loop does not grow with its length."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from api_harness import ApiHarness, RawClient
from subtitled.core.events import JobArrived
from subtitled.core.records import Job, Options
from subtitled.core.states import JobState
from subtitled.storage.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FEW, MANY = 40, 800


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiHarness]:
    with ApiHarness(tmp_path) as running:
        yield running


def _add_jobs(api: ApiHarness, count: int) -> list[str]:
    """Add waiting jobs until there are `count`; return their ids in order."""
    for order in range(api.store.next_order(), count + 1):
        path = b"/in/%d.wav" % order
        values: dict[str, Any] = {"source": path, "location": path, "size": order, "mtime_ns": 1}
        api.dispatch(
            JobArrived(
                Job(id=f"job-{order}", state=JobState.QUEUED, options=Options(), order=order, **values)
            )
        )
    return [f"job-{order}" for order in range(1, count + 1)]


def _steps(client: RawClient, type_: str, **fields: Any) -> int:
    """Return how many lines of the core and the handlers run in this thread for a request."""
    steps = 0

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal steps
        if not any(part in frame.f_code.co_filename for part in ("/subtitled/core/", "/api/handlers.py")):
            return None
        steps += event in {"line", "call"}
        return trace

    sys.settrace(trace)
    try:
        answer = client.request(type_, **fields)
    finally:
        sys.settrace(None)
    assert answer["type"] in {"JobInfo", "JobList"}, answer
    return steps


@pytest.mark.parametrize(
    ("type_", "fields"),
    [
        ("List", {"limit": 6}),
        ("List", {"limit": 6, "sort": "name"}),
        ("List", {"limit": 6, "states": ["failed"]}),
        ("Status", {"job": "job-3"}),
        ("Reorder", {"job": "job-3", "priority": 5}),
        ("Reorder", {"job": "job-3", "before": "job-20"}),
        ("Reorder", {"job": "job-3", "after": "job-20"}),
        ("Cancel", {"job": "job-3"}),
    ],
)
def test_steps_of_a_request_do_not_grow_with_the_queue(
    tmp_path: Path, type_: str, fields: dict[str, Any]
) -> None:
    steps = []
    for count in (FEW, MANY):
        folder = tmp_path / str(count)
        folder.mkdir()
        with ApiHarness(folder) as api:
            _add_jobs(api, count)
            client = api.connect()
            client.request("List", limit=1)
            steps.append(_steps(client, type_, **fields))
    few, many = steps
    assert many < few + MANY // 4


def test_list_in_the_order_of_the_queue_reads_the_listed_jobs_only(
    api: ApiHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = _add_jobs(api, 50)
    client = api.connect()
    client.request("Reorder", job="job-40", before="job-1")
    expected = ["job-40", *(job for job in jobs if job != "job-40")]
    read, find_job = [], Reader.find_job

    def counted(reader: Reader, job: str) -> Any:
        read.append(job)
        return find_job(reader, job)

    monkeypatch.setattr(Reader, "find_job", counted)
    listed: list[str] = []
    positions: list[int] = []
    while len(listed) < 30:
        before = listed[-1] if listed else ""
        page = client.request("List", sort="queue", limit=6, before=before)["jobs"]
        listed += [job["id"] for job in page]
        positions += [job["position"] for job in page]
    assert (listed, positions) == (expected[:30], list(range(1, 31)))
    assert read == expected[:30]
    monkeypatch.setattr(Reader, "find_job", find_job)
    newest = client.request("List", limit=3)["jobs"]
    assert [(job["id"], job["position"]) for job in newest] == [
        ("job-50", 50),
        ("job-49", 49),
        ("job-48", 48),
    ]
    assert client.request("List", sort="queue", before="job-50")["jobs"] == []
    assert client.request("List", sort="queue", before="unknown")["jobs"] == []
    named = client.request("List", sort="queue", name="39.wav")["jobs"]
    assert [job["position"] for job in named] == [40]


def test_a_job_is_moved_beside_waiting_jobs_only(api: ApiHarness) -> None:
    done = api.ended_job()
    _add_jobs(api, 5)
    client = api.connect()
    for other in (done.id, "job-3"):
        answer = client.request("Reorder", job="job-3", before=other)
        assert answer["code"] == "WRONG_STATE"
    for number in range(60):  # the floats between two places end after some 36 of them
        moved, neighbour = (("job-3", "job-4"), ("job-4", "job-3"))[number % 2]
        client.request("Reorder", job=moved, after="job-2")
        in_order = [job["id"] for job in client.request("List", sort="queue")["jobs"]]
        assert in_order == ["job-2", moved, neighbour, "job-5"]
