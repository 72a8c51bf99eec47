//! The threads that carry sessions.
//!
//! A session stays on the thread that accepted it: both its connections are in that thread's poll, so nobody has to be woken on another processor for each line that
//! is said. A door of a cell belongs to one thread; the listener of a standalone proxy is served by all, and the kernel's queue in front of it
//! shares the load.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};

const TICK: Duration = Duration::from_secs(1);

/// Threads with a runtime each. They live as long as the program.
#[derive(Debug)]
pub struct Workers {
    handles: Vec<Handle>,
    next: AtomicUsize,
}

impl Workers {
    /// So many threads.
    pub fn start(count: usize) -> io::Result<Self> {
        let handles = (0..count.max(1)).map(|number| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let handle = runtime.handle().clone();
            let work = move || runtime.block_on(tick());
            std::thread::Builder::new().name(format!("sessions-{number}")).spawn(work)?;
            Ok(handle)
        });
        Ok(Self { handles: handles.collect::<io::Result<_>>()?, next: AtomicUsize::new(0) })
    }

    /// As many as there are processors.
    pub fn for_this_machine() -> io::Result<Self> {
        Self::start(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
    }

    /// The runtime that calls, and no other.
    pub fn here() -> Self {
        Self { handles: vec![Handle::current()], next: AtomicUsize::new(0) }
    }

    /// All of them.
    pub fn all(&self) -> &[Handle] {
        &self.handles
    }

    /// The next in turn.
    pub fn next(&self) -> &Handle {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        &self.handles[turn % self.handles.len()]
    }
}

/// Never ends. A runtime wakes itself up, with a system call, for each timer that is due before all others; those of sessions are due in half a minute at the
/// earliest, and with this none of them is the first.
async fn tick() {
    loop {
        tokio::time::sleep(TICK).await;
    }
}
