"""The database's numbered migrations; one that has shipped never changes."""

from __future__ import annotations

MIGRATIONS: tuple[str, ...] = (
    # 1: the first release
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
        ended_ms             INTEGER
    ) STRICT;
    CREATE INDEX jobs_by_state ON jobs (state, ord);
    -- The same file is not taken twice; a file that was cancelled or failed counts as taken.
    CREATE UNIQUE INDEX jobs_by_source ON jobs (source, size, mtime_ns, options);

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

    -- Every transition, appended; `seq` is what a watcher resumes from.
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

    -- Which source an output file was written for: a path is claimed before it is written.
    CREATE TABLE outputs (
        path   BLOB PRIMARY KEY,
        source BLOB NOT NULL,
        job    TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX outputs_by_job ON outputs (job);
    """,
    # 2: files that clients send
    """
    ALTER TABLE jobs ADD COLUMN owner TEXT NOT NULL DEFAULT '';
    ALTER TABLE jobs ADD COLUMN tag TEXT NOT NULL DEFAULT '';
    ALTER TABLE jobs ADD COLUMN sha256 TEXT NOT NULL DEFAULT '';
    ALTER TABLE jobs ADD COLUMN repetition INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX jobs_by_owner ON jobs (owner, ord);
    CREATE INDEX jobs_by_content ON jobs (sha256, owner) WHERE sha256 <> '';
    -- A file may be taken twice where somebody asks for it.
    DROP INDEX jobs_by_source;
    CREATE UNIQUE INDEX jobs_by_source ON jobs (source, size, mtime_ns, options, repetition);
    """,
    # 3: what was written for a source is found when the source comes again
    """
    CREATE INDEX outputs_by_source ON outputs (source);
    """,
    # 4: how loud each file is, apart from its job's row, which is read far more often
    """
    CREATE TABLE waveforms (
        job      TEXT PRIMARY KEY REFERENCES jobs (id),
        waveform BLOB NOT NULL
    ) STRICT;
    """,
)
