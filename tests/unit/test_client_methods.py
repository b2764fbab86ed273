"""The blocking and the asyncio client have the same methods, with the signatures and docstrings of their requests."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import subtitle
from subtitle.aio import AsyncClient, AsyncJobHandle
from subtitle.requests import JobRequests, Requests

PAIRS = [
    (subtitle.Client, AsyncClient, Requests),
    (subtitle.JobHandle, AsyncJobHandle, JobRequests),
]


def public(kind: type) -> dict[str, Any]:
    return {name: value for name, value in vars(kind).items() if not name.startswith("_")}


@pytest.mark.parametrize(("blocking", "asynchronous", "requests"), PAIRS)
def test_both_clients_have_every_request_and_the_same_parameters(
    blocking: type, asynchronous: type, requests: type
) -> None:
    assert set(public(blocking)) == set(public(asynchronous)) >= set(public(requests))
    for name, request in public(requests).items():
        if name in {"submit_stream", "progress"}:
            continue  # written out for each client
        for kind in (blocking, asynchronous):
            method = public(kind)[name]
            assert method.__name__ == name
            assert method.__doc__ == request.__doc__
            assert inspect.signature(method).parameters == inspect.signature(request).parameters, (
                f"{kind}.{name}"
            )


def test_signatures_name_the_result_and_not_the_request() -> None:
    assert inspect.signature(subtitle.Client.ping).return_annotation == "ms.Welcome"
    assert inspect.signature(AsyncClient.list).return_annotation == "tuple[ms.JobFacts, ...]"


def test_submit_stream_has_the_same_options_in_both_clients() -> None:
    blocking = inspect.signature(subtitle.Client.submit_stream).parameters
    asynchronous = inspect.signature(AsyncClient.submit_stream).parameters
    assert list(blocking) == list(asynchronous)


def test_watch_returns_an_iterator_of_the_client_s_kind() -> None:
    client = subtitle.Client("ipc:///nowhere")
    assert isinstance(client.watch(), Iterator)
    client.close()
    asynchronous = AsyncClient("ipc:///nowhere")
    assert isinstance(asynchronous.watch(), AsyncIterator)
    asynchronous.close()
