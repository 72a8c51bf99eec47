-- Whom a refusal is about and which rule says so; what was noticed about MX hosts.

ALTER TABLE messages ADD COLUMN about TEXT;    -- egress, sender, content, recipient, session, site, unclear; NULL before this version
ALTER TABLE messages ADD COLUMN rule TEXT;
ALTER TABLE recipients ADD COLUMN about TEXT;
ALTER TABLE recipients ADD COLUMN rule TEXT;

CREATE TABLE events (
    session  TEXT    NOT NULL,
    n        INTEGER NOT NULL,
    leg      INTEGER NOT NULL,
    at_us    INTEGER NOT NULL,
    kind     TEXT    NOT NULL,            -- tarpit, throttle, slow_address, listing, greylisting
    operator TEXT    NOT NULL,
    egress   TEXT    NOT NULL,
    verb     TEXT    NOT NULL,            -- whose reply showed it
    code     INTEGER,
    list     TEXT,
    evidence TEXT    NOT NULL,            -- JSON
    PRIMARY KEY (session, n)
) WITHOUT ROWID;
CREATE INDEX events_by_kind ON events (kind, session);
