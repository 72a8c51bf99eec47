//! A start that fails, at each of its steps, and what is left of it: nothing, and the next start works.
#![allow(clippy::unwrap_used)]

mod node;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use node::{Client, Node, SOON, pause};
use rustix::process::{Pid, Signal, kill_process};
use warren_launcher_api::{Event, ImageName, LauncherError, Limits, Request, TenantName};

fn soon<T: PartialEq + std::fmt::Debug>(what: &str, wanted: T, mut is: impl FnMut() -> T) {
    let deadline = Instant::now() + SOON;
    loop {
        let now = is();
        if now == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {now:?}, not {wanted:?}");
        pause();
    }
}

/// Descriptors of the launcher's for each slot.
const OF_A_SLOT: usize = 9;

/// What launcher and maker hold: descriptors of either, but for slots, of which there may be more now; mounts that the maker sees, dead children
/// that it has not reaped.
fn held(node: &Node, platform: &mut Client) -> [usize; 4] {
    let slots = platform.status().slots_ready as usize;
    let entries = |path: String| fs::read_dir(path).map_or(0, Iterator::count);
    let maker = node.maker().unwrap();
    let dead = children(maker).into_iter().filter(|pid| state(*pid) == Some('Z')).count();
    let mounts = fs::read_to_string(format!("/proc/{maker}/mountinfo")).unwrap_or_default().lines().count();
    let own = entries(format!("/proc/{}/fd", node.pid())).saturating_sub(slots * OF_A_SLOT);
    [own, entries(format!("/proc/{maker}/fd")), mounts, dead]
}

fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The children of the maker that are copies of it: seats.
fn seats(node: &Node) -> Vec<i32> {
    let is_seat = |pid: &i32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(b"\0maker\0"))
            && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| !name.starts_with("youki"))
    };
    node.maker().map(children).unwrap_or_default().into_iter().filter(is_seat).collect()
}

/// Numbers of the cells that have control groups and no container yet.
fn seated(node: &Node) -> Vec<u64> {
    let groups = node.groups().into_iter().flat_map(|group| fs::read_dir(group).into_iter().flatten().flatten());
    let names = groups.filter_map(|group| group.file_name().into_string().ok());
    let cells = names.filter(|name| !node.path("run/containers").join(name).exists());
    cells.filter_map(|name| name.strip_prefix('c')?.parse().ok()).collect()
}

/// All slots are there that are wanted, so none is being made.
fn settle(platform: &mut Client) {
    soon("slots", 0, || {
        let status = platform.status();
        status.slots_wanted.saturating_sub(status.slots_ready)
    });
}

/// It works again, at the latest when all slots that were spoilt are used up.
fn works(platform: &mut Client) {
    let awake = (0..8).find_map(|_| platform.try_wake("acme", "msa", Limits::default()).ok());
    platform.stop(awake.expect("nothing works any more").cell, 0);
}

#[test]
fn a_start_that_fails_at_any_step_leaves_nothing_behind() {
    let mut node = Node::new(2);
    // Of which there are no slots.
    node.make_image("other", &["/guest"]);
    let mut platform = node.platform();
    settle(&mut platform);
    works(&mut platform);
    settle(&mut platform);
    // Seats are filled up a moment after the slots.
    soon("seats", 4, || seats(&node).len());
    let before = held(&node, &mut platform);

    let moved = |from: &Path| from.with_extension("aside");
    let cells = node.path("run/cells");
    for step in ["create", "volume", "limits", "record", "start"] {
        settle(&mut platform);
        let (mut tenant, mut image, mut limits) = ("acme", "msa", Limits::default());
        match step {
            "create" => {
                image = "other";
                // The next container is made in the oldest seat, and its place is taken.
                let name = format!("c{}", seated(&node).into_iter().min().unwrap());
                fs::create_dir(node.path("run/bundles").join(name)).unwrap();
            }
            "volume" => {
                tenant = "lost";
                std::os::unix::fs::symlink("999999", node.path("state/tenants/lost")).unwrap();
            }
            "limits" => limits.pids = u32::MAX,
            "record" => {
                fs::rename(&cells, moved(&cells)).unwrap();
                fs::write(&cells, "").unwrap();
            }
            _ => {
                for slot in fs::read_dir(node.path("run/containers")).unwrap().flatten() {
                    let _ = fs::remove_file(slot.path().join("notify.sock"));
                }
            }
        }
        let error = platform.try_wake(tenant, image, limits).err().unwrap_or_else(|| panic!("{step} did not fail"));
        println!("{step}: {error}");
        let expected = matches!(
            (step, &error),
            ("volume", LauncherError::Volume { .. })
                | ("create" | "limits" | "record" | "start", LauncherError::Start { .. })
        );
        assert!(expected, "{step}: {error:?}");
        if step == "record" {
            fs::remove_file(&cells).unwrap();
            fs::rename(moved(&cells), &cells).unwrap();
        }
        settle(&mut platform);
        works(&mut platform);
    }
    settle(&mut platform);
    soon("what is held", before, || held(&node, &mut platform));
    fs::remove_file(node.path("state/tenants/lost")).unwrap();
    assert_eq!(platform.list().len(), 0);
    let status = platform.status();
    assert!(status.wakes_failed >= 5 && status.slots_failed >= 1, "{status:?}");
    node.stop();
}

/// A seat is killed while it waits, or at any moment of making a container; for an image that listens itself, whose root is mounted
/// anew for each container.
#[test]
fn a_seat_killed_at_any_moment_fails_at_most_its_own_start() {
    let mut node = Node::new(0);
    node.make_image("own", &["/guest", "waits"]);
    let description = serde_json::json!({ "args": ["/guest", "waits"], "entrance": "own", "uid": 0, "gid": 0 });
    fs::write(node.path("images/own/image.json"), description.to_string()).unwrap();
    let mut platform = node.platform();
    let image = || ImageName::new("own").unwrap();
    let first = platform.try_wake("first", "own", Limits::default()).unwrap();
    platform.stop(first.cell, 0);
    soon("seats", 4, || seats(&node).len());
    let before = held(&node, &mut platform);
    let mut failed = 0;
    for moment in 0..30 {
        let tenant = TenantName::new(&format!("t{moment}")).unwrap();
        let wanted = platform.ask(|tag| Request::Wake { tag, tenant, image: image(), limits: Limits::default() });
        // From before it is told to well after it has answered.
        std::thread::park_timeout(Duration::from_millis(moment));
        for seat in seats(&node) {
            // It may have ended by itself.
            let _ = kill_process(Pid::from_raw(seat).unwrap(), Signal::KILL);
        }
        let woken = platform.wait_for(|event, _| match event {
            Event::Woken { tag, cell, .. } if *tag == wanted => Some(Some(*cell)),
            Event::Failed { tag, .. } if *tag == wanted => Some(None),
            _ => None,
        });
        match woken {
            Some(cell) => platform.stop(cell, 0),
            None => failed += 1,
        }
    }
    println!("{failed} starts of 30 failed");
    let last = platform.try_wake("last", "own", Limits::default()).unwrap();
    platform.stop(last.cell, 0);
    // Each start takes a seat and has another made; those that were killed while they waited are noticed in their turn.
    (0..5).for_each(|_| works(&mut platform));
    soon("seats", 4, || seats(&node).len());
    // The dead are reaped with the next request.
    works(&mut platform);
    soon("seats", 4, || seats(&node).len());
    soon("what is held", before, || held(&node, &mut platform));
    node.stop();
}
