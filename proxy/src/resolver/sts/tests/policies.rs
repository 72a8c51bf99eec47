//! What is fetched, from whom, and for whom.

use std::sync::Arc;

use tokio::time::timeout;

use super::{LONG, MANY, PATIENCE, World};
use crate::{
    resolver::sts::{FILE, MAX_OF_ONE_CELL, Policies, Share, fetch::Fetcher},
    tls::{StsFound, StsMode, sts::StsFailure},
};

#[tokio::test]
async fn policies_are_fetched_once_and_known_from_then_on() {
    let world = World::new().await;
    let policies = world.policies();
    let StsFound::Policy(policy) = world.of(&policies, "good").await else { panic!("no policy") };
    assert_eq!(
        (policy.mode, &*policy.mx, policy.max_age_s),
        (StsMode::Enforce, &["mx.good.example".into()][..], 604_800)
    );
    assert_eq!(policy.id, "good1");
    let again: Vec<_> = (0..50).map(|_| world.of(&policies, "good")).collect();
    for found in again {
        assert_eq!(found.await, StsFound::Policy(policy.clone()));
    }
    assert_eq!(world.requests(), 1);
    assert!(matches!(world.of(&policies, "chunked").await, StsFound::Policy(_)));
    assert!(
        matches!(world.of(&policies, "testing").await, StsFound::Policy(policy) if policy.mode == StsMode::Testing)
    );
    for none in ["spf", "nothing"] {
        assert_eq!(world.of(&policies, none).await, StsFound::None, "{none}");
    }
}

#[tokio::test]
async fn hosts_that_do_anything_else_have_no_policy() {
    let world = World::new().await;
    let policies = world.policies();
    use StsFailure::{Fetch, Invalid, WebPki};
    for (host, failure) in [
        ("moved", Fetch),
        ("gone", Fetch),
        ("html", Fetch),
        ("untyped", Fetch),
        ("large", Fetch),
        ("endless", Fetch),
        ("heads", Fetch),
        ("nonsense", Fetch),
        ("cut", Fetch),
        ("drip", Fetch),
        ("nohost", Fetch),
        ("inside", Fetch),
        ("empty", Invalid),
        ("invalid", Invalid),
        ("binary", Invalid),
        ("stranger", WebPki),
    ] {
        assert_eq!(world.of(&policies, host).await, StsFound::Failed(failure), "{host}");
    }
    // A failure rests: nobody is asked again at once.
    let before = world.requests();
    assert_eq!(world.of(&policies, "gone").await, StsFound::Failed(Fetch));
    assert_eq!(world.requests(), before);
}

#[tokio::test]
async fn only_addresses_that_may_be_dialled_are() {
    let world = World::new().await;
    let fetcher = Fetcher::new(Some(&world.directory.path().join("ca.pem")), Vec::new()).unwrap();
    let policies = Arc::new(Policies::new(fetcher.with(world.port, PATIENCE), None));
    assert_eq!(world.of(&policies, "good").await, StsFound::Failed(StsFailure::Fetch), "loopback");
    assert_eq!(world.requests(), 0);
}

#[tokio::test]
async fn what_was_fetched_survives_the_process_and_the_host() {
    let world = World::new().await;
    let policies = world.policies();
    let found = world.of(&policies, "good").await;
    assert_ne!(policies.write(0).await, 0);
    world.open.send_replace(false);
    let again = world.policies();
    assert_eq!(world.of(&again, "good").await, found);
    assert_eq!(world.requests(), 1);
    // A file that is no file of ours is begun anew.
    std::fs::write(world.directory.path().join(FILE), "{\"x\":").unwrap();
    world.open.send_replace(true);
    assert_eq!(world.of(&world.policies(), "good").await, found);
    assert_eq!(world.requests(), 2);
}

#[tokio::test]
async fn who_stops_waiting_stops_nothing() {
    let world = World::new().await;
    let policies = world.policies_of_the_patient(LONG);
    world.open.send_replace(false);
    let (first, second) = (world.of(&policies, "good"), world.of(&policies, "good"));
    let mut second = Box::pin(second);
    {
        let mut first = Box::pin(first);
        tokio::select! {
            biased;
            found = &mut first => panic!("{found:?}"),
            found = &mut second => panic!("{found:?}"),
            () = world.asked(1) => {}
        }
    }
    world.open.send_replace(true);
    assert!(matches!(second.await, StsFound::Policy(_)));
    assert_eq!(world.requests(), 1, "one fetch for all who ask");
}

#[tokio::test]
async fn a_cell_with_slow_hosts_holds_up_only_itself() {
    let world = World::new().await;
    let policies = world.policies_of_the_patient(10 * LONG);
    let greedy = Arc::new(Share::default());
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..MANY {
        let (policies, greedy, upstream) = (Arc::clone(&policies), Arc::clone(&greedy), world.upstream.clone());
        waiting.spawn(async move { policies.of(&greedy, &upstream, &format!("slow{n}.example")).await });
    }
    world.asked(MAX_OF_ONE_CELL).await;
    let other = Share::default();
    let good = policies.of(&other, &world.upstream, "good.example");
    let found = timeout(LONG, good).await.expect("the other cell has places of its own");
    assert!(matches!(found, StsFound::Policy(_)));
    assert_eq!(world.requests(), MAX_OF_ONE_CELL + 1);
    // What the greedy one waits for is nothing that others have to wait for.
    let last = format!("slow{}.example", MANY - 1);
    tokio::select! {
        found = policies.of(&other, &world.upstream, &last) => panic!("{found:?}"),
        () = world.asked(MAX_OF_ONE_CELL + 2) => {}
    }
}
