"""The database's statements, by name. They are constants; all values are bound. None scans a table: a test explains each."""

# ruff: noqa: S608

from __future__ import annotations

SELECT_JOB = """
    SELECT id, ord, state, source, location, size, mtime_ns,
        (SELECT data FROM settings WHERE settings.id = jobs.options), losses,
        (SELECT data FROM settings WHERE settings.id = jobs.plan_settings), is_planned, media, language,
        language_probability, cause, is_closed, created_ms, started_ms, ended_ms, owner, tag, sha256, repetition,
        added_languages, added_models, priority, place, unheard, translation_cause, cancelled_languages,
        is_dismissed
    FROM jobs"""
JOB_BY_ID = f"{SELECT_JOB} WHERE id = ?"
JOB_BY_ORDER = f"{SELECT_JOB} WHERE ord = ?"
ADD_SETTINGS = "INSERT INTO settings (data) VALUES (?) ON CONFLICT DO NOTHING"
# The values of both are those of `Store._job_values`.
INSERT_JOB = """
    INSERT INTO jobs (id, ord, state, source, name, location, size, mtime_ns, options, losses, plan_settings,
        is_planned, language, language_probability, cause, is_closed, created_ms, owner, tag, sha256, repetition)
    VALUES (:id, :order, :state, :source, :name, :location, :size, :mtime_ns,
        (SELECT id FROM settings WHERE data = :options), :losses,
        (SELECT id FROM settings WHERE data = :plan_settings), :is_planned, :language, :language_probability,
        :cause, :is_closed, :now_ms, :owner, :tag, :sha256, :repetition)"""
UPDATE_JOB = """
    UPDATE jobs SET state = :state, location = :location, size = :size, mtime_ns = :mtime_ns, sha256 = :sha256,
        options = (SELECT id FROM settings WHERE data = :options), losses = :losses,
        plan_settings = (SELECT id FROM settings WHERE data = :plan_settings),
        added_languages = :added_languages, added_models = :added_models, priority = :changed_priority,
        place = :place, unheard = :unheard, translation_cause = :translation_cause,
        cancelled_languages = :cancelled_languages, is_dismissed = :is_dismissed,
        is_planned = :is_planned, media = coalesce(:media, media),
        language = :language, language_probability = :language_probability, cause = :cause,
        is_closed = :is_closed,
        started_ms = CASE WHEN :is_start THEN coalesce(started_ms, :now_ms) ELSE started_ms END,
        ended_ms = CASE WHEN :is_live THEN NULL WHEN :is_transition THEN :now_ms ELSE ended_ms END
    WHERE id = :id AND state = :before"""
FORGET_NAME = "INSERT INTO names (names, rowid, name) SELECT 'delete', ord, name FROM jobs WHERE id = ?"
RENAME_SOURCE = "UPDATE jobs SET source = ?, name = ?, location = ? WHERE id = ?"
ADD_NAME = "INSERT INTO names (rowid, name) SELECT ord, name FROM jobs WHERE id = ?"
DELETE_JOB = "DELETE FROM jobs WHERE id = ?"
JOB_OWNER = "SELECT owner FROM jobs WHERE id = ?"
JOB_ORDER = "SELECT ord FROM jobs WHERE id = ?"
LAST_ORDER = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'jobs'"
LIVE_JOBS = f"{SELECT_JOB} WHERE state = ? ORDER BY ord"
JOBS_TO_CLOSE = f"{SELECT_JOB} WHERE state = 'failed' AND NOT is_closed ORDER BY ord"
JOB_TO_PACK = """
    SELECT id FROM jobs INDEXED BY jobs_to_pack WHERE state = 'done' AND NOT is_packed AND ended_ms < ? ORDER BY ended_ms LIMIT 1"""


# One list for each combination of filters, in one state: several states are merged.
LIST_JOBS = "SELECT ord FROM jobs WHERE state = ? AND ord < ? ORDER BY ord DESC LIMIT ?"
LIST_JOBS_OF_OWNER = """
    SELECT ord FROM jobs WHERE owner <> '' AND owner = ? AND state = ? AND ord < ? ORDER BY ord DESC LIMIT ?"""
LIST_JOBS_OF_TAG = (
    "SELECT ord FROM jobs WHERE tag <> '' AND tag = ? AND state = ? AND ord < ? ORDER BY ord DESC LIMIT ?"
)
LIST_JOBS_OF_OWNER_AND_TAG = """
    SELECT ord FROM jobs WHERE owner <> '' AND tag <> '' AND owner = ? AND tag = ? AND state = ? AND ord < ?
    ORDER BY ord DESC LIMIT ?"""
SEARCH_NAMES = "SELECT rowid FROM names WHERE names MATCH ? AND rowid < ? ORDER BY rowid DESC LIMIT ?"
NEWEST_NAMES = "SELECT ord FROM jobs WHERE ord < ? ORDER BY ord DESC LIMIT ?"
# What filters and orders of lists need of each job.
SELECT_FILTERED = "SELECT ord, state, owner, tag, name, language, unheard, options, media FROM jobs"
NEWEST_FILTERED = f"{SELECT_FILTERED} WHERE ord < ? ORDER BY ord DESC LIMIT ?"
OLDEST_FILTERED = f"{SELECT_FILTERED} WHERE ord > ? ORDER BY ord LIMIT ?"
SETTINGS = "SELECT data FROM settings WHERE id = ?"
JOB_FILTERS = "SELECT state, owner, tag, name FROM jobs WHERE ord = ?"
COUNT_JOBS = "SELECT state, sum(count) FROM job_counts WHERE count > 0 GROUP BY state"
COUNT_JOBS_OF_OWNER = "SELECT state, count FROM job_counts WHERE owner = ? AND count > 0"

PAUSE_QUEUE = "INSERT OR IGNORE INTO queue_pause VALUES (1)"
RESUME_QUEUE = "DELETE FROM queue_pause WHERE id = 1"
IS_QUEUE_PAUSED = "SELECT count(*) FROM queue_pause WHERE id = 1"

JOB_OF_SOURCE = f"""
    {SELECT_JOB} WHERE source = ? AND size = ? AND mtime_ns = ? AND options = (SELECT id FROM settings WHERE data = ?)
    ORDER BY repetition DESC LIMIT 1"""
JOBS_OF_SOURCE = f"{SELECT_JOB} WHERE source = ? AND size = ? AND mtime_ns = ? LIMIT 100"
JOBS_AT_SOURCE = f"{SELECT_JOB} WHERE source = ? LIMIT 100"
ARCHIVED_JOBS = f"{SELECT_JOB} WHERE source = ? AND location = ? LIMIT 100"
JOB_OF_UPLOAD = f"""
    {SELECT_JOB} WHERE sha256 <> '' AND state <> 'cancelled' AND sha256 = ? AND owner = ? AND tag = ?
        AND options = (SELECT id FROM settings WHERE data = ?)
    ORDER BY ord DESC LIMIT 1"""
JOBS_OF_UPLOAD = f"""
    {SELECT_JOB} WHERE sha256 <> '' AND state <> 'cancelled' AND sha256 = ? AND owner = ? AND tag = ? LIMIT 100"""
EXPIRED_JOBS = f"{SELECT_JOB} WHERE ended_ms IS NOT NULL AND ended_ms < ? ORDER BY ended_ms LIMIT ?"

INSERT_SEGMENT = """
    INSERT INTO segments SELECT ?, ?, ?, ?, 0, '', '', NULL, 0, NULL WHERE EXISTS (SELECT 1 FROM jobs WHERE id = ?)"""
UPDATE_SEGMENT = """
    UPDATE segments SET state = ?, losses = ?, cause = ?, language = ?, language_probability = ?,
        worker = CASE ? WHEN '' THEN worker ELSE ? END, result = coalesce(?, result)
    WHERE job = ? AND idx = ? AND state = ?"""
SEGMENTS = """
    SELECT idx, state, plan, losses, cause, language, language_probability FROM segments WHERE job = ? ORDER BY idx"""
RESULTS = "SELECT idx, state, plan, losses, cause, worker, result FROM segments WHERE job = ? ORDER BY idx"
RESULT = "SELECT idx, state, plan, losses, cause, worker, result FROM segments WHERE job = ? AND idx = ?"
COUNT_SEGMENTS = "SELECT state, count(*) FROM segments WHERE job = ? GROUP BY state"
DELETE_SEGMENTS = """
    DELETE FROM segments WHERE job = ?1 AND idx IN (SELECT idx FROM segments WHERE job = ?1 LIMIT ?2)"""

PUT_RESULTS = "INSERT OR REPLACE INTO results VALUES (?, ?, ?)"
PACKED_RESULTS = "SELECT data FROM results WHERE job = ?"
PACKED_COUNTS = "SELECT counts FROM results WHERE job = ?"
DELETE_RESULTS = "DELETE FROM results WHERE job = ?"
MARK_PACKED = "UPDATE jobs SET is_packed = 1 WHERE id = ?"

PUT_WAVEFORM = "INSERT OR REPLACE INTO waveforms VALUES (?, ?)"
WAVEFORM = "SELECT waveform FROM waveforms WHERE job = ?"
DELETE_WAVEFORM = "DELETE FROM waveforms WHERE job = ?"

SELECT_EDIT = "SELECT version, saved_ms, author, cues, restored, data, begun_ms, draft_session FROM edits"
NEWEST_EDIT = f"{SELECT_EDIT} WHERE job = ? AND task = ? ORDER BY version DESC LIMIT 1"
EDIT = f"{SELECT_EDIT} WHERE job = ? AND task = ? AND version = ?"
EDIT_VERSIONS = """
    SELECT version, saved_ms, author, cues, restored, length(data) FROM edits WHERE job = ? AND task = ? ORDER BY version DESC"""
INSERT_EDIT = "INSERT INTO edits VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)"
KEEP_DRAFT = "UPDATE edits SET draft_session = '' WHERE job = ? AND task = ? AND version = ?"
DRAFTS = "SELECT job, task, version, begun_ms FROM edits WHERE draft_session <> '' AND begun_ms >= 0"
DELETE_EDIT = "DELETE FROM edits WHERE job = ? AND task = ? AND version = ?"
DELETE_EDITS = "DELETE FROM edits WHERE job = ?"
EDITS_TO_WRITE = "SELECT DISTINCT job FROM edits WHERE NOT is_written AND is_written = 0"
MARK_EDITS_WRITTEN = (
    "UPDATE edits SET is_written = 1 WHERE job = ? AND task = ? AND version <= ? AND NOT is_written"
)

# No REPLACE, which would pass over the triggers that count.
PUT_TRANSLATION = """
    INSERT INTO translations (job, target, key, source, text, problem, model, engine, version, warning, terms)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (job, target, key) DO UPDATE SET source = excluded.source, text = excluded.text,
        problem = excluded.problem, model = excluded.model, engine = excluded.engine, version = excluded.version,
        warning = excluded.warning, terms = excluded.terms"""
KEEP_TRANSLATION = (
    "UPDATE translations SET warning = ? WHERE job = ? AND target = ? AND key = ? AND problem = ''"
)
TRANSLATIONS = """
    SELECT target, key, source, text, problem, model, engine, version, warning, terms FROM translations
    WHERE job = ? AND target = ?"""
COUNT_TRANSLATIONS = """
    SELECT target, sentences, problems FROM translation_counts WHERE job = ? ORDER BY target"""
DELETE_TRANSLATION_COUNTS = "DELETE FROM translation_counts WHERE job = ?"
DELETE_TRANSLATIONS = "DELETE FROM translations WHERE job = ?"
DELETE_UNTRANSLATED = "DELETE FROM translations WHERE job = ? AND problem <> ''"
DELETE_OTHER_TRANSLATIONS = """
    DELETE FROM translations WHERE job = ? AND target = ? AND key NOT IN (SELECT value FROM json_each(?))"""

SELECT_JOURNAL = "SELECT seq, at_ms, subject, job, owner, name, before, event, after, cause FROM journal"
INSERT_JOURNAL = """
    INSERT INTO journal (at_ms, subject, job, owner, name, before, event, after, cause)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
JOURNAL = f"{SELECT_JOURNAL} WHERE seq > ? ORDER BY seq LIMIT ?"
JOURNAL_OF_JOB = f"{SELECT_JOURNAL} WHERE job = ? AND seq > ? ORDER BY seq LIMIT ?"
JOURNAL_OF_OWNER = f"{SELECT_JOURNAL} WHERE owner <> '' AND owner = ? AND seq > ? ORDER BY seq LIMIT ?"
JOB_HISTORY = f"""
    {SELECT_JOURNAL} WHERE job = ? AND job <> '' AND (subject = 'job' OR cause <> '') ORDER BY seq DESC LIMIT ?"""
LAST_SEQ = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'journal'"
JOB_ENDS = """
    SELECT seq, job, after FROM journal
    WHERE subject = 'job' AND after IN ('done', 'failed') AND before <> after AND seq > ? ORDER BY seq LIMIT ?"""
HOOK_POSITION = "SELECT seq FROM hook_marks WHERE name = ?"
PUT_HOOK_POSITION = "INSERT OR REPLACE INTO hook_marks VALUES (?, ?)"
DELETE_HOOK_POSITION = "DELETE FROM hook_marks WHERE name = ?"
TRIM_JOURNAL = """
    DELETE FROM journal WHERE seq IN (
        SELECT seq FROM journal WHERE job = ? AND subject = 'segment' AND cause = '' LIMIT ?)"""
DELETE_JOURNAL = "DELETE FROM journal WHERE seq IN (SELECT seq FROM journal WHERE job = ? LIMIT ?)"
# Done jobs by their end, after one of them.
DONE_JOBS = """
    SELECT id, ended_ms, ord FROM jobs INDEXED BY jobs_by_end
    WHERE (ended_ms, ord) > (?, ?) AND ended_ms < ? AND state = 'done' ORDER BY ended_ms, ord LIMIT ?"""
# Entries without a job (of workers and deleted jobs), from the oldest.
TRIM_OLD_JOURNAL = """
    DELETE FROM journal WHERE seq IN (SELECT seq FROM journal WHERE job = '' ORDER BY seq LIMIT ?) AND at_ms < ?"""

MARK_DELETED = "INSERT OR IGNORE INTO deleted_jobs VALUES (?)"
DELETED_JOB = "SELECT job FROM deleted_jobs ORDER BY job LIMIT 1"
UNMARK_DELETED = "DELETE FROM deleted_jobs WHERE job = ?"
MARK_PROCESSED = "INSERT OR IGNORE INTO processed_files VALUES (?, ?, ?)"
IS_PROCESSED = "SELECT 1 FROM processed_files WHERE source = ? AND size = ? AND mtime_ns = ?"

CLAIM_OUTPUT = "INSERT OR REPLACE INTO outputs (path, job) VALUES (?, ?)"
RELEASE_OUTPUT = "DELETE FROM outputs WHERE path = ? AND job = ?"
RELEASE_OUTPUTS = "DELETE FROM outputs WHERE job = ?"
SOURCE_OF_OUTPUT = "SELECT source FROM jobs WHERE id = (SELECT job FROM outputs WHERE path = ?)"
OUTPUTS_OF_SOURCE = "SELECT path FROM outputs WHERE job IN (SELECT id FROM jobs WHERE source = ?)"
OUTPUTS_OF_JOB = "SELECT path FROM outputs WHERE job = ? ORDER BY path"
