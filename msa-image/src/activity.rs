//! Whether anything is going on, so that the MSA knows when it may sleep.

use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Counts what is going on. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Activity {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    busy: usize,
    quiet_since: Instant,
}

/// Something is going on as long as this lives.
#[derive(Debug)]
pub struct Busy(Arc<Shared>);

impl Default for Activity {
    fn default() -> Self {
        let state = State { busy: 0, quiet_since: Instant::now() };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() }) }
    }
}

impl Activity {
    /// Notes that something goes on until the guard is dropped.
    #[must_use]
    pub fn begin(&self) -> Busy {
        self.shared.state.lock().expect("no holder of this lock panics").busy += 1;
        Busy(Arc::clone(&self.shared))
    }

    /// How many guards there are.
    #[must_use]
    pub fn busy(&self) -> usize {
        self.shared.state.lock().expect("no holder of this lock panics").busy
    }

    /// Waits until nothing has gone on for `quiet`.
    pub async fn quiet_for(&self, quiet: Duration) {
        loop {
            let changed = self.shared.changed.notified();
            let since = {
                let state = self.shared.state.lock().expect("no holder of this lock panics");
                (state.busy == 0).then_some(state.quiet_since)
            };
            match since {
                None => changed.await,
                Some(since) if since.elapsed() >= quiet => return,
                Some(since) => tokio::time::sleep_until(since + quiet).await,
            }
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.state.lock().expect("no holder of this lock panics");
        state.busy -= 1;
        if state.busy == 0 {
            state.quiet_since = Instant::now();
            drop(state);
            self.0.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn quiet_counts_from_the_last_end() {
        let activity = Activity::default();
        let started = Instant::now();
        let busy = activity.begin();
        let waiter = tokio::spawn({
            let activity = activity.clone();
            async move { activity.quiet_for(Duration::from_secs(30)).await }
        });
        tokio::time::sleep(Duration::from_secs(100)).await;
        drop(busy);
        waiter.await.unwrap();
        assert!(started.elapsed() >= Duration::from_secs(130) && activity.busy() == 0);
    }
}
