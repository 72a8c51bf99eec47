-- What the proxy remembers of its egress addresses, so that a restart forgets nothing: one row for each thing.
-- Nothing here is needed for mail to flow; whoever deletes the file has the proxy learn anew.
CREATE TABLE egress (
    kind  TEXT NOT NULL,                          -- what it is about
    name  TEXT NOT NULL,                          -- which one of them
    value TEXT NOT NULL CHECK (json_valid(value)),
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
