//! A proxy that fell quiet keeps no memory of its last burst.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use warren_proxy::giving_back::give_back;

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
    let less = async {
        while resident() + 48 * 1_024 > full {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = give_back() => {}
        () = less => {}
        () = tokio::time::sleep(Duration::from_secs(60)) => panic!("{full} KiB, and now {} KiB", resident()),
    }
}
