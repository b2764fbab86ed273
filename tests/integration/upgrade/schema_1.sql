-- A database of release 0.1.0, schema version 1: the script of its migration, then the rows of a daemon that has transcribed
-- a file of its inbox and an upload, and failed on a file that is not media. It never changes: installed databases are like it.

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

-- Rows
INSERT INTO settings (id, data) VALUES (1, X'DE0015A86C616E6775616765A46175746FA47461736BAA7472616E736372696265B169735F7472616E736C617465645F746F6FC2AE696E697469616C5F70726F6D7074A0A8686F74776F726473A0A7666F726D61747392A3737274A46A736F6EA3626F6DC2A76E65776C696E65A26C66A76B6172616F6B65C2A5666C61677390AD736B69705F6578697374696E67A56E65766572AF776F72645F74696D657374616D7073A46175746FB572656D6F76655F68616C6C7563696E6174696F6E73C3A56D61726B73C3A76368696E657365A36F6666A87072696F7269747900A376616483A97468726573686F6C64C0AE6D696E5F73696C656E63655F6D73C0A67061645F6D73C0A66C61796F757488A770726F66696C65A764656661756C74A96D61785F6368617273C0A96D61785F6C696E6573C0AF6D61785F63686172735F7065725F73C0A66D696E5F6D73C0A66D61785F6D73C0A66761705F6D73C0A8636861696E5F6D73C0A56166746572A46D6F7665A5696E626F78C41C2F746D702F7375627469746C65642D757067726164652F696E626F78A66F7574707574C4202F746D702F7375627469746C65642D757067726164652F696E626F782D6F7574');
INSERT INTO settings (id, data) VALUES (3, X'87A97468726573686F6C64CB3FE0000000000000AE6D696E5F73696C656E63655F6D73CCA0A67061645F6D73CD0190AD6D696E5F7370656563685F6D7364AD6D61785F7365676D656E745F7308AC6D61785F70617573655F6D73CD07D0AE77696E646F775F73616D706C6573CE00075300');
INSERT INTO settings (id, data) VALUES (4, X'DE0015A86C616E6775616765A2656EA47461736BAA7472616E736372696265B169735F7472616E736C617465645F746F6FC2AE696E697469616C5F70726F6D7074A0A8686F74776F726473A0A7666F726D61747391A3737274A3626F6DC2A76E65776C696E65A26C66A76B6172616F6B65C2A5666C61677390AD736B69705F6578697374696E67A56E65766572AF776F72645F74696D657374616D7073A46175746FB572656D6F76655F68616C6C7563696E6174696F6E73C3A56D61726B73C3A76368696E657365A36F6666A87072696F7269747900A376616483A97468726573686F6C64C0AE6D696E5F73696C656E63655F6D73C0A67061645F6D73C0A66C61796F757488A770726F66696C65A764656661756C74A96D61785F6368617273C0A96D61785F6C696E6573C0AF6D61785F63686172735F7065725F73C0A66D696E5F6D73C0A66D61785F6D73C0A66761705F6D73C0A8636861696E5F6D73C0A56166746572A46B656570A5696E626F78C400A66F7574707574C400');
INSERT INTO jobs (ord, id, state, source, name, location, size, mtime_ns, options, losses, plan_settings, is_planned, media, language, language_probability, cause, is_closed, is_packed, created_ms, started_ms, ended_ms, owner, tag, sha256, repetition) VALUES (1, '1a2268c7a0200001', 'done', X'2F746D702F7375627469746C65642D757067726164652F696E626F782F74616C6B2E666C6163', 'talk.flac', X'2F746D702F7375627469746C65642D757067726164652F696E626F782F646F6E652F74616C6B2E666C6163', 118899, 1795943070006550648, 1, 0, 3, 1, X'8AA9636F6E7461696E6572A4666C6163A5636F646563A4666C6163AB73616D706C655F72617465CD3E80A86368616E6E656C7301AE6F66667365745F73616D706C657300AF6465636F6465645F73616D706C6573CE0001F400AE7370656563685F73616D706C6573CE00017200AB6261645F7061636B65747300A864726966745F6D7300A7736B697070656490', 'en', 0.9999903440475464, '', 1, 0, 1795943070211, 1795943070211, 1795943071369, '', '', '', 0);
INSERT INTO jobs (ord, id, state, source, name, location, size, mtime_ns, options, losses, plan_settings, is_planned, media, language, language_probability, cause, is_closed, is_packed, created_ms, started_ms, ended_ms, owner, tag, sha256, repetition) VALUES (2, '1a2268c7a0200002', 'failed', X'2F746D702F7375627469746C65642D757067726164652F696E626F782F6E6F7465732E6D7034', 'notes.mp4', X'2F746D702F7375627469746C65642D757067726164652F696E626F782F6661696C65642F6E6F7465732E6D7034', 10, 1795943070009708569, 1, 0, 3, 0, NULL, NULL, 0.0, '''notes.mp4'' is not media that FFmpeg can read (Invalid data found when processing input); check that it plays, or convert it to another format', 1, 0, 1795943070211, 1795943070211, 1795943070248, '', '', '', 0);
INSERT INTO jobs (ord, id, state, source, name, location, size, mtime_ns, options, losses, plan_settings, is_planned, media, language, language_probability, cause, is_closed, is_packed, created_ms, started_ms, ended_ms, owner, tag, sha256, repetition) VALUES (3, '1a2268c822100003', 'done', X'2F746D702F7375627469746C65642D757067726164652F73746174652F75706C6F6164732F316132323638633832323130303030332F75706C6F61642E666C6163', 'upload.flac', X'2F746D702F7375627469746C65642D757067726164652F73746174652F75706C6F6164732F316132323638633832323130303030332F75706C6F61642E666C6163', 50651, 1795943072290550784, 4, 0, 3, 1, X'8AA9636F6E7461696E6572A4666C6163A5636F646563A4666C6163AB73616D706C655F72617465CD3E80A86368616E6E656C7301AE6F66667365745F73616D706C657300AF6465636F6465645F73616D706C6573CDFA00AE7370656563685F73616D706C6573CD9200AB6261645F7061636B65747300A864726966745F6D7300A7736B697070656490', NULL, 0.0, '', 1, 0, 1795943072290, 1795943072295, 1795943073166, '', 'monday', '1168489fdc538e8213b774c0c28432f2123eb42d1746d8c51d3e8ad45a7c3959', 0);
INSERT INTO segments (job, idx, state, plan, losses, cause, worker, language, language_probability, result) VALUES ('1a2268c7a0200001', 0, 'done', X'83A5696E64657800A67069656365739282A57374617274CD0900A773616D706C6573CD920082A57374617274CDE900A773616D706C6573CDE000A57370616E739282A57374617274CD2200A3656E64CD820082A57374617274CE00010200A3656E64CE0001B000', 0, '', 'cpu0.1', 'en', 0.9999903440475464, X'8BA7706872617365739288A474657874BA20476F6F64206D6F726E696E6720616E642077656C636F6D652EA873746172745F6D73CD0172A6656E645F6D73CD0758A5776F72647390AB6176675F6C6F6770726F62CBBFB55F1172E8BA2FB1636F6D7072657373696F6E5F726174696FCB3FF2AAAAAAAAAAABAE6E6F5F7370656563685F70726F62CB3E43699820000000AB74656D7065726174757265CB000000000000000088A474657874D93420497420697320656967687420696E20746865206D6F726E696E6720616E6420746865206D61726B65742069732071756965742EA873746172745F6D73CD0AB4A6656E645F6D73CD1568A5776F72647390AB6176675F6C6F6770726F62CBBFB55F1172E8BA2FB1636F6D7072657373696F6E5F726174696FCB3FF2AAAAAAAAAAABAE6E6F5F7370656563685F70726F62CB3E43699820000000AB74656D7065726174757265CB0000000000000000A86C616E6775616765A2656EB46C616E67756167655F70726F626162696C697479CB3FEFFFEBC0000000AE6E6F5F7370656563685F70726F62CB3E43699820000000A969735F737065656368C3AB74656D7065726174757265CB0000000000000000A966616C6C6261636B7300A96465636973696F6E7390A777696E646F777301A7756E686561726490AB7472616E736C6174696F6EC0');
INSERT INTO segments (job, idx, state, plan, losses, cause, worker, language, language_probability, result) VALUES ('1a2268c822100003', 0, 'done', X'83A5696E64657800A67069656365739182A57374617274CD0900A773616D706C6573CD9200A57370616E739182A57374617274CD2200A3656E64CD8200', 0, '', 'cpu1.1', 'en', 1.0, X'8BA7706872617365739188A474657874BA20476F6F64206D6F726E696E6720616E642077656C636F6D652EA873746172745F6D73CD0172A6656E645F6D73CD0758A5776F72647390AB6176675F6C6F6770726F62CBBFBE1F7C00000000B1636F6D7072657373696F6E5F726174696FCB3FE83E0F83E0F83EAE6E6F5F7370656563685F70726F62CB3EA66B1300000000AB74656D7065726174757265CB0000000000000000A86C616E6775616765A2656EB46C616E67756167655F70726F626162696C697479CB3FF0000000000000AE6E6F5F7370656563685F70726F62CB3EA66B1300000000A969735F737065656368C3AB74656D7065726174757265CB0000000000000000A966616C6C6261636B7300A96465636973696F6E7390A777696E646F777301A7756E686561726490AB7472616E736C6174696F6EC0');
INSERT INTO journal (seq, at_ms, subject, job, owner, name, before, event, after, cause) VALUES (5, 1795943070211, 'job', '1a2268c7a0200001', '', '', '', 'accepted', 'queued', '');
INSERT INTO journal (seq, at_ms, subject, job, owner, name, before, event, after, cause) VALUES (6, 1795943070211, 'job', '1a2268c7a0200002', '', '', '', 'accepted', 'queued', '');
INSERT INTO journal (seq, at_ms, subject, job, owner, name, before, event, after, cause) VALUES (7, 1795943070211, 'job', '1a2268c7a0200001', '', '', 'queued', 'leased', 'preparing', '');
INSERT INTO journal (seq, at_ms, subject, job, owner, name, before, event, after, cause) VALUES (8, 1795943070211, 'job', '1a2268c7a0200002', '', '', 'queued', 'leased', 'preparing', '');
INSERT INTO journal (seq, at_ms, subject, job, owner, name, before, event, after, cause) VALUES (9, 1795943070248, 'job', '1a2268c7a0200002', '', '', 'preparing', 'rejected', 'failed', '''notes.mp4'' is not media that FFmpeg can read (Invalid data found when processing input); check that it plays, or convert it to another format');
INSERT INTO journal (seq, at_ms, subject, job, owner, name, before, event, after, cause) VALUES (10, 1795943070543, 'job', '1a2268c7a0200001', '', '', 'preparing', 'planned', 'transcribing', '');
INSERT INTO journal (seq, at_ms, subject, job, owner, name, before, event, after, cause) VALUES (11, 1795943070543, 'segment', '1a2268c7a0200001', '', '0', 'pending', 'leased', 'leased', '');
INSERT INTO journal (seq, at_ms, subject, job, owner, name, before, event, after, cause) VALUES (12, 1795943071321, 'segment', '1a2268c7a0200001', '', '0', 'leased', 'done', 'done', '');
INSERT INTO journal (seq, at_ms, subject, job, owner, name, before, event, after, cause) VALUES (13, 1795943071321, 'job', '1a2268c7a0200001', '', '', 'transcribing', 'all_done', 'writing', '');
INSERT INTO journal (seq, at_ms, subject, job, owner, name, before, event, after, cause) VALUES (14, 1795943071369, 'job', '1a2268c7a0200001', '', '', 'writing', 'written', 'done', '');
INSERT INTO journal (seq, at_ms, subject, job, owner, name, before, event, after, cause) VALUES (15, 1795943072290, 'job', '1a2268c822100003', '', '', '', 'accepted', 'receiving', '');
INSERT INTO journal (seq, at_ms, subject, job, owner, name, before, event, after, cause) VALUES (16, 1795943072295, 'job', '1a2268c822100003', '', '', 'receiving', 'uploaded', 'queued', '');
INSERT INTO journal (seq, at_ms, subject, job, owner, name, before, event, after, cause) VALUES (17, 1795943072295, 'job', '1a2268c822100003', '', '', 'queued', 'leased', 'preparing', '');
INSERT INTO journal (seq, at_ms, subject, job, owner, name, before, event, after, cause) VALUES (18, 1795943072325, 'segment', '1a2268c822100003', '', '0', 'pending', 'leased', 'leased', '');
INSERT INTO journal (seq, at_ms, subject, job, owner, name, before, event, after, cause) VALUES (19, 1795943072328, 'job', '1a2268c822100003', '', '', 'preparing', 'planned', 'transcribing', '');
INSERT INTO journal (seq, at_ms, subject, job, owner, name, before, event, after, cause) VALUES (20, 1795943073163, 'segment', '1a2268c822100003', '', '0', 'leased', 'done', 'done', '');
INSERT INTO journal (seq, at_ms, subject, job, owner, name, before, event, after, cause) VALUES (21, 1795943073163, 'job', '1a2268c822100003', '', '', 'transcribing', 'all_done', 'writing', '');
INSERT INTO journal (seq, at_ms, subject, job, owner, name, before, event, after, cause) VALUES (22, 1795943073166, 'job', '1a2268c822100003', '', '', 'writing', 'written', 'done', '');
INSERT INTO outputs (path, job) VALUES (X'2F746D702F7375627469746C65642D757067726164652F696E626F782D6F75742F74616C6B2E656E2E6A736F6E', '1a2268c7a0200001');
INSERT INTO outputs (path, job) VALUES (X'2F746D702F7375627469746C65642D757067726164652F696E626F782D6F75742F74616C6B2E656E2E737274', '1a2268c7a0200001');
INSERT INTO outputs (path, job) VALUES (X'2F746D702F7375627469746C65642D757067726164652F696E626F782F6661696C65642F6E6F7465732E6D70342E6572726F722E747874', '1a2268c7a0200002');
INSERT INTO waveforms (job, waveform) VALUES ('1a2268c7a0200001', X'82AB696E74657276616C5F6D7364A57065616B73C45001010101018F79606F59531552431D63511D6B631101010101010101010101010101010101010101015A663455215C4B5F78325B193B441E626A5A26596448214D5F54260D0101010101010101010101');
INSERT INTO waveforms (job, waveform) VALUES ('1a2268c822100003', X'82AB696E74657276616C5F6D7364A57065616B73C42801010101018F79606F59531552431D63511D6B631101010101010101010101010101010101010101');
