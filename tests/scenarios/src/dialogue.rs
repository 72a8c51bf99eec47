//! Plain SMTP, command by command, for what a well-behaved client would not say.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a reply may take before the scenario fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A session in the clear.
#[derive(Debug)]
pub struct Dialogue {
    stream: BufReader<TcpStream>,
}

impl Dialogue {
    /// Connects and reads the greeting.
    pub fn open(server: SocketAddr) -> std::io::Result<(Self, String)> {
        let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut dialogue = Dialogue { stream: BufReader::new(stream) };
        let greeting = dialogue.reply()?;
        Ok((dialogue, greeting))
    }

    /// Says one line and reads the reply.
    pub fn say(&mut self, command: &str) -> std::io::Result<String> {
        self.write(format!("{command}\r\n").as_bytes())?;
        self.reply()
    }

    /// Writes bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads one reply, all its lines; empty at the end of the stream.
    pub fn reply(&mut self) -> std::io::Result<String> {
        let mut whole = String::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Ok(whole);
            }
            whole.push_str(&line);
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(whole.trim_end().to_owned());
            }
        }
    }

    /// Sends one message and returns the reply to each step: MAIL, every RCPT, DATA or its refusal.
    pub fn mail(&mut self, from: &str, to: &[&str], message: &[u8]) -> std::io::Result<Vec<String>> {
        let mut replies = vec![self.say(&format!("MAIL FROM:<{from}> BODY=8BITMIME"))?];
        for recipient in to {
            replies.push(self.say(&format!("RCPT TO:<{recipient}>"))?);
        }
        let go = self.say("DATA")?;
        if !go.starts_with("354") {
            replies.push(go);
            return Ok(replies);
        }
        let mut stuffed = Vec::with_capacity(message.len() + 64);
        for line in message.split_inclusive(|b| *b == b'\n') {
            if line.starts_with(b".") {
                stuffed.push(b'.');
            }
            stuffed.extend_from_slice(line);
        }
        stuffed.extend_from_slice(b".\r\n");
        self.write(&stuffed)?;
        replies.push(self.reply()?);
        Ok(replies)
    }
}
