-- A leg may be the connection of another session, which goes on: nothing was dialled then, so connected_us is NULL, and there are no extensions; those are
-- the other session's.

ALTER TABLE legs ADD COLUMN taken_from TEXT;      -- the session whose connection it was
