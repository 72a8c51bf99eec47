//! Between a client and a server that say anything at any time: bounded, no panic, and no end of data that the client did not send.
use std::sync::Arc;
use std::time::{Duration, Instant};

use warren_smtp::mediator::{Action, ClientTls, Event, Leg, Mediator, Observer, Outbound, Policy, TlsPolicy};

/// Counts ends of data, and keeps every connection that may be kept.
#[derive(Default)]
struct Witness {
    ends: u32,
}

impl Observer for Witness {
    fn event(&mut self, _: Instant, event: Event<'_>) {
        if let Event::ContentEnd = event {
            self.ends += 1;
        }
    }
}

impl Policy for Witness {
    fn keep(&mut self) -> bool {
        true
    }
}

pub fn run(data: &[u8]) {
    let mut now = Instant::now();
    let mut asked = 0u32;
    let mut observer = Witness::default();
    let leg = Leg { ehlo_name: "out.example".into(), tls: TlsPolicy::Opportunistic };
    let settings = Outbound { leg, deadlines: Arc::default() };
    let begin = |now| Mediator::outbound(settings.clone(), now).offering_tls(ClientTls::Offered);
    let (mut mediator, mut kept) = (begin(now), None);
    for (kind, bytes) in moves(data) {
        while let Some(action) = mediator.next_action() {
            match action {
                Action::Dial => match kept.take() {
                    Some(kept) => mediator.taken_over(now, kept, &mut observer),
                    None => mediator.connected(now, &mut observer),
                },
                Action::Handshake => mediator.handshake_done(now, false, &mut observer),
                Action::SecureClient => mediator.client_secured(now, &mut observer),
                Action::SetAside | Action::TakeBack | Action::LeaveAside { .. } => {}
                Action::DropServer | Action::CloseServer => {
                    let length = mediator.to_server().len();
                    mediator.to_server().wrote(length);
                }
                Action::KeepServer => kept = Some(mediator.kept().expect("there is something to keep")),
                // The client's next session.
                Action::CloseClient if kept.is_some() => mediator = begin(now),
                Action::CloseClient => return,
            }
        }
        match kind % 8 {
            0..=2 if mediator.wants_client() => {
                // Each end of data needs a dot or a chunk of the client's.
                asked += bytes.iter().filter(|byte| matches!(byte, b'.' | b'L' | b'l')).count() as u32;
                mediator.client_bytes(now, bytes, &mut observer);
            }
            3..=5 if mediator.wants_server() => mediator.server_bytes(now, bytes, &mut observer),
            6 => {
                now += Duration::from_secs(u64::from(bytes.first().copied().unwrap_or(0)));
                mediator.tick(now, &mut observer);
            }
            7 => {
                let (client, server) = (mediator.to_client().len(), mediator.to_server().len());
                mediator.to_client().wrote(client);
                mediator.to_server().wrote(server);
                mediator.wrote(now, &mut observer);
            }
            _ => {}
        }
    }
    let ends = observer.ends;
    assert!(ends <= asked, "{ends} ends of data, {asked} asked for");
}

/// What happens one after the other: a kind, a length, and that many bytes.
fn moves(mut data: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let [kind, length, rest @ ..] = data else { return None };
        let (bytes, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        data = rest;
        Some((*kind, bytes))
    })
}
