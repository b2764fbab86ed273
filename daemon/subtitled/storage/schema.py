"""The database's schema, as numbered migrations; a released migration never changes."""

from __future__ import annotations

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE jobs (
        id                   TEXT PRIMARY KEY,
        ord                  INTEGER NOT NULL UNIQUE,
        state                TEXT NOT NULL,
        source               BLOB NOT NULL,
        location             BLOB NOT NULL,
        size                 INTEGER NOT NULL,
        mtime_ns             INTEGER NOT NULL,
        options              BLOB NOT NULL,
        losses               INTEGER NOT NULL,
        recipe               BLOB NOT NULL,
        is_planned           INTEGER NOT NULL,
        media                BLOB,
        language             TEXT,
        language_probability REAL NOT NULL,
        cause                TEXT NOT NULL,
        is_closed            INTEGER NOT NULL,
        created_ms           INTEGER NOT NULL,
        started_ms           INTEGER,
        ended_ms             INTEGER,
        owner                TEXT NOT NULL,
        tag                  TEXT NOT NULL,
        sha256               TEXT NOT NULL,
        repetition           INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX jobs_by_state ON jobs (state, ord);
    CREATE INDEX jobs_by_owner ON jobs (owner, ord);
    CREATE INDEX jobs_by_content ON jobs (sha256, owner) WHERE sha256 <> '';
    -- A file is accepted once with the same options, also after it failed or was cancelled; `repetition` allows more.
    CREATE UNIQUE INDEX jobs_by_source ON jobs (source, size, mtime_ns, options, repetition);

    CREATE TABLE segments (
        job                  TEXT NOT NULL REFERENCES jobs (id),
        idx                  INTEGER NOT NULL,
        state                TEXT NOT NULL,
        plan                 BLOB NOT NULL,
        losses               INTEGER NOT NULL,
        cause                TEXT NOT NULL,
        worker               TEXT NOT NULL,
        language             TEXT,
        language_probability REAL NOT NULL,
        result               BLOB,
        PRIMARY KEY (job, idx)
    ) STRICT, WITHOUT ROWID;

    -- Every transition, appended; watchers resume from `seq`.
    CREATE TABLE journal (
        seq     INTEGER PRIMARY KEY AUTOINCREMENT,
        at_ms   INTEGER NOT NULL,
        subject TEXT NOT NULL,
        job     TEXT NOT NULL,
        name    TEXT NOT NULL,
        before  TEXT NOT NULL,
        event   TEXT NOT NULL,
        after   TEXT NOT NULL,
        cause   TEXT NOT NULL
    ) STRICT;
    CREATE INDEX journal_by_job ON journal (job, seq);

    -- The source that each output file was written for; a path is claimed before the file is written.
    CREATE TABLE outputs (
        path   BLOB PRIMARY KEY,
        source BLOB NOT NULL,
        job    TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX outputs_by_job ON outputs (job);
    CREATE INDEX outputs_by_source ON outputs (source);

    -- Apart from the job's row, which is read far more often.
    CREATE TABLE waveforms (
        job      TEXT PRIMARY KEY REFERENCES jobs (id),
        waveform BLOB NOT NULL
    ) STRICT;
    """,
)
