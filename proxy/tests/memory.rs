//! A proxy that fell quiet keeps no memory of its last burst.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use warren_proxy::giving_back::once;

/// The allocator waits a second before it gives a page back: the second look finds all of them, unless the machine is very busy.
const LOOKS: usize = 30;

/// The program's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Memory of its own that this process has, in KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn what_was_freed_is_given_back_though_nothing_happens_any_more() {
    let burst: Vec<Vec<u8>> = (0..8_192).map(|_| vec![1; 8_192]).collect();
    let full = resident();
    drop(burst);
    for _ in 0..LOOKS {
        once().await;
        if resident() + 48 * 1_024 <= full {
            return;
        }
    }
    panic!("{full} KiB, and now {} KiB", resident());
}
