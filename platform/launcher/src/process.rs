//! Processes that may not be our children.

use std::fs;
use std::os::unix::fs::MetadataExt;

use rustix::process::WaitStatus;
use warren_launcher_api::ExitStatus;

/// The kernel's status in our words.
pub fn exit_status(status: WaitStatus) -> ExitStatus {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ExitStatus::Code(code),
        (_, Some(signal)) => ExitStatus::Signal(signal),
        _ => ExitStatus::Unknown,
    }
}

/// When a process was started, in clock ticks since boot: with the pid it names one process for good.
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses, which may hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19)?.parse().ok()
}

/// Our own children, dead ones that nobody has reaped among them.
pub fn children() -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/self/task/{}/children", std::process::id())).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Inode of one of its namespaces (`net`, `user`, …).
pub fn namespace(pid: i32, kind: &str) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/{kind}")).ok().map(|metadata| metadata.ino())
}

/// It still runs our own program, so the container was created but its own has not begun.
pub fn is_waiting_init(pid: i32) -> bool {
    let own = fs::metadata("/proc/self/exe").map(|metadata| (metadata.dev(), metadata.ino()));
    let its = fs::metadata(format!("/proc/{pid}/exe")).map(|metadata| (metadata.dev(), metadata.ino()));
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    matches!((own, its), (Ok(own), Ok(its)) if own == its) || name.starts_with("youki:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_can_be_told_from_others() {
        let me = std::process::id() as i32;
        assert!(start_time(me).is_some_and(|ticks| ticks > 0));
        assert!(namespace(me, "net").is_some());
        assert!(is_waiting_init(me));
        assert!(start_time(i32::MAX).is_none());
    }
}
