//! When a program runs out of descriptors: how many it may have, and how its listeners wait until there are some again.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};

/// Wait after an error of `accept` that does not go away by itself. Descriptors come back as sessions end, many times a second on a node that has
/// used them up.
const PAUSE: Duration = Duration::from_millis(200);
/// Trouble that stays away for so long was another one.
const SPELL: Duration = Duration::from_secs(60);

/// How many descriptors this program may have open at once (the soft limit, which [`run`](crate::run) raises to the hard one).
pub fn descriptors() -> usize {
    getrlimit(Resource::Nofile).current.and_then(|limit| limit.try_into().ok()).unwrap_or(usize::MAX)
}

/// A trouble that comes in spells, and is told once in each.
#[derive(Debug, Default)]
pub struct Spells {
    last: Mutex<Option<Instant>>,
}

impl Spells {
    /// It is there. Whether to say so: not if it was in the minute before.
    pub fn worth_a_word(&self) -> bool {
        self.worth_a_word_at(Instant::now())
    }

    fn worth_a_word_at(&self, now: Instant) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.replace(now).is_none_or(|last| now.saturating_duration_since(last) >= SPELL)
    }
}

/// What listeners do when `accept` fails. Those of one program share it, so that five thousand of them say it once.
#[derive(Debug, Default)]
pub struct Accepting {
    trouble: Spells,
}

impl Accepting {
    /// After an error of `accept` at the listener called `door`: resolves at once if it was the connection's, and after a pause if the program or the
    /// machine lacks something. Whoever connects waits in the backlog meanwhile.
    pub async fn failed(&self, error: &io::Error, door: &str) {
        if !of_the_connection(error) {
            if self.trouble.worth_a_word() {
                tracing::error!(%error, door, "cannot accept connections; they wait until it can");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Such a connection is gone, and the next one is a call away.
fn of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spell_is_told_once_however_long_it_is() {
        let (spells, start) = (Spells::default(), Instant::now());
        let told = |seconds| spells.worth_a_word_at(start + Duration::from_secs(seconds));
        assert_eq!([0, 1, 59, 100, 159].map(told), [true, false, false, false, false]);
        assert!(told(219), "a minute of peace was in between");
    }

    #[tokio::test]
    async fn a_lack_is_waited_out_and_a_lost_connection_is_not() {
        let accepting = Accepting::default();
        let lost = io::ErrorKind::ConnectionAborted.into();
        let mut at_once = std::pin::pin!(accepting.failed(&lost, "test"));
        assert!(at_once.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready());
        let began = Instant::now();
        accepting.failed(&io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error()), "test").await;
        assert!(began.elapsed() >= PAUSE, "it would be tried again at once, for ever");
    }
}
