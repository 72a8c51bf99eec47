//! Who goes first among the node's own programs.
//!
//! All of them go before tenants, by their control group (the launcher's README, "Who goes first"). A nice value counts within that group:
//!
//! ```text
//!   -20   some of the threads that check passwords      nine times the weight of the others
//!   -10   everything else
//! ```
//! A check is the longest that anybody's mail has to compute, on one processor at a stretch, while what the daemons do for mail that is under way
//! comes in pieces of a fraction of a millisecond. As one among equals a check of 16 ms took 45 beside a tenant that sends (docs/limits.md).
//!
//! `warren up` starts the platform with the nice value of checks, as nobody without privileges can take it; whatever else the platform does steps back.

use rustix::{
    io::Errno,
    process::{getpriority_process, setpriority_process},
};

/// Of the node's programs.
pub const NODE: i32 = -10;
/// Of threads that check passwords, and so of the platform at its start.
pub const CHECKS: i32 = -20;

/// The calling thread, and those that it starts from now on, leave the priority to checks. A platform that was started without has nothing to
/// leave.
pub fn step_back() -> Result<(), Errno> {
    let found = getpriority_process(None)?;
    match stepped_back(found) {
        nice if nice == found => Ok(()),
        nice => setpriority_process(None, nice),
    }
}

fn stepped_back(found: i32) -> i32 {
    found.max(NODE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_was_put_first_steps_back() {
        for (found, wanted) in [(CHECKS, NODE), (-15, NODE), (NODE, NODE), (-5, -5), (0, 0), (19, 19)] {
            assert_eq!(stepped_back(found), wanted);
        }
    }
}
