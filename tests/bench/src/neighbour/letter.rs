//! One mail of somebody who is elsewhere: submitted over TLS with a password, and looked for in the mailbox of the MX.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;
use warren_lab::Lab;
use warren_scenarios::setup::PASSWORD;

/// The node's submission port with TLS from the first byte.
const NODE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 10)), 465);
/// Whatever is not done by then counts as a failure.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks into the mailbox: it bounds the error of a time.
const LOOK: Duration = Duration::from_micros(500);
/// Mail of usual size.
const LINES: usize = 120;

/// When a mail was where, since its sender set out.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The password was accepted.
    pub known: Duration,
    /// The message was: it is on the disk.
    pub accepted: Duration,
    /// It lies in the mailbox.
    pub delivered: Duration,
}

/// Submits a mail to `user@plain.example`, and waits until it is there. Runs on the network of the lab's client.
pub fn deliver(lab: &Lab, tls: &Arc<ClientConfig>, from: &str, user: &str) -> anyhow::Result<Times> {
    let began = Instant::now();
    let (known, accepted) = submit(tls, from, &format!("{user}@plain.example"))?;
    let mailbox = lab.mailbox("plain.example", user);
    while mailbox.messages().context("look into the mailbox")?.is_empty() {
        ensure!(began.elapsed() < PATIENCE, "the mail to {user} does not arrive");
        std::thread::sleep(LOOK);
    }
    Ok(Times { known: known - began, accepted: accepted - began, delivered: began.elapsed() })
}

/// Submits a mail; answers when the password and when the message was accepted.
pub fn submit(tls: &Arc<ClientConfig>, from: &str, to: &str) -> anyhow::Result<(Instant, Instant)> {
    let stream = TcpStream::connect_timeout(&NODE, PATIENCE).context("connect to the node")?;
    stream.set_read_timeout(Some(PATIENCE)).context("set a timeout")?;
    stream.set_nodelay(true).context("set TCP_NODELAY")?;
    let name = ServerName::try_from("mail.warren.example").context("the node's name")?;
    let connection = ClientConnection::new(Arc::clone(tls), name).context("begin TLS")?;
    let mut smtp = Dialogue(BufReader::new(StreamOwned::new(connection, stream)));
    smtp.expect("220")?;
    smtp.say("EHLO client.example\r\n", "250")?;
    smtp.say(&format!("AUTH PLAIN {}\r\n", plain(from)), "235")?;
    let known = Instant::now();
    smtp.say(&format!("MAIL FROM:<{from}>\r\n"), "250")?;
    smtp.say(&format!("RCPT TO:<{to}>\r\n"), "250")?;
    smtp.say("DATA\r\n", "354")?;
    let line = "All work and no play makes a dull benchmark, so the lines are of usual size.\r\n";
    let text = line.repeat(LINES);
    smtp.say(&format!("From: <{from}>\r\nTo: <{to}>\r\nSubject: a mail\r\n\r\n{text}.\r\n"), "250")?;
    let accepted = Instant::now();
    // The session is over for whoever sends; how it ends is not measured.
    let _ = smtp.say("QUIT\r\n", "221");
    Ok((known, accepted))
}

struct Dialogue<S: io::Read>(BufReader<S>);

impl<S: io::Read + Write> Dialogue<S> {
    fn say(&mut self, text: &str, code: &str) -> anyhow::Result<()> {
        self.0.get_mut().write_all(text.as_bytes()).context("write to the node")?;
        self.expect(code)
    }

    fn expect(&mut self, code: &str) -> anyhow::Result<()> {
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).context("read the node's reply")?;
            if !line.starts_with(code) {
                bail!("not {code} but {:?}", line.trim_end());
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(());
            }
        }
    }
}

/// RFC 4616, in base64.
fn plain(login: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes = format!("\0{login}\0{PASSWORD}").into_bytes();
    let chunk = |chunk: &[u8]| {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        let digit = |at: usize| match at <= chunk.len() {
            true => char::from(ALPHABET[(word >> (18 - 6 * at)) as usize & 63]),
            false => '=',
        };
        [digit(0), digit(1), digit(2), digit(3)]
    };
    bytes.chunks(3).flat_map(chunk).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_base64() {
        let told =
            Dialogue(BufReader::new(io::Cursor::new(b"235-more\r\n235 2.7.0 welcome\r\n".to_vec()))).expect("235");
        assert!(told.is_ok());
        assert_eq!(plain("a"), "AGEAY29ycmVjdCBob3JzZSBiYXR0ZXJ5IHN0YXBsZQ==");
        assert_eq!(plain("ab"), "AGFiAGNvcnJlY3QgaG9yc2UgYmF0dGVyeSBzdGFwbGU=");
    }
}
