//! Over pipes and sockets.

use std::sync::Arc;

use super::*;
use tokio::io::{AsyncBufReadExt, BufReader, DuplexStream, duplex, split};
use warren_smtp::mediator::{Event, Leg, Observer, Outbound, Policy, TlsPolicy};

/// A server that answers each line with the next of its answers, and then closes.
struct Script(Option<&'static [&'static str]>);

impl Observer for Script {
    fn event(&mut self, _: Instant, _: Event<'_>) {}
}

impl Policy for Script {}

impl Upstream<DuplexStream> for Script {
    type Stream = DuplexStream;

    async fn dial(&mut self) -> Result<DuplexStream, Reply> {
        let answers = self.0.take().expect("dialled once");
        let (ours, theirs) = duplex(64);
        tokio::spawn(async move {
            let (read, mut write) = split(theirs);
            let mut lines = BufReader::new(read).lines();
            for answer in answers {
                write.write_all(answer.as_bytes()).await.unwrap();
                while let Ok(Some(line)) = lines.next_line().await {
                    if line != "x" {
                        break;
                    }
                }
            }
        });
        Ok(ours)
    }
}

fn mediator() -> Mediator {
    let leg = Leg { ehlo_name: "out.example".to_owned(), tls: TlsPolicy::Off };
    Mediator::outbound(Outbound { leg, deadlines: Arc::default() }, Instant::now())
}

#[tokio::test]
async fn last_words_arrive_though_something_is_unread() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut peer = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (client, _) = listener.accept().await.unwrap();
    peer.write_all(b"behind QUIT").await.unwrap();
    client.readable().await.unwrap();
    part_from_client(client, b"221 bye\r\n", false).await;
    let mut heard = [0; 9];
    peer.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"221 bye\r\n");
}

#[tokio::test]
async fn whoever_closes_its_own_direction_still_gets_the_answer() {
    const ANSWERS: &[&str] =
        &["220 mx\r\n", "250 mx\r\n", "250 mail\r\n", "250 rcpt\r\n", "354 go\r\n", "250 taken\r\n"];
    let (client, peer) = duplex(1024);
    let session = tokio::spawn(async move {
        relay(&mut mediator(), client, &mut Script(Some(ANSWERS)), std::future::pending()).await;
    });
    let (read, mut write) = split(peer);
    let mut answers = BufReader::new(read).lines();
    for (line, answer) in [
        ("", "220 mx"),
        ("EHLO c\r\n", "250 mx"),
        ("MAIL FROM:<a@x.example>\r\n", "250 mail"),
        ("RCPT TO:<b@y.example>\r\n", "250 rcpt"),
        ("DATA\r\n", "354 go"),
    ] {
        write.write_all(line.as_bytes()).await.unwrap();
        assert_eq!(answers.next_line().await.unwrap().as_deref(), Some(answer));
    }
    write.write_all(b"x\r\n.\r\n").await.unwrap();
    write.shutdown().await.unwrap();
    assert_eq!(answers.next_line().await.unwrap().as_deref(), Some("250 taken"));
    assert_eq!(answers.next_line().await.unwrap(), None);
    session.await.unwrap();
}
