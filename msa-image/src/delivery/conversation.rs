//! One session with an MX: moves bytes between the client machine, the socket and the message's file, each step within
//! its time.

use std::io::Read;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use warren_queue::ContentReader;
use warren_smtp::Reply;
use warren_smtp::client::{Client, ClientConfig, Envelope, Event, Failure, Step};

/// Content is read and sent in pieces of this size.
const PIECE: usize = 64 * 1024;

/// An open session.
pub struct Conversation {
    stream: TcpStream,
    client: Client,
    buffer: Vec<u8>,
    /// What went wrong below SMTP: a timeout, a broken connection, an unreadable file.
    trouble: Option<String>,
}

/// What came of one message.
#[derive(Debug, Default)]
pub struct Delivered {
    /// The last answer to each recipient, by its place in the envelope.
    pub answers: Vec<Option<Reply>>,
    /// Why there are recipients without an answer.
    pub failure: Option<String>,
    /// The content (a bare line end, an incomplete file) cannot be sent at all.
    pub unsendable: bool,
    /// The end of data was on its way: the MX may have the message although it did not say so.
    pub doubtful: bool,
}

impl Conversation {
    /// Greets; gives the session once messages can be sent.
    ///
    /// # Errors
    /// What the MX said instead, or what happened.
    pub async fn open(stream: TcpStream, hostname: &str) -> Result<Self, String> {
        let _ = stream.set_nodelay(true);
        let client = Client::new(ClientConfig { hostname: hostname.to_owned(), xclient: None });
        let mut conversation = Self { stream, client, buffer: vec![0; 8 * 1024], trouble: None };
        loop {
            match conversation.next().await {
                Event::Ready => return Ok(conversation),
                Event::Closed(failure) => return Err(conversation.why(failure)),
                _ => {}
            }
        }
    }

    /// Whether the MX takes over DSN duties.
    #[must_use]
    pub fn offers_dsn(&self) -> bool {
        self.client.extensions().dsn
    }

    /// Whether another message can be sent.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.client.is_ready()
    }

    /// Sends one message.
    pub async fn deliver(&mut self, envelope: Envelope, content: ContentReader) -> Delivered {
        let mut result = Delivered { answers: vec![None; envelope.recipients.len()], ..Delivered::default() };
        let mut accepted = Vec::new();
        let mut content = Some(content);
        self.client.send(envelope);
        loop {
            match self.next().await {
                Event::Recipient(index, reply) if reply.is_positive() => accepted.push(index),
                Event::Recipient(index, reply) => result.answers[index] = Some(reply),
                Event::Content => {
                    if let Some(content) = content.take() {
                        self.send_content(content, &mut result.doubtful).await;
                    }
                }
                Event::Done(reply) => {
                    result.doubtful = false;
                    for index in accepted.drain(..) {
                        result.answers[index] = reply.clone();
                    }
                }
                Event::Ready => return result,
                Event::Closed(failure) => {
                    result.unsendable = matches!(failure, Some(Failure::Content(_)));
                    result.failure = Some(self.why(failure));
                    return result;
                }
            }
        }
    }

    /// Says QUIT, and waits for the answer as long as is polite.
    pub async fn quit(mut self) {
        self.client.quit();
        while !matches!(self.next().await, Event::Closed(_)) {}
    }

    async fn send_content(&mut self, mut content: ContentReader, ending: &mut bool) {
        let mut piece = vec![0; PIECE];
        loop {
            match content.read(&mut piece) {
                Ok(0) => break,
                Ok(length) => self.client.content(&piece[..length]),
                Err(error) => {
                    self.trouble = Some(format!("the message cannot be read: {error}"));
                    self.client.quit();
                }
            }
            self.flush().await;
            if self.client.is_closed() {
                return;
            }
        }
        self.client.finish();
        *ending = self.client.step() == Step::End;
        self.flush().await;
    }

    /// The next event. Always comes: within the step's time, or as a failure.
    async fn next(&mut self) -> Event {
        loop {
            self.flush().await;
            if let Some(event) = self.client.next_event() {
                return event;
            }
            if self.client.is_closed() {
                return Event::Closed(None);
            }
            let (step, limit) = self.client.deadline();
            match timeout(limit, self.stream.read(&mut self.buffer)).await {
                Ok(Ok(0)) => self.client.disconnected(),
                Ok(Ok(length)) => self.client.receive(&self.buffer[..length]),
                Ok(Err(error)) => self.broken(format!("connection broken at {step}: {error}")),
                Err(_) => self.broken(format!("no answer within {} seconds at {step}", limit.as_secs())),
            }
        }
    }

    async fn flush(&mut self) {
        let output = self.client.take_output();
        if output.is_empty() {
            return;
        }
        let (step, limit) = (self.client.step(), Step::Content.timeout());
        match timeout(limit, self.stream.write_all(&output)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                self.last_words().await;
                self.broken(format!("connection broken at {step}: {error}"));
            }
            Err(_) => self.broken(format!("nothing taken within {} seconds at {step}", limit.as_secs())),
        }
    }

    /// A server that closes on us often says why before.
    async fn last_words(&mut self) {
        if let Ok(Ok(length @ 1..)) = timeout(Duration::from_secs(1), self.stream.read(&mut self.buffer)).await {
            self.client.receive(&self.buffer[..length]);
        }
    }

    fn broken(&mut self, what: String) {
        if !self.client.is_closed() {
            self.trouble.get_or_insert(what);
            self.client.disconnected();
        }
    }

    fn why(&mut self, failure: Option<Failure>) -> String {
        match (self.trouble.take(), failure) {
            (_, Some(Failure::Refused { during, reply })) => format!("{reply} (at {during})"),
            (Some(trouble), _) => trouble,
            (None, Some(failure)) => failure.to_string(),
            (None, None) => "the session ended".to_owned(),
        }
    }
}
