//! Today's rules over yesterday's replies: what would be classified otherwise. Nothing is written.

use std::collections::BTreeMap;

use sqlx::FromRow;

use super::{Filter, ReadError, Reader, first_id};
use crate::{Said, classify};

/// Recipients read at once.
const PAGE: i64 = 2_000;

/// Recipients whose reply would be classified otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reclassified {
    /// The class in the database.
    pub was: String,
    /// The list there.
    pub was_list: Option<String>,
    /// The class now.
    pub class: String,
    /// The list now.
    pub list: Option<String>,
    /// The rule that says so.
    pub rule: String,
    /// How many recipients.
    pub recipients: u64,
    /// The session of one of them.
    pub session: String,
    /// Its reply.
    pub reply: String,
}

/// All that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Replay {
    /// Refused recipients whose reply is recorded.
    pub recipients: u64,
    /// What would change, the commonest first.
    pub changes: Vec<Reclassified>,
}

#[derive(FromRow)]
struct Refused {
    session: String,
    message: i64,
    n: i64,
    class: String,
    list: Option<String>,
    code: i64,
    enhanced: Option<String>,
    text: String,
    /// The verb that the reply answered, found in the exchange that has it.
    verb: Option<String>,
}

impl Reader {
    /// Classifies every recorded refusal of a recipient again, by the rules of this program.
    pub async fn reclassify(&mut self, filter: &Filter) -> Result<Replay, ReadError> {
        let mut replay = Replay::default();
        let mut changes = BTreeMap::new();
        let mut after = (first_id(filter), -1, -1);
        // Where those that got it are elsewhere nobody looks through them.
        let recipients = if self.has("each_recipient").await? { "each_recipient" } else { "recipients" };
        let query = format!(
            "SELECT r.session, r.message, r.n, r.class, r.list, r.code, r.enhanced, r.text,
                    (SELECT e.verb FROM exchanges e
                     WHERE e.session = r.session AND e.at_us = r.reply_us AND e.code = r.code AND e.text = r.text LIMIT 1) AS verb
             FROM {recipients} r JOIN sessions s ON s.id = r.session
             WHERE (?1 IS NULL OR s.tenant = ?1) AND (r.session, r.message, r.n) > (?2, ?3, ?4) AND r.code >= 400
             ORDER BY r.session, r.message, r.n LIMIT ?5"
        );
        loop {
            let page = sqlx::query_as(sqlx::AssertSqlSafe(query.clone()))
                .bind(filter.tenant.clone())
                .bind(&after.0)
                .bind(after.1)
                .bind(after.2)
                .bind(PAGE)
                .fetch_all(&mut self.connection)
                .await;
            let page: Vec<Refused> = self.told(page)?;
            let Some(last) = page.last() else { break };
            after = (last.session.clone(), last.message, last.n);
            for refused in page {
                replay.recipients += u64::from(refused.verb.is_some());
                judge(refused, &mut changes);
            }
        }
        replay.changes = changes.into_values().collect();
        replay.changes.sort_by_key(|change: &Reclassified| std::cmp::Reverse(change.recipients));
        Ok(replay)
    }
}

/// Was, is, and by which rule: bounded by the table's size, whatever was recorded.
type Key = (String, Option<String>, String, Option<String>, String);

fn judge(refused: Refused, changes: &mut BTreeMap<Key, Reclassified>) {
    let (Some(verb), Ok(code)) = (&refused.verb, u16::try_from(refused.code)) else { return };
    let verdict = classify(&Said { verb, code, enhanced: refused.enhanced.as_deref(), text: &refused.text });
    let class = verdict.class.name();
    if (class, &verdict.list) == (refused.class.as_str(), &refused.list) {
        return;
    }
    let Refused { session, class: was, list: was_list, text, .. } = refused;
    let rule = verdict.rule.into_owned();
    let key = (was.clone(), was_list.clone(), class.to_owned(), verdict.list.clone(), rule.clone());
    let change = changes.entry(key).or_insert_with(|| Reclassified {
        was,
        was_list,
        class: class.to_owned(),
        list: verdict.list,
        rule,
        recipients: 0,
        session,
        reply: format!("{code} {text}"),
    });
    change.recipients += 1;
}
