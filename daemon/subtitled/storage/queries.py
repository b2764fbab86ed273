"""The database's statements, by name. They are constants; all values are bound."""

# ruff: noqa: S608

from __future__ import annotations

SELECT_JOB = """
    SELECT id, ord, state, source, location, size, mtime_ns, options, losses, recipe, is_planned, media, language,
        language_probability, cause, is_closed, created_ms, started_ms, ended_ms, owner, tag, sha256, repetition
    FROM jobs"""
JOB_BY_ID = f"{SELECT_JOB} WHERE id = ?"
INSERT_JOB = """
    INSERT INTO jobs (id, ord, state, source, location, size, mtime_ns, options, losses, recipe, is_planned, language,
        language_probability, cause, is_closed, created_ms, owner, tag, sha256, repetition)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
UPDATE_JOB = """
    UPDATE jobs SET state = ?, location = ?, size = ?, mtime_ns = ?, sha256 = ?, options = ?, losses = ?, recipe = ?,
        is_planned = ?, media = coalesce(?, media), language = ?, language_probability = ?, cause = ?, is_closed = ?,
        started_ms = CASE WHEN ? THEN coalesce(started_ms, ?) ELSE started_ms END,
        ended_ms = CASE WHEN ? THEN NULL WHEN ? THEN ? ELSE ended_ms END
    WHERE id = ? AND state = ?"""
JOB_OWNER = "SELECT owner FROM jobs WHERE id = ?"
LAST_ORDER = "SELECT coalesce(max(ord), 0) FROM jobs"
UNFINISHED_JOBS = (
    f"{SELECT_JOB} WHERE state IN ({{states}}) OR (state = 'failed' AND NOT is_closed) ORDER BY ord"
)
# A source's name follows its last slash. Only the newest jobs are searched by it: a search of 100,000 names takes 0.15 s,
# in which the loop does nothing else.
LIST_JOBS = f"""
    {SELECT_JOB} WHERE state IN ({{states}})
        AND (? IS NULL OR owner = ?) AND (? IS NULL OR tag = ?)
        AND (? = '' OR ord < (SELECT ord FROM jobs WHERE id = ?))
        AND (? = '' OR (ord > (SELECT max(ord) FROM jobs) - 20000 AND instr(lower(replace(CAST(source AS TEXT),
            rtrim(CAST(source AS TEXT), replace(CAST(source AS TEXT), '/', '')), '')), lower(?))))
    ORDER BY ord DESC LIMIT ?"""
COUNT_JOBS = "SELECT state, count(*) FROM jobs WHERE ? IS NULL OR owner = ? GROUP BY state"
JOBS_OF_SOURCE = f"{SELECT_JOB} WHERE source = ? AND size = ? AND mtime_ns = ? ORDER BY ord DESC"
JOBS_OF_UPLOAD = (
    f"{SELECT_JOB} WHERE sha256 = ? AND owner = ? AND tag = ? AND state <> 'cancelled' ORDER BY ord DESC"
)
UPLOADED_JOBS = f"""
    {SELECT_JOB} WHERE (state NOT IN ('done', 'cancelled') OR (state = 'done' AND ended_ms > ?))
        AND (sha256 <> '' OR state = 'receiving') ORDER BY ended_ms"""

INSERT_SEGMENT = "INSERT INTO segments VALUES (?, ?, ?, ?, 0, '', '', NULL, 0, NULL)"
UPDATE_SEGMENT = """
    UPDATE segments SET state = ?, losses = ?, cause = ?, language = ?, language_probability = ?,
        worker = CASE ? WHEN '' THEN worker ELSE ? END, result = coalesce(?, result)
    WHERE job = ? AND idx = ? AND state = ?"""
SEGMENTS = """
    SELECT idx, state, plan, losses, cause, language, language_probability FROM segments WHERE job = ? ORDER BY idx"""
RESULTS = "SELECT idx, state, plan, losses, cause, worker, result FROM segments WHERE job = ? ORDER BY idx"
COUNT_SEGMENTS = "SELECT job, state, count(*) FROM segments WHERE job IN ({jobs}) GROUP BY job, state"

PUT_WAVEFORM = "INSERT OR REPLACE INTO waveforms VALUES (?, ?)"
WAVEFORM = "SELECT waveform FROM waveforms WHERE job = ?"

SELECT_JOURNAL = "SELECT seq, at_ms, subject, job, name, before, event, after, cause FROM journal"
INSERT_JOURNAL = """
    INSERT INTO journal (at_ms, subject, job, name, before, event, after, cause) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
JOURNAL = f"""
    {SELECT_JOURNAL} WHERE seq > ? AND (? IS NULL OR job = ?)
        AND (? IS NULL OR job IN (SELECT id FROM jobs WHERE owner = ?)) ORDER BY seq LIMIT ?"""
JOB_HISTORY = f"{SELECT_JOURNAL} WHERE job = ? AND (subject = 'job' OR cause <> '') ORDER BY seq DESC LIMIT ?"
LAST_SEQ = "SELECT coalesce(max(seq), 0) FROM journal"
JOB_ENDS = """
    SELECT seq, job, after FROM journal
    WHERE seq > ? AND subject = 'job' AND after IN ('done', 'failed') AND before <> after ORDER BY seq LIMIT ?"""

CLAIM_OUTPUT = "INSERT OR REPLACE INTO outputs (path, source, job) VALUES (?, ?, ?)"
RELEASE_OUTPUT = "DELETE FROM outputs WHERE path = ? AND job = ?"
SOURCE_OF_OUTPUT = "SELECT source FROM outputs WHERE path = ?"
OUTPUTS_OF_SOURCE = "SELECT path FROM outputs WHERE source = ?"
OUTPUTS_OF_JOB = "SELECT path FROM outputs WHERE job = ? ORDER BY path"
