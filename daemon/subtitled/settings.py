"""The configuration in the terms of those who work by it, and what of a changed one can come into force."""

from __future__ import annotations

from msgspec import structs

from subtitled.backend import Recipe
from subtitled.config import Config
from subtitled.core.deadlines import Policy
from subtitled.space import SpaceGuard

FIXED_SECTIONS = ("model", "listen", "state")
"""Sections that workers and sockets were made with; a change needs a restart."""


def merge(old: Config, new: Config) -> tuple[Config, list[str]]:
    """Return the configuration that comes into force, and the changed keys that stay as they were."""
    kept = []
    for section in FIXED_SECTIONS:
        before, after = getattr(old, section), getattr(new, section)
        kept += [
            f"{section}.{name}"
            for name in before.__struct_fields__
            if getattr(before, name) != getattr(after, name)
        ]
    return structs.replace(new, **{section: getattr(old, section) for section in FIXED_SECTIONS}), kept


def space_guard_of(config: Config) -> SpaceGuard:
    """Return the guard over the folders that results are written to."""
    folders = [inbox.path if inbox.output == "beside" else inbox.output for inbox in config.inbox]
    return SpaceGuard([config.state.dir, *folders], config.state.reserve_mb * 2**20)


def policy_of(config: Config) -> Policy:
    """Return the broker's limits."""
    recovery = config.recovery
    return Policy(
        attempts=recovery.attempts,
        prepare_attempts=recovery.prepare_attempts,
        silence_s=recovery.silence_s,
        start_timeout_s=recovery.start_timeout_s,
        lease_min_s=recovery.lease_min_s,
        lease_per_audio_s=recovery.lease_per_audio_s,
        prepare_stall_s=recovery.prepare_stall_s,
        batch_size=config.model.batch_size,
        queue_bytes=config.pool.queue_mb * 2**20,
    )


def recipe_of(config: Config) -> Recipe:
    """Return the settings that decide a plan."""
    return Recipe(
        threshold=config.vad.threshold,
        min_silence_ms=config.vad.min_silence_ms,
        pad_ms=config.vad.pad_ms,
        min_speech_ms=config.segments.min_speech_ms,
        max_segment_s=config.segments.max_segment_s,
    )
