"""A file settles when its size and time no longer change, in virtual time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from subtitled.inboxes.debounce import Debouncer


def test_file_is_accepted_when_it_has_settled() -> None:
    debouncer = Debouncer(2.0)
    assert not debouncer.observe("a", 10, 1, now=100.0)
    assert debouncer.next_deadline == 102.0
    assert debouncer.due(101.9) == []
    assert debouncer.due(102.0) == ["a"]
    assert debouncer.observe("a", 10, 1, now=102.0)
    assert debouncer.next_deadline is None


def test_further_observations_do_not_delay_a_file() -> None:
    debouncer = Debouncer(2.0)
    assert not debouncer.observe("a", 10, 1, now=100.0)
    assert not debouncer.observe("a", 10, 1, now=101.5)
    assert debouncer.due(102.0) == ["a"]
    assert debouncer.observe("a", 10, 1, now=102.0)


def test_change_of_size_or_time_restarts_the_wait() -> None:
    debouncer = Debouncer(2.0)
    assert not debouncer.observe("a", 10, 1, now=100.0)
    assert not debouncer.observe("a", 20, 1, now=101.0)
    assert not debouncer.observe("a", 20, 2, now=102.0)
    assert debouncer.due(103.9) == []
    assert debouncer.due(104.0) == ["a"]
    assert debouncer.observe("a", 20, 2, now=104.0)


def test_change_observed_when_due_restarts_the_wait() -> None:
    debouncer = Debouncer(2.0)
    assert not debouncer.observe("a", 10, 1, now=100.0)
    assert debouncer.due(102.0) == ["a"]
    assert not debouncer.observe("a", 20, 1, now=102.0)
    assert debouncer.next_deadline == 104.0


def test_accepted_file_is_not_accepted_again() -> None:
    debouncer = Debouncer(0.0)
    assert not debouncer.observe("a", 10, 1, now=100.0)
    assert debouncer.observe("a", 10, 1, now=100.0)
    assert not debouncer.observe("a", 10, 1, now=101.0)
    assert debouncer.settled == {"a"}


def test_accepted_file_that_changes_is_accepted_again() -> None:
    debouncer = Debouncer(0.0)
    assert not debouncer.observe("a", 10, 1, now=100.0)
    assert debouncer.observe("a", 10, 1, now=100.0)
    assert not debouncer.observe("a", 10, 2, now=101.0)
    assert debouncer.observe("a", 10, 2, now=101.0)


def test_forgotten_file_is_not_due_and_settles_again() -> None:
    debouncer = Debouncer(2.0)
    assert not debouncer.observe("a", 10, 1, now=100.0)
    debouncer.forget("a")
    assert debouncer.due(102.0) == []
    assert not debouncer.observe("a", 10, 1, now=103.0)
    assert debouncer.due(105.0) == ["a"]


def test_many_changes_of_one_file_schedule_one_deadline() -> None:
    """A file that is copied for hours does not fill the memory."""
    debouncer = Debouncer(2.0)
    for size in range(10_000):
        debouncer.observe("a", size, 1, now=size / 1000)
    assert len(debouncer._deadlines) == 1


def test_postponed_file_is_due_after_the_delay_and_settles_again() -> None:
    for settle_s in (0.0, 2.0):
        debouncer = Debouncer(settle_s)
        debouncer.observe("a", 10, 1, now=100.0)
        assert debouncer.observe("a", 10, 1, now=102.0)
        debouncer.postpone("a", 10, 1, now=102.0, delay_s=1.0)
        assert debouncer.due(102.9) == []
        assert debouncer.due(103.1) == ["a"]
        assert debouncer.observe("a", 10, 1, now=103.1)


@given(
    st.floats(0, 10),
    st.lists(
        st.tuples(st.floats(0, 5), st.sampled_from(["a", "b"]), st.integers(0, 2), st.booleans()), max_size=30
    ),
    st.floats(0, 1e9),
)
def test_every_file_is_accepted_once_without_another_event(
    settle_s: float, changes: list[tuple[float, str, int, bool]], now: float
) -> None:
    """Never too early, whatever the changes; and each due path is then accepted."""
    debouncer = Debouncer(settle_s)
    files: dict[str, int] = {}
    changed_at: dict[str, float] = {}
    accepted: dict[str, int] = {}

    def observe(path: str) -> None:
        if debouncer.observe(path, files[path], 0, now):
            assert now - changed_at[path] >= settle_s
            assert accepted.get(path) != files[path]
            accepted[path] = files[path]

    for pause, path, size, is_gone in changes:
        now += pause
        if is_gone:
            files.pop(path, None)
            accepted.pop(path, None)
            debouncer.forget(path)
        else:
            if files.get(path) != size:
                changed_at[path] = now
            files[path] = size
            observe(path)
    rounds = 0
    while (deadline := debouncer.next_deadline) is not None:
        now = max(now, deadline)
        for path in debouncer.due(now):
            observe(path)
        rounds += 1
        assert rounds < 200
    assert accepted == files
