//! The fuzz targets without a fuzzer: everything in their corpora, cut and changed at random.
//!
//! `cargo fuzz` (fuzz/README.md) looks further; this shows on any toolchain that what it found once stays mended.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[path = "../fuzz/targets/body.rs"]
mod body;
#[path = "../fuzz/targets/command.rs"]
mod command;
#[path = "../fuzz/targets/line.rs"]
mod line;
#[path = "../fuzz/targets/mediator.rs"]
mod mediator;
#[path = "../fuzz/targets/reply.rs"]
mod reply;
#[path = "../fuzz/targets/server.rs"]
mod server;

/// Changed inputs for each target.
const CASES: u32 = 3_000;

fn replay(name: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut corpus: Vec<Vec<u8>> =
        std::fs::read_dir(&folder).unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
    assert!(corpus.len() >= 3, "no corpus in {}", folder.display());
    corpus.sort();
    corpus.iter().for_each(|input| run(input));
    let change = (any::<prop::sample::Index>(), vec(any::<u8>(), 0..4), 0_usize..8);
    let inputs = (prop::sample::select(corpus), vec(change, 0..6), any::<prop::sample::Index>());
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    let tested = runner.run(&inputs, |(mut input, changes, end)| {
        for (at, bytes, taken) in changes {
            let at = at.index(input.len() + 1);
            let until = (at + taken).min(input.len());
            input.splice(at..until, bytes);
        }
        input.truncate(end.index(input.len() * 2 + 1));
        run(&input);
        Ok(())
    });
    tested.unwrap();
}

#[test]
fn lines() {
    replay("line", line::run);
}

#[test]
fn replies() {
    replay("reply", reply::run);
}

#[test]
fn commands() {
    replay("command", command::run);
}

#[test]
fn content() {
    replay("body", body::run);
}

#[test]
fn sessions_that_end_here() {
    replay("server", server::run);
}

#[test]
fn sessions_in_between() {
    replay("mediator", mediator::run);
}
