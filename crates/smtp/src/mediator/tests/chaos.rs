//! Peers that say anything in any order.

use proptest::prelude::*;

use super::super::opening::{Hello, Security};
use super::*;
use crate::{ForwardPath, ReversePath};

#[derive(Debug, Clone)]
enum Move {
    Client(Vec<u8>),
    Server(Vec<u8>),
    ClientCloses,
    ServerCloses,
    Silence,
    Drain,
    /// The driver writes, dials and shakes hands; or fails to.
    Driver(bool),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let client = prop::sample::select(vec![
        &b"EHLO x\r\n"[..],
        b"HELO x\r\n",
        b"MAIL FROM:<a@b.example>\r\n",
        b"RCPT TO:<c@d.example>\r\n",
        b"DATA\r\n",
        b"text\r\n",
        b".\r\n",
        b"\n.\r\n",
        b"\r",
        b"BDAT 5\r\nQUIT\r\n",
        b"BDAT 3 LAST\r\nabc",
        b"BDAT 9 LAST\r\n",
        b"STARTTLS\r\n",
        b"RSET\r\n",
        b"QUIT\r\n",
    ]);
    let server = prop::sample::select(vec![
        &b"220 mx\r\n"[..],
        b"250 ok\r\n",
        b"250-mx\r\n250 STARTTLS\r\n",
        b"354 go\r\n",
        b"421 bye\r\n",
        b"452 later\r\n",
        b"554 no\r\n",
        b"250-half\r\n",
        b"nonsense\r\n",
    ]);
    let one = prop_oneof![
        8 => client.prop_map(|bytes| Move::Client(bytes.to_vec())),
        8 => server.prop_map(|bytes| Move::Server(bytes.to_vec())),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Move::Client),
        1 => Just(Move::ClientCloses),
        1 => Just(Move::ServerCloses),
        1 => Just(Move::Silence),
        1 => Just(Move::Drain),
        6 => any::<bool>().prop_map(Move::Driver),
    ];
    prop::collection::vec(one, 1..60)
}

/// Counts what must add up, and decides by a list.
#[derive(Default)]
struct Fickle {
    whims: Vec<u8>,
    accepted: u32,
    ends: u32,
    ended: u32,
    moves: u32,
    arrivals: u32,
}

impl Fickle {
    fn judge(&mut self) -> Judgement {
        match self.whims.pop().unwrap_or(0) % 5 {
            1 => Judgement::Refuse(Reply::new(451, (4, 7, 5), "a whim")),
            2 => Judgement::Move,
            3 => Judgement::Hold,
            _ => Judgement::Pass,
        }
    }
}

impl Observer for Fickle {
    fn event(&mut self, _: Instant, event: Event<'_>) {
        match event {
            Event::ContentEnd => self.ends += 1,
            Event::Ended(_) => self.ended += 1,
            Event::Moving { reply: Some(_), .. } => self.moves += 1,
            Event::Moved { .. } | Event::Stayed => self.arrivals += 1,
            Event::Reply { flow, topic: Topic::EndOfData | Topic::LastChunk, reply } if reply.is_positive() => {
                assert_eq!(flow, Flow::ReplyPassed, "only the server accepts a message");
                self.accepted += 1;
            }
            _ => {}
        }
    }
}

impl Policy for Fickle {
    fn mail(&mut self, _: &ReversePath, _: &[u8]) -> Judgement {
        self.judge()
    }

    fn rcpt(&mut self, _: &ForwardPath, _: &[u8]) -> Judgement {
        self.judge()
    }

    fn fail_over(&mut self, _: Topic, _: &Reply) -> bool {
        self.whims.pop().is_some_and(|whim| whim > 80)
    }

    fn keep(&mut self) -> bool {
        self.whims.pop().is_none_or(|whim| whim > 80)
    }
}

proptest! {
    #[test]
    fn every_session_stays_within_its_promises(
        moves in moves(),
        policy in 0usize..4,
        taken_over in any::<bool>(),
        whims in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let policy = [TlsPolicy::Off, TlsPolicy::Opportunistic, TlsPolicy::Require, TlsPolicy::Verify][policy];
        let mut now = Instant::now();
        let mut mediator = Mediator::outbound(outbound(policy), now).offering_tls(ClientTls::Offered);
        let mut host = Fickle { whims, ..Fickle::default() };
        let mut closed = 0u32;
        let hello = Hello::given(&Reply { code: 250, enhanced: None, lines: vec!["mx".into(), "PIPELINING".into()] });
        let mut kept = taken_over.then_some(Kept { hello, security: Security::Verified });
        // As the driver has them: may be read, and set aside.
        let (mut server, mut aside) = (false, false);
        for step in moves {
            match step {
                Move::Client(bytes) if mediator.wants_client() => mediator.client_bytes(now, &bytes, &mut host),
                Move::Server(bytes) if mediator.wants_server() => mediator.server_bytes(now, &bytes, &mut host),
                Move::ClientCloses => mediator.client_closed(now, &mut host),
                Move::ServerCloses if mediator.wants_server() => {
                    server = false;
                    mediator.server_closed(now, &mut host);
                }
                Move::Silence => if let Some(deadline) = mediator.deadline() {
                    now = now.max(deadline);
                    mediator.tick(now, &mut host);
                },
                Move::Drain => mediator.drain(now, &mut host),
                Move::Driver(well) => match mediator.next_action() {
                    Some(Action::Dial) if well => {
                        assert!(!server, "two servers at once");
                        server = true;
                        match kept.take() {
                            Some(kept) => mediator.taken_over(now, kept, &mut host),
                            None => mediator.connected(now, &mut host),
                        }
                    }
                    Some(Action::Dial) => mediator.not_connected(now, Reply::new(421, (4, 4, 1), "no"), &mut host),
                    Some(Action::Handshake) if well => mediator.handshake_done(now, true, &mut host),
                    Some(Action::Handshake) => {
                        server = false;
                        mediator.handshake_failed(now, &mut host);
                    }
                    Some(Action::SecureClient) if well => mediator.client_secured(now, &mut host),
                    Some(Action::SecureClient) => mediator.client_not_secured(now, &mut host),
                    Some(Action::SetAside) => {
                        assert!(server && !aside, "one server may be set aside");
                        (server, aside) = (false, true);
                    }
                    Some(Action::TakeBack) => {
                        assert!(aside, "nothing was set aside");
                        (server, aside) = (true, false);
                    }
                    Some(Action::LeaveAside { .. }) => {
                        assert!(aside, "nothing was set aside");
                        aside = false;
                    }
                    Some(Action::KeepServer) => {
                        assert!(server && mediator.kept().is_some(), "there is something to keep");
                        server = false;
                    }
                    Some(Action::DropServer | Action::CloseServer) => server = false,
                    Some(Action::CloseClient) => closed += 1,
                    None => {}
                },
                _ => {}
            }
            let out = mediator.to_client();
            let length = out.len();
            out.wrote(length);
            let out = mediator.to_server();
            let length = out.len();
            out.wrote(length);
        }
        while let Some(action) = mediator.next_action() {
            closed += u32::from(action == Action::CloseClient);
        }
        let Fickle { accepted, ends, ended, moves, arrivals, .. } = host;
        prop_assert!(accepted <= ends, "{accepted} accepted of {ends} sent whole");
        prop_assert!(ended <= 1 && closed <= 1);
        prop_assert!(closed == 0 || ended == 1, "a session that is over says why");
        prop_assert!(moves <= 1, "a refused session moves once");
        prop_assert!(arrivals <= 20);
    }
}
