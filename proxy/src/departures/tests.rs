//! Sessions that come, wait, give up and leave.

use super::*;
use crate::egress::{Budget, Limits, MailClass};
use warren_launcher_api::TenantName;

const PATIENCE: Duration = Duration::from_secs(10);

fn rules(sessions: u32) -> Rules {
    let budget = Budget { sessions, sessions_per_minute: 1_000 };
    Rules::plain([EgressAddr([192, 0, 2, 1].into())], budget, Limits { sessions: 100, per_tenant: 100 })
}

fn departures(sessions: u32) -> Arc<Departures> {
    Departures::new(Policy::new(rules(sessions), None, Moment::current()))
}

async fn enter(departures: &Arc<Departures>, patience: Duration) -> Turn {
    let tenant = TenantName::new("acme").unwrap();
    let mx = IpAddr::from([198, 51, 100, 1]);
    let operator = departures.operator(Some("mx.example.org"), mx);
    let ask = Ask { tenant: &tenant, account: None, class: MailClass::Submitted, operator: &operator, mx };
    departures.enter(&ask, patience).await
}

fn place(turn: Turn) -> Place {
    match turn {
        Turn::Place(place) => place,
        other => panic!("no place: {other:?}"),
    }
}

/// Waits until so many wait.
async fn waiting(departures: &Departures, count: u32) {
    while departures.view().waiting != count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn whoever_waits_comes_in_when_somebody_leaves() {
    let departures = departures(1);
    let first = place(enter(&departures, PATIENCE).await);
    assert!(matches!(enter(&departures, Duration::ZERO).await, Turn::Missed), "beyond the budget");
    let second = tokio::spawn({
        let departures = Arc::clone(&departures);
        async move { enter(&departures, PATIENCE).await }
    });
    waiting(&departures, 1).await;
    drop(first);
    let second = place(second.await.unwrap());
    assert_eq!(second.egress(), EgressAddr([192, 0, 2, 1].into()));
    assert_eq!((departures.view().sessions, departures.view().waiting), (1, 0));
    drop(second);
    departures.all_gone().await;
    assert_eq!(departures.view().sessions, 0);
}

#[tokio::test]
async fn a_wait_that_is_given_up_costs_nothing() {
    let departures = departures(1);
    let first = place(enter(&departures, PATIENCE).await);
    let waits = tokio::spawn({
        let departures = Arc::clone(&departures);
        async move { enter(&departures, PATIENCE).await }
    });
    waiting(&departures, 1).await;
    waits.abort();
    assert!(waits.await.is_err());
    assert_eq!(departures.view().waiting, 0);
    drop(first);
    // Told a place, and gone before it could be taken.
    let first = place(enter(&departures, PATIENCE).await);
    let mut gone = Box::pin(enter(&departures, PATIENCE));
    assert!(still_waits(&mut gone), "it waits");
    drop(first);
    drop(gone);
    assert_eq!(departures.view().sessions, 0);
    place(enter(&departures, Duration::ZERO).await);
}

/// Polls once; whether it still waits.
fn still_waits(future: &mut (impl Future + Unpin)) -> bool {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    std::pin::Pin::new(future).poll(&mut context).is_pending()
}

#[tokio::test]
async fn a_reload_lets_in_whom_the_new_rules_have_a_place_for() {
    let departures = departures(1);
    let _first = place(enter(&departures, PATIENCE).await);
    let second = tokio::spawn({
        let departures = Arc::clone(&departures);
        async move { enter(&departures, PATIENCE).await }
    });
    waiting(&departures, 1).await;
    departures.reload(rules(2));
    place(second.await.unwrap());
}

/// Whether something happened.
async fn news(departures: &Departures) -> bool {
    tokio::time::timeout(Duration::ZERO, departures.happened()).await.is_ok()
}

#[tokio::test]
async fn what_is_done_by_hand_wakes_and_turns_away() {
    let departures = departures(1);
    let address = EgressAddr([192, 0, 2, 1].into());
    assert!(!news(&departures).await);
    assert_eq!(departures.rest(address, None).len(), 1);
    assert!(news(&departures).await);
    assert!(!news(&departures).await, "it is told once");
    let turned_away = enter(&departures, PATIENCE).await;
    assert!(matches!(turned_away, Turn::Refused(NoEgress::Rested { until: None })), "{turned_away:?}");
    assert_eq!(departures.rest(address, None), []);
    assert_eq!(departures.restore(address, None).len(), 1);
    place(enter(&departures, PATIENCE).await);
}
