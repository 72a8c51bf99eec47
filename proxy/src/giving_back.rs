//! Gives back to the system what sessions and records leave behind.
//!
//! The allocator keeps pages that became free for a second, and looks whether that is over when somebody takes a fresh page. A proxy that fell quiet takes
//! none, and would keep what its last burst needed. Now and then such a look finds nothing though there is something, and so do all that come after it: two
//! threads were in each other's way. Only a thread that ends looks everywhere.

use std::hint::black_box;
use std::time::Duration;

/// How long nothing is given back, at most, behind the second. Each look is a wake-up.
const PAUSE: Duration = Duration::from_secs(2);
/// More than any block that the allocator has at hand. It is never written to, so that it takes no memory.
const FRESH: usize = 1 << 20;

/// Has the allocator look now and then. Never ends.
pub async fn give_back() {
    loop {
        once().await;
    }
}

/// Has it look once, after a pause.
pub async fn once() {
    tokio::time::sleep(PAUSE).await;
    let look = || drop(black_box(Vec::<u8>::with_capacity(FRESH)));
    if let Err(error) = std::thread::Builder::new().name("giving back".into()).spawn(look) {
        tracing::debug!(%error, "no memory is given back now");
    }
}
