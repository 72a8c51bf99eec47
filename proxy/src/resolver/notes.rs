//! Telling the proxy what addresses stand for. What cannot be told is forgotten: the proxy then works without a name, and whoever gives an address out decides
//! whether it may.

use std::{io, path::PathBuf, time::Duration};

use tokio::{
    net::UnixDatagram,
    sync::Mutex,
    time::{Instant, timeout_at},
};

use super::{
    answer::MAX_MX,
    memory::{MAX_ADDRESSES, MAX_DOMAINS},
};
use crate::names::Note;

/// Longest an answer is held back for its notes. A proxy that reads takes microseconds.
const PATIENCE: Duration = Duration::from_millis(250);
/// After the proxy did not read in time, so long no answer waits for it.
const SULK: Duration = Duration::from_secs(1);
/// Most notes for one answer: of as many hosts as are passed on with as many addresses as are remembered, and what is known of them.
const MAX_NOTES: usize = MAX_MX * (MAX_ADDRESSES + 1) + MAX_DOMAINS * MAX_ADDRESSES;

/// The way to the proxy's datagram socket.
#[derive(Debug)]
pub struct Notes {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    // Connected, because only then does the kernel tell when the proxy's queue has room.
    socket: Option<UnixDatagram>,
    sulking_until: Option<Instant>,
}

impl Notes {
    /// Notes go to the socket at `path`, whenever there is one.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, state: Mutex::default() }
    }

    /// Sends notes, in their order; returns when the proxy has them all, or cannot be told: then false.
    pub async fn send(&self, notes: Vec<Note>) -> bool {
        if notes.is_empty() {
            return true;
        }
        let deadline = Instant::now() + PATIENCE;
        let Ok(mut state) = timeout_at(deadline, self.state.lock()).await else { return false };
        if state.sulking_until.is_some_and(|until| Instant::now() < until) {
            return false;
        }
        let sent = timeout_at(deadline, async {
            for note in notes.into_iter().take(MAX_NOTES) {
                let Ok(json) = serde_json::to_vec(&note) else { continue };
                self.deliver(&mut state, &json).await?;
            }
            Ok::<(), io::Error>(())
        })
        .await;
        let failure = match sent {
            Ok(Ok(())) => {
                state.sulking_until = None;
                return true;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it does not read".to_owned(),
        };
        state.socket = None;
        if state.sulking_until.is_none() {
            tracing::warn!(socket = %self.path.display(), reason = failure, "the proxy cannot be told names");
        }
        state.sulking_until = Some(Instant::now() + SULK);
        false
    }

    /// One datagram; once more if the proxy has been replaced since the last.
    async fn deliver(&self, state: &mut State, datagram: &[u8]) -> io::Result<()> {
        if let Some(socket) = &state.socket {
            match socket.send(datagram).await {
                Ok(_) => return Ok(()),
                Err(_) => state.socket = None,
            }
        }
        let socket = UnixDatagram::unbound()?;
        socket.connect(&self.path)?;
        state.socket.insert(socket).send(datagram).await.map(|_| ())
    }
}
