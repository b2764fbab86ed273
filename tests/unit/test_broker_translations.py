"""Translations in the broker: text segments are queued, leased, lost, given up and planned again."""

from __future__ import annotations

from typing import Any

import pytest

from subtitled.core import actions as ac
from subtitled.core import events as ev
from subtitled.core import job_lifecycle
from subtitled.core import protocol as pr
from subtitled.core.model_placement import ModelSpec
from subtitled.core.records import FIRST_TEXT, Role, SegmentKey, TextPlan
from subtitled.core.states import JobState, SegmentEvent
from subtitled.core.translation import SentenceTranslation, TranslationRequest
from subtitled.version import VERSION
from unit.broker_bench import Bench

NLLB = ModelSpec(name="nllb", engine=pr.EngineSettings(kind="ctranslate2", model="/nllb"))
LLM = ModelSpec(
    name="llm",
    engine=pr.EngineSettings(
        kind="openai", model="qwen", endpoint=pr.EndpointSettings(url="http://localhost/v1", model="qwen")
    ),
    endpoint_slot="endpoint-llm",
)
CRASH = "killed by SIGSEGV"


def bench(*slots: str, **policy: Any) -> Bench:
    """Return a bench with a prepare worker and these transcribe workers, which may load a translation model."""
    made = Bench((ModelSpec(), NLLB, LLM), **{"silence_s": 1e6, "lease_min_s": 1e6, **policy})
    for slot in ("p0", *slots):
        made.worker(slot)
    return made


def add_endpoint(b: Bench, credit: int = 2) -> str:
    """Have the worker of the endpoint be ready; return its identity."""
    b.handle(ev.SlotAdded("endpoint-llm", Role.TRANSLATE))
    identity = b.slot("endpoint-llm").identity
    ready = pr.WorkerReady(version=VERSION, credit=credit, streams=credit, model="qwen")
    b.handle(ev.MessageReceived(identity, ready))
    return identity


def transcribe(b: Bench, job: str = "a", *targets: str, **options: Any) -> None:
    """Have a file be transcribed and its transcript be written."""
    b.submit(job, translate_to=targets or ("ja",), **options)
    b.read(0, job=job)
    for number in list(b.broker.lease_dispatch.leases):
        sent = b.lease(number)
        if sent.audio and sent.audio[0].key.job == job:
            b.reply(sent)
    b.handle(ev.OutputsWritten(job, b"done/" + job.encode()))


def text(model: str, number: int, target: str = "ja", sentences: int = 2) -> TextPlan:
    """Return a text segment's plan."""
    texts = tuple(f"Sentence {number}.{at}." for at in range(sentences))
    request = TranslationRequest(source="de", target=target, sentences=texts)
    return TextPlan(
        model=model, request=request, keys=tuple(f"{target} {one}" for one in texts), terms=("",) * sentences
    )


def plan(b: Bench, *texts: TextPlan, **more: Any) -> list[ac.Action]:
    """Have the sentences of the job be planned that was to be planned last."""
    order = b.last(ac.PlanTranslations)
    return b.handle(ev.TranslationsPlanned(job=order.job.id, number=order.number, texts=texts, **more))


def written(b: Bench) -> None:
    """Have the translations be written that were to be written last."""
    order = b.last(ac.WriteTranslations)
    b.handle(ev.TranslationsWritten(job=order.job.id, number=order.number))


def answer(b: Bench, sent: ac.SendLease, *, without: int = 0, problem: str = "") -> list[ac.Action]:
    """Answer a lease of text segments; `without` leaves out sentences of each."""
    assert isinstance(sent.message, pr.Translate)
    results = tuple(
        pr.TextResult(
            key=item.key,
            sentences=tuple(
                SentenceTranslation(text=one if problem else f"<{one}>", problem=problem)
                for one in item.request.sentences[without:]
            ),
            engine="ctranslate2",
            version="nllb 1",
        )
        for item in sent.message.items
    )
    loaded = pr.HeldModel(name=sent.message.model, load_s=1.0) if sent.message.is_load else None
    return b.handle(
        ev.MessageReceived(
            sent.lease.worker, pr.Translated(lease=sent.lease.id, results=results, loaded=loaded)
        )
    )


def rows(b: Bench) -> list[ac.StoredTranslation]:
    """Return all translations that were stored, in order."""
    return [row for save in b.all(ac.SaveText) for row in save.translations]


def test_job_is_translated_after_its_transcript_is_written() -> None:
    b = bench("gpu0")
    transcribe(b)
    assert b.state("a") is JobState.TRANSLATING
    assert b.jobs["a"].location == b"done/a"
    assert not b.all(ac.WriteTranslations)
    plan(b, text("nllb", 0), text("nllb", 1))
    sent = b.last(ac.SendLease)
    assert isinstance(sent.message, pr.Translate)
    assert (sent.message.model, sent.message.is_load, sent.message.engine) == ("nllb", True, NLLB.engine)
    assert [item.key for item in sent.message.items] == [
        SegmentKey("a", FIRST_TEXT),
        SegmentKey("a", FIRST_TEXT + 1),
    ]
    assert b.broker.live_jobs.open_sentences == 4
    answer(b, sent)
    assert [(row.target, row.source, row.text) for row in rows(b)][:2] == [
        ("ja", "Sentence 0.0.", "<Sentence 0.0.>"),
        ("ja", "Sentence 0.1.", "<Sentence 0.1.>"),
    ]
    assert {(row.model, row.engine, row.version) for row in rows(b)} == {("nllb", "ctranslate2", "nllb 1")}
    written(b)
    assert b.state("a") is JobState.DONE
    assert b.broker.live_jobs.jobs == {}
    assert b.broker.live_jobs.open_sentences == 0


def test_job_whose_sentences_cannot_be_read_keeps_its_files_and_the_cause() -> None:
    b = bench("gpu0")
    transcribe(b)
    plan(b, cause="the layout process ended twice")
    assert b.state("a") is JobState.DONE
    assert b.jobs["a"].translation_cause == "the layout process ended twice"
    assert not b.all(ac.WriteTranslations)
    assert not b.all(ac.DropTranslations)
    assert b.broker.live_jobs.jobs == {}
    b.handle(ev.TranslationRequested(job=b.jobs["a"]))
    assert (b.state("a"), b.jobs["a"].translation_cause) == (JobState.TRANSLATING, "")
    b.handle(ev.TranslationRequested(job=b.jobs["a"], languages=("es",)))
    plan(b, cause="the layout process ended twice")
    assert b.state("a") is JobState.TRANSLATING, "its languages changed meanwhile"
    plan(b)
    written(b)
    assert (b.state("a"), b.jobs["a"].translation_cause) == (JobState.DONE, "")


def test_job_without_a_sentence_to_translate_is_done() -> None:
    b = bench("gpu0")
    transcribe(b)
    plan(b)
    written(b)
    assert b.state("a") is JobState.DONE
    assert len(b.all(ac.SendLease)) == 1, "the lease of its audio"


def test_sentences_of_an_endpoint_are_leased_to_its_worker_and_to_no_other() -> None:
    b = bench("gpu0", "gpu1")
    endpoint = add_endpoint(b)
    transcribe(b)
    plan(b, *(text("llm", number) for number in range(3)))
    leases = [sent for sent in b.all(ac.SendLease) if isinstance(sent.message, pr.Translate)]
    assert [(sent.lease.worker, len(sent.message.items)) for sent in leases] == [(endpoint, 1)] * 2
    assert not any(sent.message.is_load for sent in leases)
    for _ in range(3):
        answer(b, b.lease(min(b.broker.lease_dispatch.leases)))
    assert b.all(ac.WriteTranslations)


def test_worker_of_an_endpoint_gets_no_audio() -> None:
    b = bench("gpu0", batch_size=1)
    endpoint = add_endpoint(b)
    b.submit("b")
    b.read(*range(4), job="b")
    b.reply_to_all()
    assert endpoint not in {sent.lease.worker for sent in b.all(ac.SendLease)}


def test_audio_of_an_urgent_job_goes_before_sentences() -> None:
    b = bench("gpu0", batch_size=1)
    transcribe(b)
    plan(b, *(text("nllb", number) for number in range(3)))
    answer(b, b.last(ac.SendLease))
    b.submit("b", priority=5)
    b.prepared(0, job="b")
    answer(b, b.lease(min(b.broker.lease_dispatch.leases)))
    assert b.last(ac.SendLease).audio


def test_sentences_of_a_lost_worker_are_translated_by_another() -> None:
    b = bench("gpu0", "gpu1")
    transcribe(b)
    plan(b, text("nllb", 0))
    answer(b, b.last(ac.SendLease))
    b.handle(ev.TranslationsWritten(job="a", number=b.last(ac.WriteTranslations).number))
    transcribe(b, "b")
    plan(b, text("nllb", 1))
    lost = b.last(ac.SendLease)
    b.die(lost.lease.worker)
    again = b.last(ac.SendLease)
    assert again.lease.id != lost.lease.id
    assert again.lease.keys == lost.lease.keys
    answer(b, again)
    assert b.all(ac.WriteTranslations)[-1].job.id == "b"


def test_sentences_that_kill_workers_stay_in_the_original_and_the_job_is_done() -> None:
    b = bench("gpu0", attempts=2, crash_budget=100)
    transcribe(b)
    plan(b, text("nllb", 0), text("nllb", 1))
    answer(b, b.last(ac.SendLease))  # it has the model now
    b.handle(ev.TranslationsWritten(job="a", number=b.last(ac.WriteTranslations).number))
    transcribe(b, "b")
    plan(b, text("nllb", 2))
    for _ in range(20):
        if b.all(ac.WriteTranslations)[-1].job.id == "b":
            break
        if b.broker.lease_dispatch.leases:
            sent = b.lease(max(b.broker.lease_dispatch.leases))
            if sent.message.is_load:
                b.handle(
                    ev.MessageReceived(
                        sent.lease.worker,
                        pr.Heartbeat(leases=(pr.LeaseProgress(lease=sent.lease.id, steps=1),)),
                    )
                )
            b.die(sent.lease.worker)
        b.wait(100)
        b.ready(b.slot("gpu0").identity)
    given_up = [row for row in rows(b) if row.problem]
    assert [(row.source, row.text) for row in given_up] == [
        ("Sentence 2.0.", "Sentence 2.0."),
        ("Sentence 2.1.", "Sentence 2.1."),
    ]
    assert {row.problem for row in given_up} == {CRASH}
    written(b)
    assert b.state("b") is JobState.DONE


def test_result_with_another_number_of_sentences_counts_as_left_out() -> None:
    b = bench("gpu0")
    transcribe(b)
    plan(b, text("nllb", 0))
    answer(b, b.last(ac.SendLease), without=1)
    assert not rows(b)
    assert b.last(ac.SaveText).event is SegmentEvent.LEASED, "it is leased again"
    assert "left it out" in next(
        save.segment.cause for save in b.all(ac.SaveText) if save.event is SegmentEvent.LOST
    )


def test_results_of_the_wrong_kind_change_nothing() -> None:
    b = bench("gpu0")
    transcribe(b)
    plan(b, text("nllb", 0))
    sent = b.last(ac.SendLease)
    item = pr.ItemResult(
        key=sent.lease.keys[0], is_speech=True, language="de", language_probability=1.0, result=b"x"
    )
    held = pr.HeldModel(name="nllb", load_s=1.0)
    b.handle(
        ev.MessageReceived(sent.lease.worker, pr.Transcribed(lease=sent.lease.id, items=(item,), loaded=held))
    )
    assert b.state("a") is JobState.TRANSLATING
    assert not rows(b)
    assert b.last(ac.SendLease).lease.keys == sent.lease.keys, "it is leased again"


@pytest.mark.parametrize("sentences", [(), (SentenceTranslation(text="x"),)])
def test_translations_of_an_audio_segment_change_nothing(sentences: tuple[SentenceTranslation, ...]) -> None:
    b = bench("gpu0")
    b.submit()
    b.read(0)
    sent = b.last(ac.SendLease)
    result = pr.TextResult(key=sent.lease.keys[0], sentences=sentences, engine="x", version="x")
    held = pr.HeldModel(name=sent.message.model, load_s=1.0) if sent.message.is_load else None
    b.handle(
        ev.MessageReceived(
            sent.lease.worker, pr.Translated(lease=sent.lease.id, results=(result,), loaded=held)
        )
    )
    assert b.state("a") is JobState.TRANSCRIBING
    assert not rows(b)
    assert b.last(ac.SendLease).lease.keys == sent.lease.keys, "it is leased again"


def test_cancel_ends_the_translations_and_keeps_the_transcript() -> None:
    b = bench("gpu0")
    transcribe(b)
    plan(b, text("nllb", 0), text("nllb", 1))
    sent = b.last(ac.SendLease)
    b.handle(ev.CancelRequested("a"))
    assert b.state("a") is JobState.DONE
    assert b.sent(pr.AbandonLease)
    answer(b, sent)
    assert not rows(b)
    assert not b.all(ac.WriteTranslations)


def test_jobs_are_planned_while_there_is_room_for_their_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_lifecycle, "MAX_PLANNING", 1)
    monkeypatch.setattr(job_lifecycle, "MAX_OPEN_SENTENCES", 3)
    b = bench("gpu0")
    for job, priority in (("a", 0), ("b", 0), ("c", 0), ("urgent", 1)):
        transcribe(b, job, priority=priority)
    assert [sent.job.id for sent in b.all(ac.PlanTranslations)] == ["a"]
    plan(b, text("nllb", 0), text("nllb", 1))
    assert b.last(ac.PlanTranslations).job.id == "urgent"
    plan(b)
    assert b.last(ac.PlanTranslations).job.id == "urgent", "4 sentences wait"
    answer(b, b.last(ac.SendLease))
    assert b.last(ac.PlanTranslations).job.id == "b"
    b.handle(ev.CancelRequested("b"))
    assert b.last(ac.PlanTranslations).job.id == "c"
    plan(b)
    b.handle(ev.TranslationsWritten(job="c", number=b.last(ac.WriteTranslations).number))
    assert b.state("c") is JobState.DONE


def test_job_whose_priority_is_raised_is_planned_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_lifecycle, "MAX_PLANNING", 1)
    b = bench("gpu0")
    for job in ("a", "b", "c"):
        transcribe(b, job)
    b.handle(ev.PriorityChanged(job="c", priority=1))
    plan(b)
    assert b.last(ac.PlanTranslations).job.id == "c"
    plan(b)
    assert b.last(ac.PlanTranslations).job.id == "b"


def test_edit_does_not_start_a_cancelled_translation_again() -> None:
    b = bench("gpu0")
    transcribe(b, "a", "ja", "es")
    plan(b, text("nllb", 0, "ja"))
    b.handle(ev.CancelRequested("a"))
    plans = len(b.all(ac.PlanTranslations))
    assert b.jobs["a"].cancelled_languages == ("ja",)
    b.handle(ev.TranslationRequested(job=b.jobs["a"], is_edit=True))
    assert b.last(ac.PlanTranslations).job.active_languages == ("es",)
    b.handle(ev.CancelRequested("a"))
    b.handle(ev.TranslationRequested(job=b.jobs["a"], is_edit=True))
    assert (b.state("a"), len(b.all(ac.PlanTranslations))) == (JobState.DONE, plans + 1)
    b.handle(ev.TranslationRequested(job=b.jobs["a"], languages=("ko",)))
    assert b.last(ac.PlanTranslations).job.active_languages == ("ko",)
    b.handle(ev.TranslationRequested(job=b.jobs["a"]))
    assert b.jobs["a"].active_languages == ("ja", "es", "ko")


def test_restarted_daemon_plans_the_sentences_again() -> None:
    b = bench("gpu0")
    transcribe(b)
    plan(b, text("nllb", 0))
    b.restart()
    assert b.state("a") is JobState.TRANSLATING
    assert b.last(ac.PlanTranslations).job.id == "a"
    assert not b.all(ac.SendLease)


def test_plan_of_an_earlier_request_is_ignored() -> None:
    b = bench("gpu0")
    transcribe(b)
    first = b.last(ac.PlanTranslations)
    b.handle(ev.CancelRequested("a"))
    b.handle(ev.TranslationRequested(job=b.jobs["a"], languages=("es",)))
    b.handle(ev.TranslationsPlanned(job="a", number=first.number, texts=(text("nllb", 0),)))
    opened = [b.broker.live_jobs.open_sentences]
    plan(b, text("nllb", 0, "es"))
    opened.append(b.broker.live_jobs.open_sentences)
    assert opened == [0, 2]


def test_language_is_added_to_a_job_that_is_done() -> None:
    b = bench("gpu0")
    transcribe(b)
    plan(b)
    written(b)
    b.handle(ev.TranslationRequested(job=b.jobs["a"], languages=("es", "ja"), model="nllb"))
    assert b.state("a") is JobState.TRANSLATING
    assert b.jobs["a"].translate_to == ("ja", "es")
    assert b.jobs["a"].added_models == (("es", "nllb"), ("ja", "nllb"))
    plan(b)
    written(b)
    assert b.state("a") is JobState.DONE


def test_model_of_an_added_language_is_not_that_of_others() -> None:
    b = bench("gpu0")
    transcribe(b)
    plan(b)
    written(b)
    for language, model in (("es", "nllb"), ("ko", "llm"), ("es", "")):
        b.handle(ev.TranslationRequested(job=b.jobs["a"], languages=(language,), model=model))
        plan(b)
        written(b)
    job = b.jobs["a"]
    assert {tag: job.translate_model(tag) for tag in job.translate_to} == {
        "ja": "",
        "es": "nllb",
        "ko": "llm",
    }
    b.handle(ev.TranslationRequested(job=job, model="llm"))
    assert {b.jobs["a"].translate_model(tag) for tag in job.translate_to} == {"llm"}


@pytest.mark.parametrize("stage", ["planned", "leased", "writing"])
@pytest.mark.parametrize("added", [("es",), ()], ids=["language", "edit"])
def test_language_or_edit_that_is_added_meanwhile_is_planned_when_the_others_are_done(
    stage: str, added: tuple[str, ...]
) -> None:
    b = bench("gpu0")
    transcribe(b)
    request = ev.TranslationRequested(job=b.jobs["a"], languages=added, is_edit=not added)
    if stage == "planned":
        b.handle(request)
    plan(b, text("nllb", 0))
    if stage == "leased":
        b.handle(request)
    plans = len(b.all(ac.PlanTranslations))
    answer(b, b.last(ac.SendLease))
    if stage == "writing":
        b.handle(request)
        written(b)
    assert len(b.all(ac.PlanTranslations)) == plans + 1
    assert b.last(ac.PlanTranslations).job.translate_to == ("ja", *added)
    plan(b, text("nllb", 1, added[0] if added else "ja"))
    answer(b, b.last(ac.SendLease))
    written(b)
    assert b.state("a") is JobState.DONE


def test_language_that_is_added_before_the_transcript_is_done_is_translated_after_it() -> None:
    b = bench("gpu0")
    b.submit()
    b.read(0)
    b.handle(ev.TranslationRequested(job=b.jobs["a"], languages=("ja",)))
    assert b.state("a") is JobState.TRANSCRIBING
    b.reply_to_all()
    b.handle(ev.OutputsWritten("a", b"a"))
    assert b.state("a") is JobState.TRANSLATING


def test_retry_drops_the_sentences_that_could_not_be_translated() -> None:
    b = bench("gpu0")
    transcribe(b)
    plan(b)
    written(b)
    b.handle(ev.TranslationRequested(job=b.jobs["a"], is_retry=True))
    assert b.last(ac.DropTranslations) == ac.DropTranslations(job="a")


def test_plan_drops_sentences_that_the_job_has_no_more() -> None:
    b = bench("gpu0")
    transcribe(b)
    plan(b, text("nllb", 0), keys=(("ja", ("ja Sentence 0.0.", "ja Sentence 0.1.", "known")),))
    assert b.last(ac.DropTranslations).keys == ("ja Sentence 0.0.", "ja Sentence 0.1.", "known")


def test_sentences_stay_in_the_original_if_their_model_is_removed() -> None:
    b = bench("gpu0", batch_size=1)
    transcribe(b, "a", "ja", "es")
    plan(b, text("nllb", 0), text("nllb", 1), text("llm", 2, "es"))
    b.handle(ev.ModelsChanged((ModelSpec(), LLM)))
    [problem] = {row.problem for row in rows(b)}
    assert 'the model "nllb" is not in [[models]]' in problem
    assert b.state("a") is JobState.TRANSLATING
    add_endpoint(b)
    answer(b, b.last(ac.SendLease))
    answer(b, b.lease(min(b.broker.lease_dispatch.leases))) if b.broker.lease_dispatch.leases else None
    assert b.all(ac.WriteTranslations)


def test_sentences_stay_in_the_original_if_no_model_covers_their_languages() -> None:
    b = bench("gpu0")
    transcribe(b)
    plan(
        b,
        TextPlan(
            model="",
            request=text("", 0).request,
            keys=("1", "2"),
            terms=("", ""),
            problem="no model translates",
        ),
    )
    assert {row.problem for row in rows(b)} == {"no model translates"}
    written(b)
    assert b.state("a") is JobState.DONE


def test_sentences_stay_in_the_original_if_the_worker_of_an_endpoint_cannot_start() -> None:
    b = bench("gpu0")
    b.handle(ev.SlotAdded("endpoint-llm", Role.TRANSLATE))
    transcribe(b)
    plan(b, text("llm", 0))
    assert not rows(b)
    b.die("endpoint-llm.1", is_fatal=True, cause="the key file is empty")
    assert {row.problem for row in rows(b)} == {"the endpoint cannot be used: the key file is empty"}


def test_files_that_are_subtitled_already_are_not_translated() -> None:
    b = bench("gpu0")
    b.submit(translate_to=("ja",))
    b.already_subtitled("it has subtitles")
    b.handle(ev.OutputsWritten("a", b"a"))
    assert b.state("a") is JobState.DONE
    assert not b.all(ac.PlanTranslations)


def test_failed_job_is_not_translated() -> None:
    b = bench("gpu0")
    b.submit(translate_to=("ja",))
    b.refuse("no audio in it")
    b.handle(ev.TranslationRequested(job=b.jobs["a"], languages=("es",)))
    assert b.state("a") is JobState.FAILED
    assert not b.all(ac.PlanTranslations)


def test_translation_model_is_preloaded_by_a_lease_without_sentences() -> None:
    spec = ModelSpec(name="nllb", engine=NLLB.engine, preload=1)
    b = Bench((ModelSpec(), spec))
    b.worker("gpu0")
    sent = b.last(ac.SendLease)
    assert isinstance(sent.message, pr.Translate)
    assert (sent.message.items, sent.message.is_load) == ((), True)
    answer(b, sent)
    assert "nllb" in b.slot("gpu0").models
