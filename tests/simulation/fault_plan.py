"""All random choices of a history: which faults it has, how often they strike, what its media are like."""

from __future__ import annotations

from enum import Enum
from random import Random
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from simulated_models import ENDPOINT, TRANSLATOR, SimulatedDevices, SimulatedModel

from subtitled.config.schema import InboxConfig
from subtitled.core.plan import Plan, PlanPiece, Span
from subtitled.core.policy import Policy
from subtitled.core.records import Options

MIB = 2**20
WINDOW_SAMPLES = 480_000


class Fault(Enum):
    """What may go wrong, and what users may do."""

    START_CRASH = "a worker dies while it starts"
    START_HANG = "a worker never becomes ready"
    SPAWN_FAILED = "the system has no process left"
    START_FATAL = "a worker reports that a restart cannot help"
    BAD_DEVICE = "whatever a slot is given kills or is refused, for a while"
    IDLE_DEATH = "a worker dies between two works"
    BUSY_DEATH = "a worker dies at work"
    BUSY_FATAL = "a worker ends permanently at work"
    HANG = "a worker's device hangs"
    SLOW = "a lease takes about as long as it may"
    SILENT = "a worker sends nothing more"
    REFUSAL = "a worker refuses a lease"
    LEFT_OUT = "a reply leaves a segment out"
    LATE = "messages take long"
    STALL = "a decoder makes no progress"
    UNAVAILABLE = "the file system cannot read a file"
    HUNG_FOLDER = "the folder of such a file does not answer for a while"
    BAD_MEDIA = "media that cannot be read, kill decoders, or change"
    POISON = "segments that kill workers, or that they refuse"
    SILENCE = "segments without speech"
    LOSER = "segments heard in another language"
    CANCEL = "a job is cancelled"
    RETRY = "a failed job is tried again"
    WRITE_FAILED = "outputs cannot be written"
    NO_SPACE = "there is no space for a while"
    MODEL_BROKEN = "a model cannot be loaded"
    MODELS_CHANGED = "models are removed, changed and added again"
    SLOT_REMOVED = "a slot is taken away"
    RELOAD = "broken slots are tried again, removed ones come back"
    PARTITION = "the network to another host is cut, both ways or one"
    LOST = "a message to or from another host is lost"
    TWICE = "a message from another host comes twice"
    SLOW_LINK = "what goes to another host takes long"
    VANISH = "a process on another host is not started again"
    LEAVE = "a worker on another host leaves"
    DRAIN = "the daemon is stopped"
    STOP_TIMEOUT = "the daemon has little time to stop"
    DISK_FULL = "a commit finds the disk full for a while"
    REPORTED_AGAIN = "a file in an inbox is reported more than once"
    DROPPED_AGAIN = "the file of a failed job is put into the inbox again"
    DAEMON_KILL = "the daemon is killed"
    STORE_FAILED = "the daemon ends since a commit failed"


RATES = {
    Fault.RETRY: 0.7,
    Fault.BAD_MEDIA: 0.4,
    Fault.POISON: 0.25,
    Fault.SILENCE: 0.3,
    Fault.LOSER: 0.3,
    Fault.CANCEL: 0.4,
    Fault.WRITE_FAILED: 0.3,
    Fault.MODEL_BROKEN: 0.4,
    Fault.LOST: 0.05,
    Fault.PARTITION: 0.7,
    Fault.LEAVE: 0.7,
    Fault.VANISH: 0.4,
    Fault.REPORTED_AGAIN: 0.6,
    Fault.DISK_FULL: 0.02,
    Fault.DAEMON_KILL: 0.01,
    Fault.STORE_FAILED: 0.01,
}
"""How often a fault strikes, at most, where it may; 0.15 by default."""
MODEL_FAULTS = frozenset({Fault.MODEL_BROKEN, Fault.MODELS_CHANGED})
"""Faults of histories that have several models."""
SHARE_WITH_TEXTS = 0.3
"""How many of the histories have jobs that are translated."""
SHARE_WITH_MODELS = 0.3
"""How many of the histories have several models."""
SHARE_WITH_REQUESTS = 0.3
"""How many of the histories have an admin who loads and unloads models, and pauses the queue."""


class SimulatedMedia(Struct, frozen=True, kw_only=True):
    """A media file as the workers find it."""

    plans: tuple[Plan, ...]
    language: str
    losers: dict[int, str]
    """Segments that sound like another language to a worker that has to guess."""
    silent: frozenset[int]
    poison: frozenset[int]
    """Segments that kill every transcribe worker."""
    refused: frozenset[int]
    """Segments that every transcribe worker refuses."""
    is_unreadable: bool = False
    subtitled_from: int | None = None
    """From this reading on the file has subtitles already, if it is not planned."""
    kills_decoders: bool = False
    texts: int = 0
    """Text segments of its transcript, for each language."""
    poison_texts: frozenset[int] = frozenset()
    """Those that kill every worker."""
    refused_texts: frozenset[int] = frozenset()
    """Those that every worker refuses."""
    changes_from: int | None = None
    """After the first reading, segments from this index on are others than before."""

    def read(self, reading: int) -> tuple[Plan, ...]:
        """Return the segments that the given reading of the file finds."""
        if self.changes_from is None or not reading:
            return self.plans
        return tuple(
            plan if plan.index < self.changes_from else make_plan(plan.index, plan.samples + 512)
            for plan in self.plans
        )


def make_plan(index: int, samples: int) -> Plan:
    """Return a segment of one piece."""
    start = index * 2 * WINDOW_SAMPLES
    return Plan(index, (PlanPiece(start, samples),), (Span(start, start + samples),))


class FaultPlan:
    """The random choices of one history; the same seed makes the same ones."""

    def __init__(
        self, seed: int, *, without: frozenset[Fault] = frozenset(), spared: frozenset[int] = frozenset()
    ) -> None:
        """`without` removes kinds of faults, `spared` single strikes; that changes what comes after as well."""
        self.random = Random(seed)
        self.model_random = Random(f"models of {seed}")
        """For all choices about several models: what they are does not change histories that have only the default one."""
        self.has_models = self.model_random.random() < SHARE_WITH_MODELS
        self.text_random = Random(f"texts of {seed}")
        """For all choices about translations, likewise."""
        self.has_texts = self.text_random.random() < SHARE_WITH_TEXTS
        self.request_random = Random(f"requests of {seed}")
        """For all choices about what admins request, likewise."""
        self.has_requests = self.request_random.random() < SHARE_WITH_REQUESTS
        self.idle_unload_chance = self.model_random.choice((0.0, 0.2))
        """For each heartbeat of an idle worker; 0: models stay in memory."""
        self.struck: list[int] = []
        """Which draws were strikes, counted from the first draw."""
        self._spared = spared
        self._draws = 0
        self.is_calm = False
        """Nothing goes wrong any more, except for what the media are."""
        # Swarm testing (Groce et al. 2012): a history with few kinds of faults digs deeper than one with all.
        share = self.random.choice((0.1, 0.3, 0.6))
        drawn = {
            fault: (self.random_of(fault).random() < share, self.random_of(fault).choice((0.2, 1.0)))
            for fault in Fault
            if self.has_models or fault not in MODEL_FAULTS
        }
        self.rates = {
            fault: RATES.get(fault, 0.15) * factor
            for fault, (is_in, factor) in drawn.items()
            if is_in and fault not in without
        }
        self.is_long = self.random.random() < 0.08
        """A file has more audio than the memory for it."""
        self.devices = self._with_translators(self._devices())
        self._bad_device = self.random.choice(("prepare0", "gpu0", "gpu0", "gpu1", "far0/cuda0"))

    def random_of(self, fault: Fault) -> Random:
        """Return the generator of the choices about a fault."""
        return self.model_random if fault in MODEL_FAULTS else self.random

    def strikes(self, fault: Fault) -> bool:
        """Return whether a fault strikes here."""
        if self.is_calm or fault not in self.rates:
            return False
        self._draws += 1
        if self.random_of(fault).random() >= self.rates[fault] or self._draws in self._spared:
            return False
        self.struck.append(self._draws)
        return True

    def is_bad(self, slot: str) -> bool:
        """Return whether a slot's device is bad at present."""
        return Fault.BAD_DEVICE in self.rates and slot == self._bad_device and not self.is_calm

    def between(self, low: float, high: float) -> float:
        """Return a random time between two."""
        return low + (high - low) * self.random.random()

    def policy(self) -> Policy:
        """Return the settings of this history's daemon."""
        return Policy(
            attempts=self.random.choice((1, 2, 3, 3)),
            prepare_attempts=self.random.choice((1, 2, 2)),
            crash_budget=self.random.choice((2, 3, 10)),
            quarantine_s=self.random.choice((20.0, 90.0)),
            silence_s=30.0,
            forget_s=40.0,
            start_timeout_s=60.0,
            lease_min_s=20.0,
            lease_per_audio_s=0.5,
            prepare_stall_s=25.0,
            batch_size=self.random.choice((1, 2, 4, 16)),
            max_models=self.devices.max_models,
            queue_bytes=self.random.choice((4, 8, 16)) * MIB,
            max_in_flight_bytes=self.random.choice((2, 64)) * MIB,
        )

    def _devices(self) -> SimulatedDevices:
        """Return the models of this history."""
        if not self.has_models:
            return SimulatedDevices()
        random = self.model_random
        others = []
        for name in ("big", "small", "third")[: random.choice((1, 2, 3))]:
            is_broken = self.strikes(Fault.MODEL_BROKEN)
            others.append(
                SimulatedModel(
                    name=name,
                    size=random.choice((1, 2, 3, 5)),
                    load_s=random.choice((0.3, 2.0, 8.0)),
                    preload=0 if is_broken else random.choice((0, 0, 0, 1, 2)),
                    is_broken=is_broken,
                )
            )
        default = SimulatedModel(load_s=random.choice((0.3, 3.0)))
        preloaded = [model for model in others if model.preload]
        largest = max(model.size for model in (default, *others))
        # Not each device has room for the models that are to be preloaded.
        needed = largest + (sum(model.size for model in preloaded) if random.random() < 0.7 else 0)
        return SimulatedDevices(
            default=default,
            others=tuple(others),
            size=needed + random.choice((0, 0, 2, 100)),
            is_measured=random.random() < 0.6,
            max_models=random.choice((0, 0, len(preloaded) + 1, len(preloaded) + 2)),
        )

    def model(self) -> str:
        """Return the model of a job."""
        names = (model.name for model in self.devices.others if not model.is_for_text)
        return self.model_random.choice(("", *names))

    def _with_translators(self, devices: SimulatedDevices) -> SimulatedDevices:
        """Return the devices with models that translate, and room for one of them."""
        if not self.has_texts:
            return devices
        translator = SimulatedModel(
            name=TRANSLATOR, size=1, load_s=self.text_random.choice((0.3, 2.0)), is_for_text=True
        )
        endpoint = SimulatedModel(name=ENDPOINT, size=0, is_for_text=True, is_endpoint=True)
        chosen = self.text_random.choice(((translator,), (endpoint,), (translator, endpoint)))
        return replace(
            devices,
            others=(*devices.others, *chosen),
            size=devices.size + translator.size,
            max_models=devices.max_models and devices.max_models + 1,
        )

    def languages(self) -> tuple[str, ...]:
        """Return the languages that a job is translated to."""
        if not self.has_texts:
            return ()
        return self.text_random.choice(((), ("ja",), ("ja",), ("es", "ja")))

    def _texts(self) -> dict[str, Any]:
        """Return what a file's transcript has to translate."""
        if not self.has_texts:
            return {}
        random, chance = self.text_random, RATES[Fault.POISON] if Fault.POISON in self.rates else 0.0
        texts = range(random.choice((0, 1, 2, 5)))
        return {
            "texts": len(texts),
            "poison_texts": frozenset(text for text in texts if random.random() < chance / 2),
            "refused_texts": frozenset(text for text in texts if random.random() < chance / 2),
        }

    def options(self) -> Options:
        """Return the options of a client's job."""
        is_translated = self.has_models and self.model_random.random() < 0.3
        return Options(
            model=self.model(),
            is_translated_too=is_translated,
            translate_to=self.languages(),
            translation_model=self.model() if is_translated else None,
            language=self.random.choice(("auto", "auto", "multi", "de")),
            word_timestamps=self.random.choice(("auto", "auto", "auto", True, False)),
            priority=self.random.choice((0, 0, 0, 5)),
        )

    def inbox(self, path: str) -> InboxConfig:
        """Return an inbox."""
        return InboxConfig(
            path=path,
            model=self.model(),
            translate_to=self.languages(),
            language=self.random.choice(("auto", "auto", "multi", "de")),
            word_timestamps=self.random.choice(("auto", "auto", "auto", True, False)),
            priority=self.random.choice((0, 0, 0, 5)),
            after=self.random.choice(("move", "move", "keep")),
        )

    def media(self) -> SimulatedMedia:
        """Return a media file."""
        is_long = self.is_long and self.random.random() < 0.6
        count = self.random.randrange(8, 24) if is_long else self.random.choice((0, 1, 2, 3, 5, 7))
        lengths = (4_000, 60_000, WINDOW_SAMPLES, WINDOW_SAMPLES, WINDOW_SAMPLES)
        is_bad = self.strikes(Fault.BAD_MEDIA)
        badness = self.random.choice(("unreadable", "killer", "changing", "subtitled")) if is_bad else ""
        indices = range(count)
        return SimulatedMedia(
            plans=tuple(make_plan(index, self.random.choice(lengths)) for index in indices),
            language="en",
            losers={
                index: self.random.choice(("fr", "es")) for index in indices if self.strikes(Fault.LOSER)
            },
            silent=frozenset(index for index in indices if self.strikes(Fault.SILENCE)),
            poison=frozenset(index for index in indices if self.strikes(Fault.POISON)),
            refused=frozenset(index for index in indices if self.strikes(Fault.POISON)),
            is_unreadable=badness == "unreadable",
            subtitled_from=self.random.choice((0, 1)) if badness == "subtitled" else None,
            kills_decoders=badness == "killer",
            changes_from=self.random.randrange(count) if badness == "changing" and count else None,
            **self._texts(),
        )
