//! A session at one of the entrances.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::Settings;
use crate::queue::write_next_due;
use crate::{Msa, may_use, now_ms};

const MAX_LINE: u64 = 4096;

struct Session<'a> {
    msa: &'a Msa,
    settings: Arc<Settings>,
    submitted: bool,
    reader: BufReader<TcpStream>,
    login: Option<String>,
    client: String,
    helo: String,
    from: Option<String>,
    to: Vec<String>,
    /// What BDAT has brought so far.
    chunks: Option<Vec<u8>>,
}

/// Until the client goes.
pub fn serve(msa: &Msa, stream: TcpStream, submitted: bool) {
    let began = Instant::now();
    let settings = loop {
        match msa.control.settings() {
            Some(settings) => break settings,
            None if began.elapsed() > Duration::from_secs(10) => {
                let _ = (&stream).write_all(b"421 4.3.2 not ready\r\n");
                return;
            }
            None => msa.wait(Duration::from_millis(20)),
        }
    };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(300)));
    let mut session = Session {
        msa,
        settings,
        submitted,
        reader: BufReader::new(stream),
        login: None,
        client: "unknown".into(),
        helo: "unknown".into(),
        from: None,
        to: Vec::new(),
        chunks: None,
    };
    // A client that is gone is no error.
    let _ = session.run();
}

impl Session<'_> {
    fn run(&mut self) -> io::Result<()> {
        self.greet()?;
        loop {
            let mut line = Vec::new();
            self.reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
            if !line.ends_with(b"\n") {
                return if line.is_empty() { Ok(()) } else { self.say("500 5.5.2 line too long") };
            }
            let Some(line) = line.strip_suffix(b"\r\n").and_then(|line| std::str::from_utf8(line).ok()) else {
                return self.say("500 5.5.2 lines end with CRLF");
            };
            let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
            match verb.to_ascii_uppercase().as_str() {
                "EHLO" => self.ehlo(rest)?,
                "HELO" => {
                    rest.clone_into(&mut self.helo);
                    self.say(&format!("250 {}", self.settings.hostname))?;
                }
                "XCLIENT" => self.xclient(rest)?,
                "MAIL" => self.mail(rest)?,
                "RCPT" => self.rcpt(rest)?,
                "DATA" => self.data()?,
                "BDAT" => self.bdat(rest)?,
                "RSET" => {
                    self.reset();
                    self.say("250 2.0.0 forgotten")?;
                }
                "NOOP" => self.say("250 2.0.0 ok")?,
                "VRFY" => self.say("252 2.5.0 send it and see")?,
                "QUIT" => return self.say("221 2.0.0 bye"),
                _ => self.say("502 5.5.1 not known here")?,
            }
        }
    }

    fn say(&mut self, reply: &str) -> io::Result<()> {
        self.reader.get_mut().write_all(format!("{reply}\r\n").as_bytes())
    }

    fn greet(&mut self) -> io::Result<()> {
        self.say(&format!("220 {} ESMTP tiny", self.settings.hostname))
    }

    fn ehlo(&mut self, name: &str) -> io::Result<()> {
        self.reset();
        name.clone_into(&mut self.helo);
        let Settings { hostname, max_message_bytes, .. } = &*self.settings;
        let names = "NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT";
        let reply = format!(
            "250-{hostname}\r\n250-PIPELINING\r\n250-SIZE {max_message_bytes}\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n\
             250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250 XCLIENT {names}"
        );
        self.say(&reply)
    }

    fn xclient(&mut self, attributes: &str) -> io::Result<()> {
        for (name, value) in attributes.split(' ').filter_map(|attribute| attribute.split_once('=')) {
            let value = xtext(value);
            if value.starts_with('[') {
                continue;
            }
            match name {
                "LOGIN" => self.login = Some(value),
                "ADDR" => self.client = value,
                _ => {}
            }
        }
        self.greet()
    }

    fn reset(&mut self) {
        (self.from, self.to, self.chunks) = (None, Vec::new(), None);
    }

    fn mail(&mut self, rest: &str) -> io::Result<()> {
        let Some((from, parameters)) = path("FROM:", rest) else { return self.say("501 5.5.4 MAIL FROM:<address>") };
        let size =
            parameters.split(' ').filter_map(|p| p.strip_prefix("SIZE=")?.parse::<u64>().ok()).next().unwrap_or(0);
        if self.from.is_some() {
            return self.say("503 5.5.1 one at a time");
        }
        if size > self.settings.max_message_bytes {
            return self.say("552 5.3.4 too large");
        }
        if self.submitted {
            let Some(login) = &self.login else { return self.say("530 5.7.0 who are you?") };
            if !from.is_empty() && !may_use(&self.settings, login, &from) {
                return self.say("550 5.7.1 not your address");
            }
        }
        if self.settings.max_queue_bytes.is_some_and(|most| self.msa.queue.bytes() >= most) {
            return self.say("452 4.3.1 the queue is full");
        }
        self.from = Some(from);
        self.say("250 2.1.0 ok")
    }

    fn rcpt(&mut self, rest: &str) -> io::Result<()> {
        let Some((to, _)) = path("TO:", rest).filter(|(to, _)| to.contains('@')) else {
            return self.say("501 5.5.4 RCPT TO:<address>");
        };
        if self.from.is_none() {
            return self.say("503 5.5.1 MAIL first");
        }
        if self.to.len() as u64 >= self.settings.max_recipients {
            return self.say("452 4.5.3 no more recipients");
        }
        self.to.push(to);
        self.say("250 2.1.5 ok")
    }

    fn data(&mut self) -> io::Result<()> {
        if self.to.is_empty() {
            return self.say("503 5.5.1 RCPT first");
        }
        self.say("354 go on")?;
        let (mut content, mut line, mut garbled) = (Vec::new(), Vec::new(), false);
        loop {
            line.clear();
            self.reader.by_ref().take(1 << 20).read_until(b'\n', &mut line)?;
            match &line[..] {
                [] => return Err(io::ErrorKind::UnexpectedEof.into()),
                b".\r\n" => break,
                [b'.', rest @ ..] => content.extend_from_slice(rest),
                line => content.extend_from_slice(line),
            }
            // A bare CR or LF, in whatever piece of a line.
            let text = line.strip_suffix(b"\r\n").unwrap_or(&line);
            garbled |= text.contains(&b'\n') || text.contains(&b'\r');
            if content.len() as u64 > self.settings.max_message_bytes {
                content.truncate(usize::try_from(self.settings.max_message_bytes).unwrap_or(usize::MAX));
                content.push(b'+');
            }
        }
        if garbled {
            self.reset();
            return self.say("550 5.6.11 lines end with CRLF");
        }
        self.take(content)
    }

    fn bdat(&mut self, rest: &str) -> io::Result<()> {
        let mut words = rest.split(' ');
        let Some(size) = words.next().and_then(|n| n.parse::<u64>().ok()) else {
            return self.say("501 5.5.4 BDAT size [LAST]");
        };
        let last = words.next().is_some_and(|word| word.eq_ignore_ascii_case("LAST"));
        let mut chunk = Vec::new();
        // What is too long is read all the same, and forgotten.
        let kept =
            self.reader.by_ref().take(size.min(self.settings.max_message_bytes + 1)).read_to_end(&mut chunk)? as u64;
        io::copy(&mut self.reader.by_ref().take(size - kept), &mut io::sink())?;
        if self.to.is_empty() {
            return self.say("503 5.5.1 RCPT first");
        }
        let chunks = self.chunks.get_or_insert_default();
        if chunks.len() as u64 <= self.settings.max_message_bytes {
            chunks.append(&mut chunk);
        }
        if last {
            let content = self.chunks.take().unwrap_or_default();
            return self.take(content);
        }
        self.say("250 2.0.0 and on")
    }

    /// The content is here: fix-ups, rights, queue.
    fn take(&mut self, content: Vec<u8>) -> io::Result<()> {
        let (from, to) = (self.from.take().unwrap_or_default(), std::mem::take(&mut self.to));
        if content.len() as u64 > self.settings.max_message_bytes {
            return self.say("552 5.3.4 too large");
        }
        let end = content.windows(4).position(|w| w == b"\r\n\r\n").map_or(content.len(), |at| at + 2);
        let (head, body) = content.split_at(end);
        let fields = fields(head);
        let is = |field: &[u8], name: &str| {
            field.len() > name.len()
                && field[..name.len()].eq_ignore_ascii_case(name.as_bytes())
                && field[name.len()] == b':'
        };
        if fields.iter().filter(|f| is(f, "Received")).count() as u64 > self.settings.hop_limit {
            return self.say("554 5.4.6 too many hops");
        }
        let proto = if self.submitted { "ESMTPSA" } else { "ESMTP" };
        let mut whole = format!(
            "Received: from {} ([{}])\r\n\tby {} (tiny) with {proto};\r\n\t{}\r\n",
            clean(&self.helo),
            clean(&self.client),
            self.settings.hostname,
            date(now_ms() / 1000)
        )
        .into_bytes();
        if self.submitted {
            let login = self.login.clone().unwrap_or_default();
            for field in fields.iter().filter(|f| ["From", "Sender", "Resent-From"].iter().any(|name| is(f, name))) {
                let text = String::from_utf8_lossy(field).into_owned();
                // One address a field: what is between angles, or the value as it stands. Whoever writes it otherwise has another image.
                let value = text.split_once(':').map_or("", |(_, value)| value.trim());
                let address = value.rsplit_once('<').map_or(value, |(_, address)| address.trim_end_matches('>'));
                if !may_use(&self.settings, &login, address) {
                    return self.say("550 5.7.1 From is not your address");
                }
            }
            if !fields.iter().any(|f| is(f, "Date")) {
                whole.extend(format!("Date: {}\r\n", date(now_ms() / 1000)).bytes());
            }
            if !fields.iter().any(|f| is(f, "Message-ID")) {
                whole.extend(format!("Message-ID: <{:x}.tiny@{}>\r\n", now_ms(), self.settings.hostname).bytes());
            }
        }
        for field in fields {
            if !(self.submitted && (is(field, "Bcc") || is(field, "Resent-Bcc"))) {
                whole.extend_from_slice(field);
            }
        }
        whole.extend_from_slice(body);
        // Before the acknowledgement: after a crash somebody must look.
        write_next_due(Some(now_ms()));
        match self.msa.queue.add(from, to, whole) {
            Ok(id) => {
                self.msa.ring();
                self.say(&format!("250 2.0.0 queued as {id}"))
            }
            Err(error)
                if error.kind() == io::ErrorKind::StorageFull || error.kind() == io::ErrorKind::QuotaExceeded =>
            {
                self.say("452 4.3.1 no room")
            }
            Err(_) => self.say("451 4.3.0 the volume cannot be written"),
        }
    }
}

/// `FROM:<address> parameters`.
fn path(word: &str, rest: &str) -> Option<(String, String)> {
    let (start, after) = rest.split_at_checked(word.len())?;
    let (address, parameters) = after.trim_start().strip_prefix('<')?.split_once('>')?;
    let plain = address.bytes().all(|b| b > b' ' && b != 127);
    (start.eq_ignore_ascii_case(word) && plain).then(|| (address.to_owned(), parameters.trim().to_owned()))
}

/// The fields of a header, each with the lines that continue it.
fn fields(head: &[u8]) -> Vec<&[u8]> {
    let (mut fields, mut start) = (Vec::new(), 0);
    for at in 1..=head.len() {
        let next = head.get(at);
        if head[at - 1] == b'\n' && !matches!(next, Some(b' ' | b'\t')) {
            fields.push(&head[start..at]);
            start = at;
        }
    }
    if start < head.len() {
        fields.push(&head[start..]);
    }
    fields
}

fn xtext(value: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), value.as_bytes());
    while let [byte, after @ ..] = rest {
        let code = after.get(..2).and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        match (byte, code) {
            (b'+', Some(code)) => {
                bytes.push(code);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn clean(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || ".-:[]".contains(*c)).take(255).collect()
}

/// RFC 5322 §3.3, in UTC.
pub fn date(seconds: u64) -> String {
    let (days, left) = (seconds / 86_400, seconds % 86_400);
    // Years from March on, so that the leap day is the last: the usual reckoning by eras of 400 years.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = (shifted_month + 2) % 12;
    let year = year_of_era + era * 400 + u64::from(month < 2);
    let week = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][usize::try_from(days % 7).unwrap_or(0)];
    let names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let name = names[usize::try_from(month).unwrap_or(0)];
    format!("{week}, {day} {name} {year} {:02}:{:02}:{:02} +0000", left / 3600, left / 60 % 60, left % 60)
}
