"""A chat endpoint translates: every sentence once, whatever the endpoint does; else it is untranslated with the reason."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from chat_endpoint import TOKENS, ChatEndpoint, Fault, translation_of
from subtitled.core.protocol import (
    AbandonLease,
    Drain,
    EndpointSettings,
    FromWorker,
    LeaseAbandoned,
    TextItem,
    Translate,
    Translated,
)
from subtitled.core.records import SegmentKey
from subtitled.core.translation import SentenceTranslation, TranslationRequest
from subtitled.errors import ExitCode
from subtitled.translation.engines.chat import EndpointError
from subtitled.translation.engines.openai import (
    BATCH_ATTEMPTS,
    CALL_ATTEMPTS,
    EndpointResult,
    OpenAiEngine,
    messages,
    read_answer,
)
from subtitled.workers.translate import TranslateRole

SENTENCES = ("Good evening.", "I was born in 1987.", "Where are you going now?", "Home.")
WAIT_S = 60


@pytest.fixture
def endpoint() -> Iterator[ChatEndpoint]:
    with ChatEndpoint() as server:
        yield server


def request(*sentences: str, **more: Any) -> TranslationRequest:
    return TranslationRequest(source="en", target="zh-TW", sentences=sentences or SENTENCES, **more)


def engine(endpoint: ChatEndpoint, key_file: str = "", timeout_s: float = WAIT_S) -> OpenAiEngine:
    settings = EndpointSettings(url=endpoint.url, model="tiny", api_key_file=key_file)
    return OpenAiEngine(settings, timeout_s=timeout_s, first_wait_s=0.0)


def translated(*sentences: str) -> list[SentenceTranslation]:
    return [SentenceTranslation(text=" ".join(translation_of(text).split())) for text in sentences]


def test_all_sentences_of_a_request_are_translated_in_one_call(endpoint: ChatEndpoint) -> None:
    made = engine(endpoint).translate_one(request(before=("He came in.",), after=("He left.",)))
    assert list(made.sentences) == translated(*SENTENCES)
    assert (made.version, made.tokens) == ("tiny-translator-2", 2 * TOKENS)
    (call,) = endpoint.calls
    assert call["model"] == "tiny"
    assert call["response_format"]["type"] == "json_schema"
    assert "He came in." in call["messages"][-1]["content"]
    assert endpoint.sentences(0) == list(SENTENCES)


@pytest.mark.parametrize(
    "faults",
    [
        ("garbage",),
        ("few",),
        ("few", "few"),
        ("twice",),
        ("wrong_language",),
        ("cut",),
        ("empty",),
        ("429", "429"),
        ("500", "hang_up", "garbage"),
        ("no_json",),
        ("too_long",),
        ("huge",),
    ],
    ids=" ".join,
)
def test_a_fault_is_retried_until_every_sentence_has_come_back(
    endpoint: ChatEndpoint, faults: tuple[Fault, ...]
) -> None:
    endpoint.faults.extend(faults)
    made = engine(endpoint).translate_one(request())
    assert list(made.sentences) == translated(*SENTENCES)


@pytest.mark.parametrize("fault", ["slow", "drip"])
def test_an_answer_that_does_not_come_in_time_is_asked_for_again(
    endpoint: ChatEndpoint, fault: Fault
) -> None:
    endpoint.faults.append(fault)
    made = engine(endpoint, timeout_s=2.0).translate_one(request())
    assert list(made.sentences) == translated(*SENTENCES)
    assert len(endpoint.calls) >= 2


def test_only_what_is_missing_is_asked_for_again(endpoint: ChatEndpoint) -> None:
    endpoint.faults.append("few")
    engine(endpoint).translate_one(request())
    assert endpoint.sentences(1) == list(SENTENCES[2:])


def test_sentences_that_do_not_come_back_together_are_asked_for_alone(endpoint: ChatEndpoint) -> None:
    endpoint.faults.extend(["wrong_language"] * BATCH_ATTEMPTS)
    made = engine(endpoint).translate_one(request())
    assert list(made.sentences) == translated(*SENTENCES)
    assert [len(endpoint.sentences(call)) for call in range(len(endpoint.calls))] == [4, 4, 4, 1, 1, 1, 1]


def test_a_sentence_that_never_comes_back_is_untranslated_with_the_reason(endpoint: ChatEndpoint) -> None:
    endpoint.faults.extend(["wrong_language"] * 30)
    made = engine(endpoint).translate_one(request("Good evening.", "Where are you going now?"))
    assert [one.text for one in made.sentences] == ["Good evening.", "Where are you going now?"]
    assert {one.problem for one in made.sentences} == {"the translation is not in the script of zh-TW"}
    assert made.tokens == 2 * TOKENS * len(endpoint.calls)


def test_a_sentence_that_the_endpoint_rejects_costs_no_other_one() -> None:
    with ChatEndpoint(refuses=("Where are you going now?",)) as endpoint:
        made = engine(endpoint).translate_one(request())
    assert [bool(one.problem) for one in made.sentences] == [False, False, True, False]
    assert "status 400: " in made.sentences[2].problem


@pytest.mark.parametrize("rejected", ["response_format", "temperature", "max_tokens"])
def test_parameters_that_an_endpoint_rejects_are_left_out_from_then_on(rejected: str) -> None:
    with ChatEndpoint(rejects=(rejected,)) as endpoint:
        ours = engine(endpoint)
        assert list(ours.translate_one(request()).sentences) == translated(*SENTENCES)
        count = len(endpoint.calls)
        ours.translate_one(request())
        assert len(endpoint.calls) == count + 1
        assert rejected not in endpoint.calls[-1]


def test_a_sentence_that_the_endpoint_rejects_weakens_no_later_request() -> None:
    with ChatEndpoint(refuses=("Where are you going now?",)) as endpoint:
        ours = engine(endpoint)
        ours.translate_one(request())
        ours.translate_one(request("Home."))
        assert endpoint.calls[-1]["response_format"]["type"] == "json_schema"


def test_a_format_that_an_endpoint_rejects_without_its_name_is_left_out_from_then_on() -> None:
    with ChatEndpoint(rejects=("response_format",), rejection="invalid request") as endpoint:
        ours = engine(endpoint)
        assert list(ours.translate_one(request()).sentences) == translated(*SENTENCES)
        assert len(endpoint.calls) == 3
        ours.translate_one(request())
        assert len(endpoint.calls) == 4
        assert "response_format" not in endpoint.calls[-1]


@pytest.mark.parametrize(
    ("fault", "tokens"), [("parts", 2 * TOKENS), ("no_counts", 0), ("many_tokens", 2 * 2**31)]
)
def test_an_answer_with_other_fields_is_read(endpoint: ChatEndpoint, fault: Fault, tokens: int) -> None:
    endpoint.faults.append(fault)
    made = engine(endpoint).translate_one(request())
    assert list(made.sentences) == translated(*SENTENCES)
    assert (made.tokens, len(endpoint.calls)) == (tokens, 1)


def test_the_key_comes_from_its_file_and_is_in_no_message(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-right\n")
    with ChatEndpoint(key="sk-right") as endpoint:
        ours = engine(endpoint, str(file))
        assert list(ours.translate_one(request()).sentences) == translated(*SENTENCES)
        file.write_text("sk-wrong\n")
        with pytest.raises(EndpointError, match=f"the key in {file} is not accepted") as caught:
            ours.translate_one(request())
        assert "sk-wrong" not in str(caught.value)
        with pytest.raises(EndpointError, match="set api_key_file"):
            engine(endpoint).translate_one(request())
        file.unlink()
        with pytest.raises(EndpointError, match="the key cannot be read: No such file"):
            ours.translate_one(request())


@pytest.mark.parametrize(
    ("fault", "calls"), [("500", CALL_ATTEMPTS), ("429", CALL_ATTEMPTS), ("404", 1), ("redirect", 1)]
)
def test_an_endpoint_that_does_not_work_is_an_error(endpoint: ChatEndpoint, fault: Fault, calls: int) -> None:
    endpoint.faults.extend([fault] * 50)
    with pytest.raises(EndpointError, match="status"):
        engine(endpoint).translate_one(request())
    assert len(endpoint.calls) == calls


def test_what_is_translated_is_kept_when_the_endpoint_stops_to_work(endpoint: ChatEndpoint) -> None:
    endpoint.faults.append("few")
    endpoint.faults.extend(["500"] * 50)
    made = engine(endpoint).translate_one(request())
    assert list(made.sentences[:2]) == translated(*SENTENCES[:2])
    assert ["status 500" in one.problem for one in made.sentences] == [False, False, True, True]


def test_an_endpoint_that_is_not_there_is_an_error() -> None:
    with ChatEndpoint() as endpoint:
        ours = engine(endpoint)
    with pytest.raises(EndpointError, match="Connection refused"):
        ours.translate_one(request())


def test_the_prompt_names_the_language_and_the_terms() -> None:
    system, user = messages(request("Ada was here.", glossary=(("Ada", "愛達"),)))
    assert "from English into Traditional Chinese as it is written in Taiwan" in system["content"]
    assert "Ada = 愛達" in system["content"]
    assert "1. Ada was here." in user["content"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"translations": [{"number": 1, "text": "一"}, {"number": 2, "text": "二"}]}', ["一", "二"]),
        ('```json\n{"translations": [{"number": "2", "text": "二"}]}\n```', [None, "二"]),
        ('<think>1. no</think>{"1": "一", "2": "二"}', ["一", "二"]),
        ('["一", "二"]', ["一", "二"]),
        ('["一"]', [None, None]),
        ("Sure!\n1. 一\n2) 二\n3. 三", ["一", "二"]),
        ("1. 一\n1. 二", [None, None]),
        ('{"translations": [{"number": 1, "text": "一"}, {"number": 2, "te', ["一", None]),
        ('{"translations": [{"number": 1, "text": "\\ud800"}, {"number": 2, "text": "二"}]}', [None, "二"]),
        ('{"translations": [{"number": 1, "text": null}, 5]}', [None, None]),
        ("", [None, None]),
        ("I cannot help with that.", [None, None]),
        ("[]{}", [None, None]),
        ('[{"number": "' + "1" * 5000 + '", "text": "一"}, {"number": 2, "text": "二"}]', [None, "二"]),
        ('{"' + "1" * 5000 + '": "一", "2": "二"}', [None, "二"]),
        ('{"number": 2, "text": "二"}', [None, "二"]),
        ('[{"number": ' + "1" * 5000 + ', "text": "一"}, {"number": 2, "text": "二"}]', [None, "二"]),
        ("[" * 100_000, [None, None]),
        ('{"translations": [{"number": true, "text": "一"}, {"number": 2, "text": "二"}]}', [None, "二"]),
    ],
)
def test_an_answer_is_read_in_the_forms_that_models_write(text: str, expected: list[str | None]) -> None:
    assert read_answer(text, 2) == expected


class Port:
    """Keeps what the role sends."""

    def __init__(self) -> None:
        self.sent: queue.SimpleQueue[FromWorker] = queue.SimpleQueue()
        self.codes: queue.SimpleQueue[ExitCode] = queue.SimpleQueue()

    def post(self, message: FromWorker, blobs: Sequence[Any] = ()) -> None:
        """Keep a message."""
        assert not blobs
        self.sent.put(message)

    def stop(self, code: ExitCode) -> None:
        """Keep the exit code."""
        self.codes.put(code)


def lease(number: int) -> Translate:
    item = TextItem(key=SegmentKey("a", number), request=request())
    return Translate(lease=number, model="tiny", items=(item,))


def test_a_worker_has_as_many_calls_at_once_as_allowed_and_answers_each_lease(endpoint: ChatEndpoint) -> None:
    port = Port()
    role = TranslateRole(port, engine(endpoint), 2)
    endpoint.faults.extend(["slow", "slow"])
    for number in range(5):
        role.receive(lease(number), ())
    endpoint.wait_for_calls(2)
    role.receive(AbandonLease(lease=0), ())
    assert port.sent.get(timeout=WAIT_S) == LeaseAbandoned(lease=0)
    endpoint.release()
    role.receive(Drain(), ())
    assert port.codes.get(timeout=WAIT_S) is ExitCode.OK
    answers = [port.sent.get(timeout=WAIT_S) for _ in range(4)]
    assert all(isinstance(answer, Translated) for answer in answers)
    assert sorted(answer.lease for answer in answers if isinstance(answer, Translated)) == [1, 2, 3, 4]
    assert endpoint.most_at_once == 2
    assert port.sent.empty()


def test_a_worker_answers_with_the_original_if_the_endpoint_does_not_work(endpoint: ChatEndpoint) -> None:
    endpoint.faults.append("404")
    port = Port()
    role = TranslateRole(port, engine(endpoint), 1)
    role.receive(lease(1), ())
    answer = port.sent.get(timeout=WAIT_S)
    assert isinstance(answer, Translated)
    (result,) = answer.results
    assert [one.text for one in result.sentences] == list(SENTENCES)
    assert all("status 404" in one.problem for one in result.sentences)
    assert (result.engine, result.version) == ("openai", "tiny")
    role.receive(Drain(), ())
    assert port.codes.get(timeout=WAIT_S) is ExitCode.OK


def test_a_lease_that_waits_for_an_abandoned_call_makes_progress(endpoint: ChatEndpoint) -> None:
    port = Port()
    role = TranslateRole(port, engine(endpoint), 1)
    endpoint.faults.append("slow")
    role.receive(lease(1), ())
    endpoint.wait_for_calls(1)
    role.receive(AbandonLease(lease=1), ())
    assert port.sent.get(timeout=WAIT_S) == LeaseAbandoned(lease=1)
    role.receive(lease(2), ())
    first, second = ({one.lease: one.steps for one in role.heartbeat().leases}[2] for _ in range(2))
    assert second > first
    role.receive(lease(3), ())
    role.receive(AbandonLease(lease=3), ())
    endpoint.release()
    role.receive(Drain(), ())
    assert port.codes.get(timeout=WAIT_S) is ExitCode.OK
    assert role.heartbeat().leases == ()


class BrokenEngine(OpenAiEngine):
    """Fails on a sentence."""

    def translate_one(self, request: TranslationRequest, pause: Any = None) -> EndpointResult:
        """Raise ValueError for "Home."."""
        if "Home." in request.sentences:
            raise ValueError("a bug")
        return super().translate_one(request, pause)


def test_an_error_of_the_engine_costs_no_other_request(endpoint: ChatEndpoint) -> None:
    port = Port()
    settings = EndpointSettings(url=endpoint.url, model="tiny")
    role = TranslateRole(port, BrokenEngine(settings, first_wait_s=0.0), 1)
    items = tuple(
        TextItem(key=SegmentKey("a", at), request=request(text))
        for at, text in enumerate(("Home.", "Good evening."))
    )
    role.receive(Translate(lease=1, model="tiny", items=items), ())
    answer = port.sent.get(timeout=WAIT_S)
    assert isinstance(answer, Translated)
    assert [one.problem for result in answer.results for one in result.sentences] == [
        "the engine failed: ValueError('a bug')",
        "",
    ]
    role.receive(Drain(), ())
    assert port.codes.get(timeout=WAIT_S) is ExitCode.OK
