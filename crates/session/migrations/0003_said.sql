-- What one session says is written in few rows of many exchanges: half of what recording took was a row for each. The view is what the table was.

CREATE TABLE said (
    session TEXT    NOT NULL,
    seq     INTEGER NOT NULL,         -- of the first
    lines   TEXT    NOT NULL,         -- JSON, an array for each: [leg, at_us, dir, verb, text, code, enhanced, took_us], without NULLs at its end
    PRIMARY KEY (session, seq)
);

-- Rows of thirty-two that follow one another.
INSERT INTO said (session, seq, lines)
SELECT session, min(seq), json_group_array(json_array(leg, at_us, dir, verb, replace(text, char(0), char(9216)), code, enhanced, took_us) ORDER BY seq)
FROM (SELECT *, row_number() OVER (PARTITION BY session ORDER BY seq) AS row FROM exchanges)
GROUP BY session, seq - row, (row - 1) / 32;

DROP TABLE exchanges;

CREATE VIEW exchanges AS
SELECT said.session,
       said.seq + line.key  AS seq,
       line.value ->> 0     AS leg,
       line.value ->> 1     AS at_us,
       line.value ->> 2     AS dir,     -- <- -> |< |> >| <| ==
       line.value ->> 3     AS verb,    -- of a reply: the verb it answers; . ends data
       line.value ->> 5     AS code,    -- NULL for commands
       line.value ->> 6     AS enhanced,
       line.value ->> 4     AS text,
       line.value ->> 7     AS took_us  -- replies of the MX: its service time
FROM said, json_each(said.lines) AS line;
