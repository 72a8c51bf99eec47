//! One session with a persona.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Event, Host, Moment};
use crate::config::{Act, Step, Tls};

/// A command line's bound; RFC 5321 asks for 512, extensions add to it.
const MAX_LINE: usize = 4096;
/// A message's bound.
const MAX_CONTENT: usize = 64 << 20;
/// Recipients of one transaction.
const MAX_RECIPIENTS: usize = 10_000;
/// Silence after which a session is given up.
const PATIENCE: Duration = Duration::from_secs(300);

/// A TLS record: alert, version 1.2, two bytes: fatal, handshake_failure (RFC 5246 §7.2).
const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 40];

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

struct Session<'a> {
    host: &'a Host,
    io: Box<dyn Io>,
    peer: SocketAddr,
    id: u64,
    buffer: Vec<u8>,
    encrypted: bool,
    sender: Option<String>,
    recipients: Vec<String>,
}

/// Why a session ends.
enum End {
    Quit,
    Dropped,
    Reset,
    Io(io::Error),
}

impl From<io::Error> for End {
    fn from(e: io::Error) -> Self {
        End::Io(e)
    }
}

pub(super) async fn run(host: &Host, stream: TcpStream, peer: SocketAddr, id: u64) {
    let _ = stream.set_nodelay(true);
    host.log(id, peer, Event::Connected);
    let reset = std::os::fd::AsFd::as_fd(&stream).try_clone_to_owned();
    let mut session = Session {
        host,
        io: Box::new(stream),
        peer,
        id,
        buffer: Vec::new(),
        encrypted: false,
        sender: None,
        recipients: Vec::new(),
    };
    let end = match session.talk().await {
        Ok(never) => match never {},
        Err(end) => end,
    };
    let why = match &end {
        End::Quit => "quit".to_owned(),
        End::Dropped => "dropped by script".to_owned(),
        End::Reset => "reset by script".to_owned(),
        End::Io(e) => e.to_string(),
    };
    host.log(id, peer, Event::Closed(why));
    if matches!(end, End::Reset) {
        if let Ok(socket) = reset {
            // Lingering for no time makes the close a reset.
            let _ = rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
        }
        return;
    }
    let _ = timeout(Duration::from_secs(1), session.io.shutdown()).await;
}

/// Whether the step was answered by a rule.
#[derive(PartialEq)]
enum Answered {
    Yes,
    No,
}

impl Session<'_> {
    async fn talk(&mut self) -> Result<std::convert::Infallible, End> {
        if self.act(Step::Greeting, "").await? == Answered::No {
            let greeting = format!("220 {} ESMTP {}", self.host.name, self.host.script.name);
            self.reply(&greeting).await?;
        }
        loop {
            let line = self.line().await?;
            self.host.log(self.id, self.peer, Event::Command(line.clone()));
            self.command(&line).await?;
        }
    }

    async fn command(&mut self, line: &str) -> Result<(), End> {
        let verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" | "HELO" => self.hello(line, verb == "EHLO").await,
            "STARTTLS" => self.start_tls(line).await,
            "MAIL" => self.mail(line).await,
            "RCPT" => self.rcpt(line).await,
            "DATA" => self.data(line).await,
            "RSET" => {
                self.clear();
                self.reply("250 2.0.0 forgotten").await
            }
            "NOOP" => self.reply("250 2.0.0 still here").await,
            "QUIT" => {
                if self.act(Step::Quit, line).await? == Answered::No {
                    self.reply("221 2.0.0 goodbye").await?;
                }
                Err(End::Quit)
            }
            _ => self.reply("502 5.5.1 not spoken here").await,
        }
    }

    fn clear(&mut self) {
        self.sender = None;
        self.recipients.clear();
    }

    async fn hello(&mut self, line: &str, extended: bool) -> Result<(), End> {
        self.clear();
        if self.act(Step::Ehlo, line).await? == Answered::Yes {
            return Ok(());
        }
        let mut lines = vec![self.host.name.clone()];
        if extended {
            lines.extend(self.host.script.extensions.iter().cloned());
            if self.host.script.tls != Tls::Off && !self.encrypted {
                lines.push("STARTTLS".into());
            }
        }
        let last = lines.len() - 1;
        for (at, text) in lines.iter().enumerate() {
            self.reply(&format!("250{}{text}", if at == last { ' ' } else { '-' })).await?;
        }
        Ok(())
    }

    async fn start_tls(&mut self, line: &str) -> Result<(), End> {
        if self.act(Step::Starttls, line).await? == Answered::Yes {
            return Ok(());
        }
        match self.host.script.tls {
            _ if self.encrypted => return self.reply("503 5.5.1 already").await,
            Tls::Off => return self.reply("502 5.5.1 not spoken here").await,
            Tls::Refused => return self.reply("454 4.7.0 TLS not available").await,
            Tls::Good | Tls::Untrusted | Tls::Broken | Tls::Stalled | Tls::Alert => {
                self.reply("220 2.0.0 go ahead").await?
            }
        }
        match self.host.script.tls {
            Tls::Broken => {
                self.io.write_all(b"this is no handshake\r\n").await?;
                return Err(End::Dropped);
            }
            Tls::Alert => {
                // What the client says first is read: closing on it would be a reset, and the alert lost.
                self.more().await?;
                self.io.write_all(&ALERT).await?;
                return Err(End::Dropped);
            }
            Tls::Stalled => {
                tokio::time::sleep(PATIENCE).await;
                return Err(End::Dropped);
            }
            _ => {}
        }
        // Commands that came in the clear behind STARTTLS were never said.
        self.buffer.clear();
        self.clear();
        let (nothing, _) = tokio::io::duplex(1);
        let plain = std::mem::replace(&mut self.io, Box::new(nothing));
        let accepted = timeout(PATIENCE, self.host.tls.0.accept(plain)).await;
        let stream = accepted.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let facts = stream.get_ref().1;
        let version = facts.protocol_version().map(|v| format!("{v:?}")).unwrap_or_default();
        let name = facts.server_name().map(str::to_owned);
        self.host.log(self.id, self.peer, Event::Tls { version, name });
        self.io = Box::new(stream);
        self.encrypted = true;
        Ok(())
    }

    async fn mail(&mut self, line: &str) -> Result<(), End> {
        let Some(sender) = address(line) else { return self.reply("501 5.5.4 MAIL FROM:<address>").await };
        if self.sender.is_some() {
            return self.reply("503 5.5.1 nested MAIL").await;
        }
        self.sender = Some(sender);
        if self.act(Step::Mail, line).await? == Answered::Yes {
            self.sender = None;
            return Ok(());
        }
        self.reply("250 2.1.0 sender ok").await
    }

    async fn rcpt(&mut self, line: &str) -> Result<(), End> {
        if self.sender.is_none() {
            return self.reply("503 5.5.1 MAIL first").await;
        }
        let Some(recipient) = address(line) else { return self.reply("501 5.5.4 RCPT TO:<address>").await };
        if self.recipients.len() == MAX_RECIPIENTS {
            return self.reply("452 4.5.3 too many recipients").await;
        }
        self.recipients.push(recipient);
        if self.act(Step::Rcpt, line).await? == Answered::Yes {
            self.recipients.pop();
            return Ok(());
        }
        let recipient = self.recipients.last().map(String::as_str).unwrap_or_default();
        let user = recipient.rsplit_once('@').map(|(user, _)| user).unwrap_or_default();
        if user.is_empty() || user.starts_with(['.', ' ']) || user.contains(['/', '\0']) {
            self.recipients.pop();
            return self.reply("553 5.1.3 not a mailbox here").await;
        }
        if user.starts_with("unknown") {
            self.recipients.pop();
            return self.reply("550 5.1.1 No such user here").await;
        }
        self.reply("250 2.1.5 recipient ok").await
    }

    async fn data(&mut self, line: &str) -> Result<(), End> {
        if self.recipients.is_empty() {
            return self.reply("554 5.5.1 no valid recipients").await;
        }
        if self.act(Step::Data, line).await? == Answered::Yes {
            return Ok(());
        }
        self.reply("354 end with CRLF . CRLF").await?;
        let content = self.content().await?;
        self.host.log(self.id, self.peer, Event::Content(content.len() as u64));
        let answered = self.act(Step::Content, "").await?;
        let recipients = std::mem::take(&mut self.recipients);
        self.clear();
        if answered == Answered::Yes {
            return Ok(());
        }
        for recipient in &recipients {
            if let Err(e) = self.host.store(recipient, &content) {
                return self.reply(&format!("452 4.3.0 not stored: {e}")).await;
            }
        }
        self.reply("250 2.6.0 stored").await
    }

    /// Lets the script act on a step.
    async fn act(&mut self, step: Step, line: &str) -> Result<Answered, End> {
        let pair = (self.sender.as_deref().unwrap_or(""), self.recipients.last().map(String::as_str).unwrap_or(""));
        match self.host.decide(&Moment { step, peer: self.peer, line, pair, encrypted: self.encrypted }) {
            Act::Accept => Ok(Answered::No),
            Act::Stall(time) => {
                tokio::time::sleep(time).await;
                Ok(Answered::No)
            }
            Act::Reply(lines) => {
                self.replies(&lines).await?;
                Ok(Answered::Yes)
            }
            Act::ReplyAndClose(lines) => {
                self.replies(&lines).await?;
                Err(End::Dropped)
            }
            Act::Drop => Err(End::Dropped),
            Act::Reset => Err(End::Reset),
        }
    }

    async fn replies(&mut self, lines: &[String]) -> Result<(), End> {
        for line in lines {
            self.reply(line).await?;
        }
        Ok(())
    }

    /// Writes one line at the persona's pace.
    async fn reply(&mut self, line: &str) -> Result<(), End> {
        self.host.log(self.id, self.peer, Event::Reply(line.to_owned()));
        let bytes = format!("{line}\r\n");
        let delay = self.host.script.delay;
        if delay.is_zero() {
            self.io.write_all(bytes.as_bytes()).await?;
        } else {
            for byte in bytes.as_bytes() {
                tokio::time::sleep(delay).await;
                self.io.write_all(std::slice::from_ref(byte)).await?;
                self.io.flush().await?;
            }
        }
        Ok(self.io.flush().await?)
    }

    /// Reads more into the buffer.
    async fn more(&mut self) -> Result<(), End> {
        let mut chunk = [0; 16 * 1024];
        let got = timeout(PATIENCE, self.io.read(&mut chunk))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        if got == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.buffer.extend_from_slice(&chunk[..got]);
        Ok(())
    }

    async fn line(&mut self) -> Result<String, End> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n") {
                let line = self.buffer.drain(..end + 2).collect::<Vec<_>>();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if self.buffer.len() > MAX_LINE {
                self.reply("500 5.5.6 line too long").await?;
                return Err(End::Dropped);
            }
            self.more().await?;
        }
    }

    /// The content up to CRLF . CRLF and nothing looser, dots unstuffed.
    async fn content(&mut self) -> Result<Vec<u8>, End> {
        let mut seen = 0;
        let end = loop {
            if self.buffer.starts_with(b".\r\n") {
                break 0;
            }
            if let Some(at) = memchr::memmem::find(&self.buffer[seen..], b"\r\n.\r\n") {
                break seen + at + 2;
            }
            if self.buffer.len() > MAX_CONTENT {
                self.reply("552 5.3.4 too much").await?;
                return Err(End::Dropped);
            }
            seen = self.buffer.len().saturating_sub(4);
            self.more().await?;
        };
        let stuffed = self.buffer.drain(..end + 3).collect::<Vec<_>>();
        Ok(unstuff(&stuffed[..end]))
    }
}

/// Takes away the first dot of every line that begins with one.
fn unstuff(stuffed: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(stuffed.len());
    let mut rest = stuffed.strip_prefix(b".").unwrap_or(stuffed);
    while let Some(at) = memchr::memmem::find(rest, b"\r\n.") {
        out.extend_from_slice(&rest[..at + 2]);
        rest = &rest[at + 3..];
    }
    out.extend_from_slice(rest);
    out
}

/// What stands between the angle brackets.
fn address(line: &str) -> Option<String> {
    let (_, path) = line.split_once('<')?;
    let (path, _) = path.rsplit_once('>')?;
    Some(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_come_off_only_at_line_starts() {
        assert_eq!(unstuff(b"..a\r\n.b.\r\n...\r\n"), b".a\r\nb.\r\n..\r\n");
        assert_eq!(unstuff(b"a\n.b\r\n"), b"a\n.b\r\n");
    }

    #[test]
    fn takes_addresses_out_of_their_brackets() {
        assert_eq!(address("MAIL FROM:<> SIZE=5").as_deref(), Some(""));
        assert_eq!(address("RCPT TO:<\"a>b\"@c.example> NOTIFY=NEVER").as_deref(), Some("\"a>b\"@c.example"));
        assert_eq!(address("RCPT TO:a@b"), None);
    }
}
