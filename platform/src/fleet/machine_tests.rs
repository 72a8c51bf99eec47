//! The fleet's machine, by literal stories; random ones are in `machine_chances`.

use std::time::Duration;

use warren_launcher_api::{CellId, TenantName};

use super::{
    machine::Fleet,
    policy::Policy,
    words::{Answer, Event, Life, Mark, Now, Refusal, Step, Waiter},
};

pub(super) const T0: u64 = 1_800_000_000_000;

pub(super) fn at(ms: u64) -> Now {
    Now { since_start: Duration::from_millis(ms), unix_ms: T0 + ms }
}

pub(super) fn tenant(n: u8) -> TenantName {
    TenantName::new(&format!("t{n}")).unwrap()
}

fn wanted(n: u8, waiter: u64, by_ms: u64) -> Event {
    Event::Wanted { tenant: tenant(n), waiter: Waiter(waiter), by: Duration::from_millis(by_ms), stale: None }
}

fn started(n: u8, cell: u64) -> Event {
    Event::Started { tenant: tenant(n), cell: CellId(cell) }
}

fn answer(waiter: u64, answer: Answer) -> Step {
    Step::Answer(Waiter(waiter), answer)
}

fn refused(waiter: u64, why: Refusal) -> Step {
    answer(waiter, Answer::Refused(why))
}

/// A fleet with a launcher that has nothing running.
fn fleet() -> Fleet {
    let mut fleet = Fleet::new(Policy::default());
    assert_eq!(fleet.on(Event::LauncherBack(vec![]), at(0)), []);
    fleet
}

fn awake() -> Fleet {
    let mut fleet = fleet();
    fleet.on(wanted(1, 1, 10_000), at(0));
    fleet.on(started(1, 7), at(2));
    fleet
}

#[test]
fn one_start_for_all_who_wait() {
    let mut fleet = fleet();
    assert_eq!(fleet.on(wanted(1, 1, 10_000), at(0)), [Step::Start(tenant(1))]);
    assert_eq!(fleet.on(wanted(1, 2, 10_000), at(1)), []);
    assert_eq!(
        fleet.on(started(1, 7), at(2)),
        [
            Step::Remember(tenant(1), Mark::Awake),
            answer(1, Answer::Awake(CellId(7))),
            answer(2, Answer::Awake(CellId(7)))
        ]
    );
    assert_eq!(fleet.on(wanted(1, 3, 10_000), at(3)), [answer(3, Answer::Awake(CellId(7)))]);
    assert_eq!(fleet.next_deadline(), None);
}

#[test]
fn a_start_that_takes_too_long_does_not_keep_its_waiters_nor_is_it_doubled() {
    let mut fleet = fleet();
    fleet.on(wanted(1, 1, 100), at(0));
    assert_eq!(fleet.next_deadline(), Some(Duration::from_millis(100)));
    assert_eq!(fleet.on(Event::Tick, at(100)), [refused(1, Refusal::Late)]);
    assert_eq!(fleet.on(wanted(1, 2, 300), at(101)), []);
    assert_eq!(fleet.on(started(1, 7), at(102)).last(), Some(&answer(2, Answer::Awake(CellId(7)))));
}

#[test]
fn it_sleeps_and_is_woken_when_its_mail_is_due() {
    let mut fleet = awake();
    let due = T0 + 60_000;
    assert_eq!(fleet.on(Event::Sleeping { cell: CellId(7), due: Some(due) }, at(10)), []);
    assert_eq!(
        fleet.on(Event::Exited(CellId(7)), at(11)),
        [Step::Forget(CellId(7)), Step::Remember(tenant(1), Mark::Due(Some(due)))]
    );
    assert_eq!(fleet.next_due(), Some(due));
    assert_eq!(fleet.on(Event::Tick, at(59_999)), []);
    assert_eq!(fleet.on(Event::Tick, at(60_000)), [Step::Start(tenant(1))]);
    assert_eq!(fleet.next_due(), None);
}

#[test]
fn who_comes_while_it_falls_asleep_waits_for_the_next_cell() {
    let mut fleet = awake();
    // The client saw the entrance close; the MSA's last word was not read yet.
    let stale = Some(CellId(7));
    let again = Event::Wanted { tenant: tenant(1), waiter: Waiter(2), by: Duration::from_secs(10), stale };
    assert_eq!(fleet.on(again, at(20)), []);
    assert_eq!(fleet.on(Event::Sleeping { cell: CellId(7), due: None }, at(21)), []);
    assert_eq!(
        fleet.on(Event::Exited(CellId(7)), at(22)),
        [Step::Forget(CellId(7)), Step::Remember(tenant(1), Mark::Due(None)), Step::Start(tenant(1))]
    );
    assert_eq!(fleet.on(started(1, 8), at(23)).last(), Some(&answer(2, Answer::Awake(CellId(8)))));
}

#[test]
fn a_stale_cell_of_somebody_else_changes_nothing() {
    let mut fleet = awake();
    let stale = Some(CellId(7));
    let other = Event::Wanted { tenant: tenant(2), waiter: Waiter(2), by: Duration::from_secs(10), stale };
    assert_eq!(fleet.on(other, at(20)), [Step::Start(tenant(2))]);
    assert!(matches!(fleet.life(&tenant(1)).0, Life::Awake { .. }));
}

#[test]
fn one_that_does_not_go_is_ended() {
    let mut fleet = awake();
    fleet.on(Event::ControlLost(CellId(7)), at(10));
    assert_eq!(fleet.on(Event::Tick, at(5_010)), [Step::Stop(CellId(7))]);
    assert_eq!(fleet.on(Event::Tick, at(60_000)), []);
    // The order may have been lost with the launcher.
    fleet.on(Event::LauncherLost, at(60_001));
    assert_eq!(fleet.on(Event::LauncherBack(vec![(CellId(7), tenant(1))]), at(60_002)), [Step::Stop(CellId(7))]);
}

#[test]
fn a_crash_asks_the_volume_and_backs_off() {
    let mut fleet = awake();
    assert_eq!(fleet.on(Event::Exited(CellId(7)), at(10)), [Step::Forget(CellId(7)), Step::AskDue(tenant(1))]);
    // Whoever can wait that long, waits; whoever cannot is told at once.
    assert_eq!(fleet.on(wanted(1, 2, 50), at(20)), [refused(2, Refusal::Failed)]);
    assert_eq!(fleet.on(wanted(1, 3, 10_000), at(20)), []);
    let due = Event::Due { tenant: tenant(1), due: Some(T0 + 900) };
    assert_eq!(fleet.on(due, at(21)), [Step::Remember(tenant(1), Mark::Due(Some(T0 + 900)))]);
    assert_eq!(fleet.on(Event::Tick, at(110)), [Step::Start(tenant(1))]);
    // The second failure in a row waits twice as long, and keeps the due time.
    assert_eq!(fleet.on(Event::StartFailed { tenant: tenant(1) }, at(120)), []);
    assert_eq!(fleet.on(Event::Tick, at(319)), []);
    assert_eq!(fleet.on(Event::Tick, at(320)), [Step::Start(tenant(1))]);
}

#[test]
fn starts_follow_the_order_of_wishes_and_one_that_fails_queues_again_at_the_end() {
    let mut fleet = Fleet::new(Policy { parallel_starts: 1, ..Policy::default() });
    fleet.on(Event::LauncherBack(vec![]), at(0));
    assert_eq!(fleet.on(wanted(1, 1, 60_000), at(0)), [Step::Start(tenant(1))]);
    for n in 2..=4 {
        assert_eq!(fleet.on(wanted(n, n.into(), 60_000), at(0)), []);
    }
    // While it backs off it holds no place.
    assert_eq!(fleet.on(Event::StartFailed { tenant: tenant(1) }, at(1)), [Step::Start(tenant(2))]);
    assert_eq!(fleet.on(Event::Tick, at(150)), []);
    for (done, next) in [(2, 3), (3, 4), (4, 1)] {
        let steps = fleet.on(started(done, u64::from(done) + 10), at(200));
        assert_eq!(steps.last(), Some(&Step::Start(tenant(next))));
    }
}

#[test]
fn another_image_is_tried_at_once() {
    let mut fleet = awake();
    fleet.on(Event::Exited(CellId(7)), at(10));
    assert_eq!(fleet.on(Event::Renew(tenant(1)), at(11)), []);
    assert_eq!(fleet.on(wanted(1, 2, 50), at(20)), [Step::Start(tenant(1))]);
    // One that runs is drained first.
    fleet.on(started(1, 8), at(21));
    assert_eq!(fleet.on(Event::Renew(tenant(1)), at(22)), [Step::Drain(CellId(8))]);
}

#[test]
fn deferred_mail_leaves_room_for_clients() {
    let mut fleet = fleet();
    for n in 0..20 {
        fleet.on(Event::Due { tenant: tenant(n), due: Some(T0 + 1000) }, at(0));
    }
    let steps = fleet.on(Event::Tick, at(1000));
    assert_eq!(steps.iter().filter(|s| matches!(s, Step::Start(_))).count(), 4);
    assert_eq!(fleet.on(wanted(100, 1, 9000), at(1001)), [Step::Start(tenant(100))]);
    // One that is wanted overtakes those that are due.
    assert_eq!(fleet.on(wanted(19, 2, 9000), at(1001)), [Step::Start(tenant(19))]);
    // Equal due times go by name: t0, t1, t10, t11 are at it.
    assert_eq!(fleet.on(started(0, 50), at(1002)).last(), Some(&Step::Start(tenant(12))));
}

#[test]
fn a_launcher_that_comes_back_is_believed() {
    let mut fleet = awake();
    fleet.on(wanted(2, 2, 10_000), at(10));
    fleet.on(wanted(3, 3, 10_000), at(10));
    assert_eq!(fleet.on(Event::LauncherLost, at(11)), []);
    // The start of t2 had worked, that of t3 had not; t1 has gone; t4 survived an earlier platform.
    let steps = fleet.on(Event::LauncherBack(vec![(CellId(8), tenant(2)), (CellId(5), tenant(4))]), at(12));
    assert_eq!(
        steps,
        [
            Step::Forget(CellId(7)),
            Step::AskDue(tenant(1)),
            Step::Adopt(tenant(2), CellId(8)),
            Step::Remember(tenant(2), Mark::Awake),
            answer(2, Answer::Awake(CellId(8))),
            Step::Adopt(tenant(4), CellId(5)),
            Step::Remember(tenant(4), Mark::Awake),
            Step::Start(tenant(3)),
        ]
    );
}

#[test]
fn without_a_launcher_one_waits_until_the_deadline() {
    let mut fleet = Fleet::new(Policy::default());
    assert_eq!(fleet.on(wanted(1, 1, 1000), at(0)), []);
    assert_eq!(fleet.on(wanted(2, 2, 9000), at(0)), []);
    assert_eq!(fleet.on(Event::Tick, at(1000)), [refused(1, Refusal::Late)]);
    // Nobody wants t1 any more.
    assert_eq!(fleet.on(Event::LauncherBack(vec![]), at(1001)), [Step::Start(tenant(2))]);
}

#[test]
fn crowds_are_bounded() {
    let mut fleet = fleet();
    for waiter in 0..100 {
        fleet.on(wanted(1, waiter, 9000), at(0));
    }
    assert_eq!(fleet.on(wanted(1, 100, 9000), at(0)), [refused(100, Refusal::Crowded)]);
    // Another tenant is not crowded by it.
    assert_eq!(fleet.on(wanted(2, 101, 9000), at(0)), [Step::Start(tenant(2))]);
}

#[test]
fn sleep_on_request() {
    let mut fleet = awake();
    let sleep = |waiter| Event::Unwanted { tenant: tenant(1), waiter: Waiter(waiter), by: Duration::from_secs(40) };
    assert_eq!(fleet.on(sleep(2), at(10)), [Step::Drain(CellId(7))]);
    assert_eq!(fleet.on(Event::Sleeping { cell: CellId(7), due: None }, at(11)), []);
    assert_eq!(fleet.on(Event::Exited(CellId(7)), at(12))[1], answer(2, Answer::Asleep));
    assert_eq!(fleet.on(sleep(3), at(13)), [answer(3, Answer::Asleep)]);
}

#[test]
fn a_removed_tenant_is_ended_and_forgotten() {
    let mut fleet = awake();
    assert_eq!(fleet.on(Event::Removed(tenant(1)), at(10)), [Step::Drain(CellId(7))]);
    fleet.on(Event::Sleeping { cell: CellId(7), due: Some(T0 + 1000) }, at(11));
    assert_eq!(
        fleet.on(Event::Exited(CellId(7)), at(12)),
        [Step::Forget(CellId(7)), Step::Remember(tenant(1), Mark::Due(None))]
    );
    assert_eq!((fleet.next_due(), fleet.next_deadline()), (None, None));
}

#[test]
fn due_times_beyond_belief_are_clamped() {
    let mut fleet = fleet();
    fleet.on(Event::Due { tenant: tenant(1), due: Some(0) }, at(0));
    assert_eq!(fleet.next_due(), Some(T0 + 500));
    fleet.on(Event::Due { tenant: tenant(1), due: Some(u64::MAX) }, at(0));
    assert_eq!(fleet.next_due(), Some(T0 + 7 * 24 * 3600 * 1000));
    fleet.on(Event::Due { tenant: tenant(1), due: None }, at(0));
    assert_eq!(fleet.next_due(), None);
}

#[test]
fn a_suspended_tenant_sleeps_through_clients_and_due_mail_until_it_is_resumed() {
    let mut fleet = awake();
    assert_eq!(fleet.on(Event::Suspended(tenant(1)), at(10)), [Step::Drain(CellId(7))]);
    assert_eq!(fleet.on(wanted(1, 2, 10_000), at(11)), [refused(2, Refusal::Suspended)]);
    fleet.on(Event::Sleeping { cell: CellId(7), due: Some(T0 + 1000) }, at(12));
    fleet.on(Event::Exited(CellId(7)), at(13));
    assert_eq!((fleet.life(&tenant(1)).0, fleet.next_due()), (Life::Asleep, None));
    assert_eq!(fleet.on(Event::Tick, at(5000)), []);
    assert_eq!(fleet.on(Event::Resumed(tenant(1)), at(6000)), [Step::Start(tenant(1))]);
}

#[test]
fn a_tenant_that_is_suspended_while_it_starts_goes_down_again() {
    let mut fleet = fleet();
    fleet.on(wanted(1, 1, 10_000), at(0));
    assert_eq!(fleet.on(Event::Suspended(tenant(1)), at(1)), [refused(1, Refusal::Suspended)]);
    let unwanted = Event::Unwanted { tenant: tenant(1), waiter: Waiter(2), by: Duration::from_secs(60) };
    assert_eq!(fleet.on(unwanted, at(2)), []);
    assert_eq!(fleet.on(started(1, 7), at(3)), [Step::Remember(tenant(1), Mark::Awake), Step::Drain(CellId(7))]);
    fleet.on(Event::Sleeping { cell: CellId(7), due: None }, at(4));
    assert!(fleet.on(Event::Exited(CellId(7)), at(5)).contains(&answer(2, Answer::Asleep)));
}
