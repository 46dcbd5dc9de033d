-- Version 1 of the database. Times are RFC 3339 UTC text with milliseconds (2026-01-02T15:04:05.000Z), so that
-- they sort and people can read them; NULL means unset. To change the format, add the next upgrade in
-- store_schema.go and leave this file alone: it is what version 1 was.

-- What was asked for, and what became of it. One row a job, kept until retention removes it.
CREATE TABLE jobs (
    seq               INTEGER PRIMARY KEY,             -- order of arrival; breaks ties between equal priorities
    id                TEXT    NOT NULL UNIQUE,
    command           TEXT    NOT NULL,                -- a file in queries/
    payload           TEXT    NOT NULL DEFAULT '{}',   -- JSON, dates resolved
    priority          INTEGER NOT NULL DEFAULT 0,      -- higher first
    status            TEXT    NOT NULL DEFAULT 'pending'
                      -- An IN of more than two values would make SQLite build a b-tree for every row that is written.
                      CHECK (status = 'pending' OR status = 'running' OR status = 'completed' OR status = 'failed' OR status = 'cancelled'),
    created_at        TEXT    NOT NULL,
    updated_at        TEXT    NOT NULL,
    started_at        TEXT,                            -- of the latest attempt
    completed_at      TEXT,                            -- of the terminal state
    next_attempt_at   TEXT,                            -- not before; NULL: as soon as possible
    result            TEXT,                            -- JSON, byte for byte as the API sent it
    result_bytes      INTEGER NOT NULL DEFAULT 0,
    error             TEXT,                            -- 'CODE: message', of the latest attempt
    error_code        TEXT,
    retry_count       INTEGER NOT NULL DEFAULT 0,
    max_retries       INTEGER NOT NULL DEFAULT 3,
    open_starts       INTEGER NOT NULL DEFAULT 0,      -- attempts begun since the last one that ended
    timeout_ms        INTEGER NOT NULL,                -- of one attempt
    environment       TEXT    NOT NULL,                -- name, as when submitted
    schedule          TEXT,                            -- name of the schedule that made it
    idempotency_key   TEXT,
    submitted_payload TEXT,                            -- JSON before dates were resolved; only beside a key
    retried_by        TEXT                             -- id of the job that a retry made of it
) STRICT;

-- A submit pays for every index with a page, so only what is asked of waiting jobs is indexed from the start.
CREATE INDEX jobs_by_status ON jobs (status);
CREATE INDEX jobs_by_command ON jobs (command, status) WHERE completed_at IS NOT NULL;
CREATE INDEX jobs_by_completion ON jobs (completed_at) WHERE completed_at IS NOT NULL;
CREATE INDEX jobs_by_schedule ON jobs (schedule) WHERE schedule IS NOT NULL;
CREATE INDEX jobs_open_by_schedule ON jobs (schedule) WHERE schedule IS NOT NULL AND status IN ('pending', 'running');
CREATE UNIQUE INDEX jobs_by_idempotency_key ON jobs (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX jobs_by_error ON jobs (error_code) WHERE error_code IS NOT NULL;

CREATE TABLE schedules (
    id              TEXT    PRIMARY KEY,
    name            TEXT    NOT NULL UNIQUE,
    cron_expr       TEXT    NOT NULL,
    command         TEXT    NOT NULL,
    payload         TEXT    NOT NULL DEFAULT '{}',     -- JSON; relative dates stay as written
    priority        INTEGER NOT NULL DEFAULT 0,
    environment     TEXT    NOT NULL,
    enabled         INTEGER NOT NULL DEFAULT 1 CHECK (enabled IN (0, 1)),
    missed          TEXT    NOT NULL DEFAULT 'run_once' CHECK (missed IN ('run_once', 'skip')),
    overlap         TEXT    NOT NULL DEFAULT 'skip' CHECK (overlap IN ('skip', 'allow')),
    jitter_ms       INTEGER NOT NULL DEFAULT 0,        -- a run starts up to this much later
    max_retries     INTEGER NOT NULL,                  -- of its jobs
    timeout_ms      INTEGER NOT NULL,                  -- of one attempt
    created_at      TEXT    NOT NULL,
    last_run_at     TEXT,                              -- nominal time of the latest firing
    next_run_at     TEXT,                              -- authoritative; NULL: paused, or it never fires again
    last_job_id     TEXT,
    last_success_at TEXT                               -- when its latest completed job was created
) STRICT;

-- Single values: key derivation salt and costs, whether the queue is paused.
CREATE TABLE config (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

CREATE TABLE api_environments (
    id            TEXT    PRIMARY KEY,
    name          TEXT    NOT NULL UNIQUE,
    base_url      TEXT    NOT NULL,
    is_active     INTEGER NOT NULL DEFAULT 0 CHECK (is_active IN (0, 1)),
    description   TEXT    NOT NULL DEFAULT '',
    needs_reauth  INTEGER NOT NULL DEFAULT 0 CHECK (needs_reauth IN (0, 1)),  -- until the next login
    last_login_at TEXT,
    created_at    TEXT    NOT NULL,
    updated_at    TEXT    NOT NULL
) STRICT;

CREATE UNIQUE INDEX idx_api_environments_active ON api_environments (is_active) WHERE is_active = 1;

-- Tokens, sealed by seal.go; at most one login an environment.
CREATE TABLE auth_tokens (
    id                       TEXT PRIMARY KEY,
    environment_id           TEXT NOT NULL REFERENCES api_environments (id) ON DELETE CASCADE,
    username                 TEXT NOT NULL,
    encrypted_access_token   BLOB NOT NULL,
    access_token_expires_at  TEXT,                     -- NULL: the token does not say
    encrypted_refresh_token  BLOB,
    refresh_token_expires_at TEXT,
    created_at               TEXT NOT NULL,
    updated_at               TEXT NOT NULL,
    UNIQUE (environment_id, username)
) STRICT;
