"""The database's schema, as numbered migrations; a released migration never changes."""

from __future__ import annotations

MIGRATIONS: tuple[str, ...] = (
    """
    -- Options and plan settings of jobs, each value once: a thousand files of an inbox have the same.
    CREATE TABLE settings (
        id   INTEGER PRIMARY KEY,
        data BLOB NOT NULL UNIQUE
    ) STRICT;

    CREATE TABLE jobs (
        ord                  INTEGER PRIMARY KEY AUTOINCREMENT,
        id                   TEXT NOT NULL UNIQUE,
        state                TEXT NOT NULL,
        source               BLOB NOT NULL,
        name                 TEXT NOT NULL,
        location             BLOB NOT NULL,
        size                 INTEGER NOT NULL,
        mtime_ns             INTEGER NOT NULL,
        options              INTEGER NOT NULL REFERENCES settings (id),
        losses               INTEGER NOT NULL,
        plan_settings        INTEGER NOT NULL REFERENCES settings (id),
        is_planned           INTEGER NOT NULL,
        media                BLOB,
        language             TEXT,
        language_probability REAL NOT NULL,
        cause                TEXT NOT NULL,
        is_closed            INTEGER NOT NULL,
        is_packed            INTEGER NOT NULL DEFAULT 0,
        created_ms           INTEGER NOT NULL,
        started_ms           INTEGER,
        ended_ms             INTEGER,
        owner                TEXT NOT NULL,
        tag                  TEXT NOT NULL,
        sha256               TEXT NOT NULL,
        repetition           INTEGER NOT NULL
    ) STRICT;
    -- Each index ends with the rowid, `ord`: a list of one state, newest first, reads the index backwards.
    CREATE INDEX jobs_by_state ON jobs (state);
    CREATE INDEX jobs_by_owner ON jobs (owner, state) WHERE owner <> '';
    CREATE INDEX jobs_by_tag ON jobs (tag, state) WHERE tag <> '';
    CREATE INDEX jobs_by_owner_and_tag ON jobs (owner, tag, state) WHERE owner <> '' AND tag <> '';
    CREATE INDEX jobs_by_end ON jobs (ended_ms) WHERE ended_ms IS NOT NULL;
    CREATE INDEX jobs_to_close ON jobs (state) WHERE state = 'failed' AND NOT is_closed;
    CREATE INDEX jobs_to_pack ON jobs (ended_ms) WHERE state = 'done' AND NOT is_packed;
    CREATE INDEX jobs_by_options ON jobs (options);
    CREATE INDEX jobs_by_plan_settings ON jobs (plan_settings);
    CREATE INDEX jobs_by_content ON jobs (sha256, owner, tag, options) WHERE sha256 <> '' AND state <> 'cancelled';
    -- A file is accepted once with the same options, also after it failed or was cancelled; `repetition` allows more.
    CREATE UNIQUE INDEX jobs_by_source ON jobs (source, size, mtime_ns, options, repetition);

    -- The number of jobs by owner and state, kept by the triggers.
    CREATE TABLE job_counts (
        owner TEXT NOT NULL,
        state TEXT NOT NULL,
        count INTEGER NOT NULL,
        PRIMARY KEY (owner, state)
    ) STRICT, WITHOUT ROWID;
    -- Trigrams of the names, for the search.
    CREATE VIRTUAL TABLE names USING fts5 (
        name, content = 'jobs', content_rowid = 'ord', tokenize = 'trigram', detail = 'none', columnsize = 0
    );
    CREATE TRIGGER job_inserted AFTER INSERT ON jobs BEGIN
        INSERT INTO job_counts VALUES (new.owner, new.state, 1) ON CONFLICT DO UPDATE SET count = count + 1;
        INSERT INTO names (rowid, name) VALUES (new.ord, new.name);
    END;
    CREATE TRIGGER job_moved AFTER UPDATE OF state ON jobs WHEN old.state <> new.state BEGIN
        UPDATE job_counts SET count = count - 1 WHERE owner = old.owner AND state = old.state;
        INSERT INTO job_counts VALUES (new.owner, new.state, 1) ON CONFLICT DO UPDATE SET count = count + 1;
    END;
    CREATE TRIGGER job_deleted AFTER DELETE ON jobs BEGIN
        UPDATE job_counts SET count = count - 1 WHERE owner = old.owner AND state = old.state;
        DELETE FROM job_counts WHERE owner = old.owner AND state = old.state AND count = 0;
        INSERT INTO names (names, rowid, name) VALUES ('delete', old.ord, old.name);
        DELETE FROM settings WHERE id IN (old.options, old.plan_settings)
            AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.options = settings.id)
            AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.plan_settings = settings.id);
    END;

    CREATE TRIGGER job_settings_changed AFTER UPDATE OF options, plan_settings ON jobs
        WHEN old.options <> new.options OR old.plan_settings <> new.plan_settings BEGIN
        DELETE FROM settings WHERE id IN (old.options, old.plan_settings)
            AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.options = settings.id)
            AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.plan_settings = settings.id);
    END;

    CREATE TABLE segments (
        job                  TEXT NOT NULL,
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
    CREATE INDEX segments_by_state ON segments (job, state);

    -- The segments of a done job, compressed, in place of its rows in `segments`.
    CREATE TABLE results (
        job    TEXT PRIMARY KEY,
        counts BLOB NOT NULL,
        data   BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;

    -- Every transition, appended; watchers resume from `seq`, which is never used twice.
    CREATE TABLE journal (
        seq     INTEGER PRIMARY KEY AUTOINCREMENT,
        at_ms   INTEGER NOT NULL,
        subject TEXT NOT NULL,
        job     TEXT NOT NULL,
        owner   TEXT NOT NULL,
        name    TEXT NOT NULL,
        before  TEXT NOT NULL,
        event   TEXT NOT NULL,
        after   TEXT NOT NULL,
        cause   TEXT NOT NULL
    ) STRICT;
    CREATE INDEX journal_by_job ON journal (job);
    CREATE INDEX journal_by_owner ON journal (owner) WHERE owner <> '';
    CREATE INDEX journal_history ON journal (job) WHERE job <> '' AND (subject = 'job' OR cause <> '');
    CREATE INDEX journal_ends ON journal (subject)
        WHERE subject = 'job' AND after IN ('done', 'failed') AND before <> after;

    -- The last journal entry that each kind of hook has handled; in the database, so that a restored backup or a power cut
    -- takes both back together.
    CREATE TABLE hook_marks (
        name TEXT PRIMARY KEY,
        seq  INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    -- Jobs whose row is deleted and whose segments and journal are being deleted.
    CREATE TABLE deleted_jobs (job TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
    -- Files of deleted jobs that may still lie in an inbox: they are not accepted again.
    CREATE TABLE processed_files (
        source   BLOB NOT NULL,
        size     INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        PRIMARY KEY (source, size, mtime_ns)
    ) STRICT, WITHOUT ROWID;

    -- The job that each output file was written for; a path is claimed before the file is written.
    CREATE TABLE outputs (
        path BLOB PRIMARY KEY,
        job  TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX outputs_by_job ON outputs (job);

    -- Apart from the job's row, which is read far more often.
    CREATE TABLE waveforms (
        job      TEXT PRIMARY KEY,
        waveform BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
    """
    -- Cues that people saved in place of the model's: one row for each version of a job's subtitles of one task.
    CREATE TABLE edits (
        job        TEXT NOT NULL,
        task       TEXT NOT NULL,
        version    INTEGER NOT NULL,
        saved_ms   INTEGER NOT NULL,
        begun_ms   INTEGER NOT NULL,
        author     TEXT NOT NULL,
        -- Id of the editing session that saved it automatically, else empty.
        draft_session TEXT NOT NULL,
        restored   INTEGER,
        cues       INTEGER NOT NULL,
        -- Compressed JSON; NULL: the model's cues, restored.
        data       BLOB,
        -- Whether the files of the job's outputs contain it, or a later version.
        is_written INTEGER NOT NULL,
        PRIMARY KEY (job, task, version)
    ) STRICT;
    CREATE INDEX edits_to_write ON edits (is_written, job) WHERE NOT is_written;
    CREATE INDEX drafts ON edits (begun_ms, job, task) WHERE draft_session <> '';

    -- Language tags that a job is translated to besides those of its options, with spaces between them; and those languages with the name of the model that a
    -- client requested for them (MessagePack).
    ALTER TABLE jobs ADD COLUMN added_languages TEXT NOT NULL DEFAULT '';
    ALTER TABLE jobs ADD COLUMN added_models BLOB;
    -- Language tags whose translation was cancelled, with spaces between them.
    ALTER TABLE jobs ADD COLUMN cancelled_languages TEXT NOT NULL DEFAULT '';
    -- Why its sentences could not be read, else empty.
    ALTER TABLE jobs ADD COLUMN translation_cause TEXT NOT NULL DEFAULT '';

    -- Priority and place in the queue that a client changed; NULL: those of its options and of its order.
    ALTER TABLE jobs ADD COLUMN priority INTEGER;
    ALTER TABLE jobs ADD COLUMN place REAL;
    -- Stretches of speech for which the model gave no text.
    ALTER TABLE jobs ADD COLUMN unheard INTEGER NOT NULL DEFAULT 0;
    -- 1 if a client has dismissed its failure.
    ALTER TABLE jobs ADD COLUMN is_dismissed INTEGER NOT NULL DEFAULT 0;

    -- Has a row while an admin has paused the queue.
    CREATE TABLE queue_pause (
        id INTEGER PRIMARY KEY CHECK (id = 1)
    ) STRICT;

    -- The translation of each sentence of a job, or why there is none. The key is made of the sentence: what has not changed is
    -- not translated again, unless the terms of the glossary in it have changed, or another model is requested.
    CREATE TABLE translations (
        job     TEXT NOT NULL,
        target  TEXT NOT NULL,
        key     TEXT NOT NULL,
        source  TEXT NOT NULL,
        text    TEXT NOT NULL,
        problem TEXT NOT NULL,
        model   TEXT NOT NULL,
        engine  TEXT NOT NULL,
        version TEXT NOT NULL,
        warning TEXT NOT NULL,
        terms   TEXT NOT NULL,
        PRIMARY KEY (job, target, key)
    ) STRICT, WITHOUT ROWID;
    -- How many there are, and how many of them have a problem, kept by the triggers: a film has some 1,500.
    CREATE TABLE translation_counts (
        job       TEXT NOT NULL,
        target    TEXT NOT NULL,
        sentences INTEGER NOT NULL,
        problems  INTEGER NOT NULL,
        PRIMARY KEY (job, target)
    ) STRICT, WITHOUT ROWID;
    CREATE TRIGGER translation_inserted AFTER INSERT ON translations BEGIN
        INSERT INTO translation_counts VALUES (new.job, new.target, 1, new.problem <> '')
        ON CONFLICT DO UPDATE SET sentences = sentences + 1, problems = problems + (new.problem <> '');
    END;
    CREATE TRIGGER translation_changed AFTER UPDATE OF problem ON translations
        WHEN (old.problem <> '') <> (new.problem <> '') BEGIN
        UPDATE translation_counts SET problems = problems + (new.problem <> '') - (old.problem <> '')
            WHERE job = new.job AND target = new.target;
    END;
    CREATE TRIGGER translation_deleted AFTER DELETE ON translations BEGIN
        UPDATE translation_counts SET sentences = sentences - 1, problems = problems - (old.problem <> '')
            WHERE job = old.job AND target = old.target;
        DELETE FROM translation_counts WHERE job = old.job AND target = old.target AND sentences = 0;
    END;
    """,
)
