//! The queries of docs/sessions.md run, and find what was recorded.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{LONG, hasty, moment, tell};
use sqlx::{AssertSqlSafe, ConnectOptions, sqlite::SqliteConnectOptions};
use warren_session::{Recorder, SessionId, recorder::database};

const PAGE: &str = include_str!("../../../docs/sessions.md");

#[tokio::test]
async fn every_documented_query_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (recorder, thread) = Recorder::in_directory(dir.path(), hasty(dir.path())).unwrap();
    (0..20).for_each(|n| tell(&recorder, SessionId::at(moment(n), 1), "acme"));
    thread.finish(LONG).await;
    let mut connection = SqliteConnectOptions::new().filename(database(dir.path())).connect().await.unwrap();
    let queries: Vec<&str> = PAGE.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(queries.len() >= 9);
    let mut found = 0;
    for query in queries {
        let rows = sqlx::query(AssertSqlSafe(query)).fetch_all(&mut connection).await;
        found += usize::from(!rows.unwrap_or_else(|error| panic!("{query}\n{error}")).is_empty());
    }
    assert_eq!(found, 5, "those that ask for what went well");
}

#[test]
fn the_documented_notation_is_the_one_in_use() {
    for dir in warren_session::Dir::ALL {
        assert!(PAGE.contains(&format!("| `{}` |", dir.notation().replace('|', "\\|"))), "{dir}");
    }
    for class in warren_session::Class::ALL {
        assert!(PAGE.contains(class.name()), "{class}");
    }
}
