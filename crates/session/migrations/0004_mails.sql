-- What was delivered is written in few rows of many mails, each with its recipients: two rows for each were half of what recording took. The views are what
-- the tables were; no row is written anew for that.

ALTER TABLE messages RENAME TO each_message;      -- a row for each: what an MX refused, what was given up, what an earlier version wrote
ALTER TABLE recipients RENAME TO each_recipient;

CREATE TABLE mails (
    session TEXT    NOT NULL,
    n       INTEGER NOT NULL,         -- of the first
    facts   TEXT    NOT NULL,         -- JSON, an array for each: [n, leg, code, size, mail_us, data_us, content_us, sent_us, reply_us, reverse_path, message_id,
                                      -- enhanced, text, {n: forward_path}]
    PRIMARY KEY (session, n)
);

CREATE VIEW messages AS
SELECT session, n, leg, reverse_path, size, message_id, mail_us, data_us, content_us, sent_us, reply_us, class, list, code,
       about,                            -- egress, sender, content, recipient, session, site, unclear; NULL before this was known
       rule
FROM each_message
UNION ALL
SELECT mails.session,
       mail.value ->> 0,
       mail.value ->> 1,
       mail.value ->> 9,
       mail.value ->> 3,
       mail.value ->> 10,
       mail.value ->> 4,
       mail.value ->> 5,
       mail.value ->> 6,
       mail.value ->> 7,
       mail.value ->> 8,
       'delivered',
       NULL,
       mail.value ->> 2,
       'unclear',
       ''
FROM mails, json_each(mails.facts) AS mail;

CREATE VIEW recipients AS
SELECT session, message, n, forward_path, class, list, code, enhanced, text, reply_us, about, rule
FROM each_recipient
UNION ALL
SELECT mails.session,
       mail.value ->> 0,
       CAST(taken.key AS INTEGER),
       taken.value,
       'delivered',
       NULL,
       mail.value ->> 2,
       mail.value ->> 11,
       mail.value ->> 12,
       mail.value ->> 8,
       'unclear',
       ''
FROM mails, json_each(mails.facts) AS mail, json_each(mail.value, '$[13]') AS taken;
