"""Conversions of the configuration for the parts that use it, and which changes a reload can apply."""

from __future__ import annotations

from msgspec import structs

from subtitled.config.model_choice import kind_of
from subtitled.config.schema import BESIDE, Config, NamedModelConfig
from subtitled.core.model_placement import ModelSpec
from subtitled.core.plan import PlanSettings
from subtitled.core.policy import Policy
from subtitled.core.protocol import EndpointSettings, EngineSettings

FIXED_SECTIONS = ("model", "decoding", "listen")
"""Sections that need a restart, as remote.listen and state.dir do: workers and sockets were made with them."""

DEFAULT_BATCH = 16
"""Segments decoded at once by a worker that has not reported its own number."""


def merge(old: Config, new: Config) -> tuple[Config, list[str]]:
    """Return the configuration to apply, and the changed keys that need a restart."""
    merged = structs.replace(
        new,
        model=old.model,
        decoding=old.decoding,
        listen=old.listen,
        remote=structs.replace(new.remote, listen=old.remote.listen),
        state=structs.replace(new.state, dir=old.state.dir),
    )
    kept = []
    for section in (*FIXED_SECTIONS, "remote", "state"):
        wanted, got = getattr(new, section), getattr(merged, section)
        kept += [
            f"{section}.{key}" for key in got.__struct_fields__ if getattr(wanted, key) != getattr(got, key)
        ]
    if not old.pool.devices and merged.pool.devices:
        # The model was not downloaded to this host.
        merged = structs.replace(merged, pool=structs.replace(merged.pool, devices=()))
        kept.append("pool.devices")
    if merged.client and not old.client and any(end.startswith("tcp://") for end in merged.listen.clients):
        # The TCP endpoints were opened without keys and stay so: the configuration must not say otherwise.
        merged = structs.replace(merged, client=())
        kept.append("client")
    return merged, kept


def disk_reserve_of(config: Config) -> tuple[list[str], int]:
    """Return the folders that results are written to, and the bytes to keep free there."""
    outputs = [inbox.path if inbox.output == "beside" else inbox.output for inbox in config.inbox]
    return [config.state.dir, *outputs], config.state.reserve_mb * 2**20


def written_folders(config: Config) -> list[str]:
    """Return the folders that job files are written to."""
    folders = [folder for inbox in config.inbox for folder in (inbox.path, inbox.output)]
    return [folder for folder in folders if folder != BESIDE]


def readable_folders(config: Config) -> tuple[str, ...]:
    """Return the folders that decoding processes may read: inboxes, outputs, uploads; never keys or the database."""
    uploads = f"{config.state.dir}/uploads"
    inboxes = (inbox.path for inbox in config.inbox)
    return tuple(dict.fromkeys([*inboxes, *written_folders(config), uploads, *config.uploads.paths]))


def policy_of(config: Config) -> Policy:
    """Return the broker's limits."""
    recovery = config.recovery
    return Policy(
        attempts=recovery.attempts,
        prepare_attempts=recovery.prepare_attempts,
        crash_budget=recovery.crash_budget,
        quarantine_s=recovery.quarantine_s,
        silence_s=recovery.silence_s,
        start_timeout_s=recovery.start_timeout_s,
        lease_min_s=recovery.lease_min_s,
        lease_per_audio_s=recovery.lease_per_audio_s,
        prepare_stall_s=recovery.prepare_stall_s,
        batch_size=DEFAULT_BATCH if config.model.batch_size == "auto" else config.model.batch_size,
        queue_bytes=config.pool.queue_mb * 2**20,
        max_models=config.pool.max_models,
        max_in_flight_bytes=config.remote.max_in_flight_mb * 2**20,
    )


def engine_of(config: Config) -> EngineSettings:
    """Return the decoding settings of a transcribe worker on any host."""
    model = config.model
    return EngineSettings(
        model=model.name,
        compute_type=model.compute_type,
        beam_size=model.beam_size,
        batch_size=0 if model.batch_size == "auto" else model.batch_size,
        streams=model.streams_per_gpu,
        idle_unload_s=model.idle_unload_s,
        decoding=config.decoding,
    )


def model_specs(config: Config) -> tuple[ModelSpec, ...]:
    """Return the models for the broker, the default first."""
    default = engine_of(config)
    return (
        ModelSpec(),
        *(
            _endpoint_spec(model)
            if kind_of(model) == "openai"
            else ModelSpec(
                name=model.name,
                engine=structs.replace(
                    default,
                    kind=kind_of(model),
                    model=model.source,
                    compute_type=model.compute_type,
                    batch_size=0 if model.batch_size == "auto" else model.batch_size,
                    # An idle worker that unloaded it would be sent a lease to load it again at once.
                    idle_unload_s=0.0 if model.preload else default.idle_unload_s,
                ),
                slots=model.devices,
                preload=model.preload,
            )
            for model in config.models
        ),
    )


def _endpoint_spec(model: NamedModelConfig) -> ModelSpec:
    endpoint = EndpointSettings(
        url=model.endpoint,
        model=model.endpoint_model,
        api_key_file=model.api_key_file,
        max_concurrent=model.max_concurrent,
    )
    engine = EngineSettings(kind="openai", model=model.endpoint_model, endpoint=endpoint)
    return ModelSpec(name=model.name, engine=engine, endpoint_slot=f"endpoint-{model.name}")


def endpoints_of(config: Config) -> dict[str, EngineSettings]:
    """Return the settings of the workers that send text to endpoints, by slot."""
    specs = (spec for spec in model_specs(config) if spec.endpoint_slot)
    return {spec.endpoint_slot: spec.engine for spec in specs if spec.engine is not None}


def plan_settings_of(config: Config) -> PlanSettings:
    """Return the settings that decide a plan; the broker adds the model's window."""
    return PlanSettings(
        threshold=config.vad.threshold,
        min_silence_ms=config.vad.min_silence_ms,
        pad_ms=config.vad.pad_ms,
        min_speech_ms=config.segments.min_speech_ms,
        max_segment_s=config.segments.max_segment_s,
        max_pause_ms=config.segments.max_pause_ms,
    )
