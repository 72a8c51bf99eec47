-- What sessions with MX hosts said and how long it took. Times named *_us inside a session count microseconds since its
-- start; started_us and ended_us of sessions and both of gaps are microseconds of Unix time. Ids sort by time.

CREATE TABLE sessions (
    id          TEXT    NOT NULL PRIMARY KEY,
    tenant      TEXT    NOT NULL,
    cell        INTEGER,                  -- NULL in standalone use
    door        TEXT    NOT NULL,         -- cell, redirect, tproxy
    mx_address  TEXT    NOT NULL,
    mx_port     INTEGER NOT NULL,
    mx_name     TEXT,
    mx_operator TEXT,
    started_us  INTEGER NOT NULL,
    ended_us    INTEGER,                  -- NULL: open, or the proxy died
    outcome     TEXT,
    bytes       INTEGER
) WITHOUT ROWID;
CREATE INDEX sessions_by_tenant ON sessions (tenant, id);

CREATE TABLE legs (
    session      TEXT    NOT NULL,
    n            INTEGER NOT NULL,
    egress       TEXT    NOT NULL,
    started_us   INTEGER NOT NULL,
    connected_us INTEGER,
    tls_version  TEXT,                    -- NULL: in the clear
    tls_cipher   TEXT,
    tls_trusted  INTEGER,
    tls          TEXT,                    -- JSON: everything known of it
    error        TEXT,
    ehlo_name    TEXT,
    extensions   TEXT    NOT NULL,        -- JSON array
    decision     TEXT    NOT NULL,        -- JSON: why this egress address
    PRIMARY KEY (session, n)
) WITHOUT ROWID;

CREATE TABLE exchanges (
    session  TEXT    NOT NULL,
    seq      INTEGER NOT NULL,
    leg      INTEGER NOT NULL,
    at_us    INTEGER NOT NULL,
    dir      TEXT    NOT NULL,            -- <- -> |< |> >| <|
    verb     TEXT    NOT NULL,            -- of a reply: the verb it answers; . ends data
    code     INTEGER,                     -- NULL for commands
    enhanced TEXT,
    text     TEXT    NOT NULL,
    took_us  INTEGER,                     -- replies of the MX: its service time
    PRIMARY KEY (session, seq)
) WITHOUT ROWID;

CREATE TABLE messages (
    session      TEXT    NOT NULL,
    n            INTEGER NOT NULL,
    leg          INTEGER NOT NULL,
    reverse_path TEXT    NOT NULL,
    size         INTEGER NOT NULL,
    message_id   TEXT,
    mail_us      INTEGER,
    data_us      INTEGER,
    content_us   INTEGER,
    sent_us      INTEGER,
    reply_us     INTEGER,
    class        TEXT    NOT NULL,
    list         TEXT,
    code         INTEGER,
    PRIMARY KEY (session, n)
) WITHOUT ROWID;

CREATE TABLE recipients (
    session      TEXT    NOT NULL,
    message      INTEGER NOT NULL,
    n            INTEGER NOT NULL,
    forward_path TEXT    NOT NULL,
    class        TEXT    NOT NULL,
    list         TEXT,
    code         INTEGER,
    enhanced     TEXT,
    text         TEXT    NOT NULL,
    reply_us     INTEGER,
    PRIMARY KEY (session, message, n)
) WITHOUT ROWID;

CREATE TABLE gaps (
    from_us  INTEGER NOT NULL,
    until_us INTEGER NOT NULL,
    records  INTEGER NOT NULL,
    reason   TEXT    NOT NULL,
    PRIMARY KEY (from_us, until_us)
) WITHOUT ROWID;
