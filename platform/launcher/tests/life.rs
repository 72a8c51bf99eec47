//! Wakes, sleeps and ends.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod node;

use std::fs;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use node::{Node, SOON, Talk};
use rustix::process::{Signal, pidfd_send_signal};
use warren_launcher_api::{Durations, Event, ExitStatus, LauncherError, Limits, Request, Role, TenantName, VERSION};
use warren_packet::Packets;

#[test]
fn a_tenant_is_woken_from_a_slot_keeps_its_files_and_leaves_nothing() {
    let mut node = Node::new(2);
    let mut platform = node.platform();
    platform.wait_slots(2);
    let mut awake = platform.wake("acme");
    assert!(awake.slot);
    assert_eq!(awake.tcp.len(), 4);
    let mut talk = awake.talk();
    assert_eq!(talk.ask("write /var/spool/warren/queued message"), "written");
    assert_eq!(Talk::tcp(awake.tcp.remove(0), 24).line(), "220 relay");
    let listed = platform.list();
    assert_eq!((listed.len(), listed[0].0.tenant.as_str(), listed[0].0.cell), (1, "acme", awake.cell));

    talk.say("exit 3");
    assert_eq!(platform.exited(awake.cell), ExitStatus::Code(3));
    assert!(awake.has_ended(Duration::ZERO));
    let mut again = platform.wake("acme");
    assert_ne!(again.cell, awake.cell);
    let mut talk = again.talk();
    assert_eq!(talk.ask("read /var/spool/warren/queued"), "message|");
    assert_eq!(talk.ask("owner /var/spool/warren/queued"), "1000:1000");
    platform.stop(again.cell, 2000);
    assert_eq!(platform.exited(again.cell), ExitStatus::Code(0));
    assert!(platform.list().is_empty());
    node.stop();
}

#[test]
fn control_and_more_sockets_reach_the_cell() {
    let node = Node::new(1);
    let mut platform = node.platform();
    let awake = platform.wake("acme");
    let mut control = Talk::control(awake.control);
    assert_eq!(control.line(), "220 control");
    let wanted = platform.ask(|tag| Request::Sockets { tag, cell: awake.cell, tcp: 2, control: 1 });
    let mut sockets = platform.wait_for(|event, descriptors| {
        matches!(event, Event::Sockets { tag } if *tag == wanted).then(|| std::mem::take(descriptors))
    });
    assert_eq!(sockets.len(), 3);
    assert_eq!(Talk::control(sockets.pop().unwrap()).line(), "220 control");
    assert_eq!(Talk::tcp(sockets.pop().unwrap(), 24).line(), "220 relay");
}

#[test]
fn without_slots_a_container_is_made_on_demand() {
    let mut node = Node::new(0);
    let mut platform = node.platform();
    let mut awake = platform.wake("acme");
    assert!(!awake.slot);
    awake.talk();
    assert_eq!(platform.status().slots_ready, 0);
    // Two at once, and one of them twice.
    for tenant in ["globex", "initech"] {
        let tenant = TenantName::new(tenant).unwrap();
        let image = "msa".parse().unwrap();
        platform.ask(|tag| Request::Wake { tag, tenant, image, limits: Limits::default() });
    }
    assert!(matches!(platform.try_wake("globex", "msa", Limits::default()), Err(LauncherError::Refused { .. })));
    for _ in 0..2 {
        platform.wait_for(|event, _| matches!(event, Event::Woken { .. }).then_some(()));
    }
    let status = platform.status();
    assert_eq!((status.woken_without_slot, status.slots_made, status.slots_failed, status.waiting), (3, 3, 0, 0));
    let longest = |durations: &Durations| durations.up_to_us.last().map(|(_, count)| *count);
    assert_eq!((longest(&status.without_slot), longest(&status.from_slot)), (Some(3), Some(0)));
    assert!(status.without_slot.sum_us > 1_000 && status.from_slot.sum_us == 0, "{status:?}");
    node.stop();
}

#[test]
fn fifty_wakes_from_slots() {
    let mut node = Node::new(4);
    let mut platform = node.platform();
    let mut request_to_banner = Vec::new();
    // A tenant's first wake makes its volume, with three fsyncs; that is not what is measured.
    for number in 0..55 {
        platform.wait_slots(4);
        let start = Instant::now();
        let mut awake = platform.wake(&format!("tenant-{}", number % 5));
        awake.talk();
        request_to_banner.push((start.elapsed(), awake.micros(), awake.stages));
        assert!(awake.slot);
        platform.stop(awake.cell, 0);
    }
    request_to_banner.drain(..5);
    request_to_banner.sort_by_key(|(banner, ..)| *banner);
    for (name, at) in [("median", 25), ("p90", 45), ("worst", 49)] {
        let (banner, micros, stages) = &request_to_banner[at];
        println!("{name}: request to banner {banner:?}, of it in the launcher {micros} µs: {stages:?}");
    }
    // A bound that holds on a busy machine, too; what it is on a quiet one `warren-bench cold-start` tells.
    assert!(request_to_banner[25].0 < Duration::from_millis(100), "slots make a wake fast");
    node.stop();
}

#[test]
fn the_pool_follows_those_who_live_and_not_those_who_crash() {
    let mut node = Node::new(1);
    let mut platform = node.platform();
    for image in ["other", "broken"] {
        node.make_image(image, &["/guest"]);
    }
    platform.wait_slots(1);
    for number in 0..3 {
        assert!(!platform.try_wake(&format!("t{number}"), "other", Limits::default()).unwrap().slot || number > 0);
    }
    assert_eq!(platform.status().slots_wanted, 4, "one of the standing image, and as many of the other as were woken");
    platform.wait_slots(4);
    assert!(platform.try_wake("next", "other", Limits::default()).unwrap().slot, "there are slots of it");
    let wanted = platform.status().slots_wanted;
    for _ in 0..3 {
        let mut broken = platform.try_wake("crasher", "broken", Limits::default()).unwrap();
        broken.talk().say("crash");
        platform.exited(broken.cell);
        assert_eq!(platform.status().slots_wanted, wanted, "a crash is no demand");
    }
    // Who was told to end wanted its slot.
    let bidden = platform.try_wake("stopped", "broken", Limits::default()).unwrap();
    platform.stop(bidden.cell, 0);
    assert_eq!(platform.status().slots_wanted, wanted + 1);
    node.stop();
}

#[test]
fn what_cannot_be_woken_says_why() {
    let node = Node::new(1);
    let mut platform = node.platform();
    match platform.try_wake("acme", "nothing", Limits::default()) {
        Err(LauncherError::Image { reason, .. }) => assert!(reason.contains("msa-image/build"), "{reason}"),
        other => panic!("{:?}", other.err()),
    }
    let awake = platform.wake("acme");
    match platform.try_wake("acme", "msa", Limits::default()) {
        Err(LauncherError::AlreadyAwake { cell, .. }) => assert_eq!(cell, awake.cell),
        other => panic!("{:?}", other.err()),
    }
    // A volume that somebody has chowned is not used.
    platform.stop(awake.cell, 0);
    let volume = fs::read_link(node.path("state/tenants/acme")).unwrap();
    std::os::unix::fs::chown(node.path("state/volumes").join(volume), Some(0), Some(0)).unwrap();
    match platform.try_wake("acme", "msa", Limits::default()) {
        Err(LauncherError::Volume { reason }) => assert!(reason.contains("restore its owner"), "{reason}"),
        other => panic!("{:?}", other.err()),
    }
}

#[test]
fn crashes_kills_and_stubborn_programs_end_as_they_must() {
    let mut node = Node::new(1);
    node.make_image("stubborn", &["/guest", "stubborn"]);
    let mut platform = node.platform();
    let mut crashing = platform.wake("crashing");
    crashing.talk().say("crash");
    assert!(matches!(platform.exited(crashing.cell), ExitStatus::Signal(_)));
    let killed = platform.wake("killed");
    pidfd_send_signal(&killed.pidfd, Signal::KILL).unwrap();
    assert_eq!(platform.exited(killed.cell), ExitStatus::Signal(9));
    let mut stubborn = platform.try_wake("stubborn", "stubborn", Limits::default()).unwrap();
    stubborn.talk();
    let start = Instant::now();
    platform.stop(stubborn.cell, 300);
    assert!(start.elapsed() >= Duration::from_millis(300), "it had its grace");
    assert_eq!(platform.exited(stubborn.cell), ExitStatus::Signal(9));
    let still = platform.try_wake("stubborn", "stubborn", Limits::default()).unwrap();
    still.control.as_fd();
    // With one that does not listen running, the launcher ends within its grace.
    node.stop();
}

#[test]
fn a_wake_right_after_the_exit_waits_until_it_was_told() {
    let node = Node::new(2);
    let mut platform = node.platform();
    platform.wait_slots(2);
    for _ in 0..5 {
        let mut awake = platform.wake("acme");
        awake.talk().say("exit 0");
        assert!(awake.has_ended(SOON));
        let next = platform.wake("acme");
        assert_eq!(platform.exited(awake.cell), ExitStatus::Code(0));
        platform.stop(next.cell, 0);
    }
}

#[test]
fn a_replaced_image_is_used_at_the_next_wake() {
    let node = Node::new(2);
    let mut platform = node.platform();
    platform.wait_slots(2);
    let guest = node.path("images/msa/rootfs/guest");
    fs::copy(&guest, guest.with_extension("new")).unwrap();
    fs::rename(guest.with_extension("new"), &guest).unwrap();
    let mut awake = platform.wake("acme");
    assert!(!awake.slot, "the slots were of the image before");
    awake.talk();
}

#[test]
fn due_times_are_read_without_waking_anybody() {
    let node = Node::new(1);
    let mut platform = node.platform();
    let due = |platform: &mut node::Client| {
        let tenants = vec![TenantName::new("acme").unwrap(), TenantName::new("nobody").unwrap()];
        let wanted = platform.ask(|tag| Request::Due { tag, tenants });
        platform.wait_for(|event, _| match event {
            Event::Due { tag, due } if *tag == wanted => {
                Some(due.iter().map(|due| due.next_due_unix_ms).collect::<Vec<_>>())
            }
            _ => None,
        })
    };
    let mut awake = platform.wake("acme");
    let mut talk = awake.talk();
    assert_eq!(due(&mut platform), [None, None]);
    talk.ask("write /var/spool/warren/next-due 1700000000000");
    assert_eq!(due(&mut platform), [Some(1_700_000_000_000), None]);
    fs::remove_file(node.path("state/volumes/1/next-due")).unwrap();
    assert_eq!(talk.ask("fifo"), "-1", "mknod is refused");
    assert_eq!(due(&mut platform), [None, None]);
}

#[test]
fn peers_are_who_the_kernel_says() {
    let node = Node::new(0);
    let platform = node.platform();
    // Requests before Hello, of another role, of another version: the connection ends.
    for requests in [
        vec![Request::List { tag: 1 }],
        vec![Request::Hello { role: Role::Platform, version: VERSION + 1 }],
        vec![Request::Hello { role: Role::Resolver, version: VERSION }, Request::List { tag: 1 }],
        vec![Request::Hello { role: Role::Resolver, version: VERSION }, Request::Ack { through: 9 }],
    ] {
        let packets = Packets::connect(node.path("run/launcher.sock")).unwrap();
        for request in &requests {
            packets.send(request, &[]).unwrap();
        }
        while let Some((event, _)) = packets.recv::<Event>().unwrap() {
            assert!(matches!(event, Event::Welcome { .. }), "{event:?}");
        }
    }
    // A user who is nobody.
    let socket = node.path("run/launcher.sock");
    let status = std::process::Command::new("python3")
        .args(["-c", "import os,socket,sys\nos.setuid(65000)\ns=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\ns.connect(sys.argv[1])\ns.send(b'{\"hello\":{\"role\":\"platform\",\"version\":1}}')\nsys.exit(len(s.recv(999)))"])
        .arg(&socket)
        .status();
    if let Ok(status) = status {
        // The temporary directory keeps strangers out already; where it does not, the launcher does.
        assert_ne!(status.code(), Some(21), "a stranger was welcomed");
    }
    drop(platform);
    // The next platform replaces the one before.
    let first = node.platform();
    let mut second = node.platform();
    assert!(first.packets.recv::<Event>().unwrap().is_none());
    assert!(second.list().is_empty());
}

#[test]
fn a_peer_that_does_not_read_loses_its_connection_only() {
    let mut node = Node::new(1);
    let deaf = node.platform();
    let tenants: Vec<TenantName> =
        (0..900).map(|number| TenantName::new(&format!("tenant-{number:050}")).unwrap()).collect();
    deaf.packets.set_nonblocking(true).unwrap();
    let deadline = Instant::now() + SOON;
    let ended = loop {
        assert!(Instant::now() < deadline);
        match deaf.packets.send(&Request::Due { tag: 0, tenants: tenants.clone() }, &[]) {
            Ok(()) => {}
            Err(error) if error.would_block() => node::pause(),
            Err(error) => break error,
        }
    };
    assert!(ended.peer_gone(), "{ended}");
    deaf.packets.set_nonblocking(false).unwrap();
    node.platform().wake("acme");
    node.stop();
}

#[test]
fn two_launchers_do_not_share_a_run_directory() {
    let node = Node::new(0);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_warren-launcher"))
        .args(["--state".as_ref(), node.path("state").as_os_str(), "--run".as_ref(), node.path("run").as_os_str()])
        .args(["--images".as_ref(), node.path("images").as_os_str()])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("another launcher") && text.lines().count() == 1, "{text}");
}

#[test]
fn check_names_what_is_wrong() {
    let node = Node::new(0);
    let check = |images: &str| {
        std::process::Command::new(env!("CARGO_BIN_EXE_warren-launcher"))
            .args(["check".as_ref(), "--state".as_ref(), node.path("state").as_os_str()])
            .args(["--images".as_ref(), node.path(images).as_os_str()])
            .output()
            .unwrap()
    };
    assert!(check("images").status.success());
    let output = check("nowhere");
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("msa-image/build"));
}
