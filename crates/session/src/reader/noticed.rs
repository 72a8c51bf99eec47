//! What was noticed about MX hosts.

use sqlx::FromRow;

use super::{Filter, LIST_MAX, ReadError, Reader, SHOW_MAX, first_id};
use crate::detect::EventKind;

/// An event, as read back.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct EventRow {
    /// In which session.
    pub session: String,
    /// Whose session.
    pub tenant: String,
    /// When the session began, in microseconds of Unix time.
    pub started_us: i64,
    /// In which dial.
    pub leg: i64,
    /// When, since the session began.
    pub at_us: i64,
    /// What; a name of [`EventKind`].
    pub kind: String,
    /// Who operates the MX.
    pub operator: String,
    /// The address that we came from.
    pub egress: String,
    /// The verb whose reply showed it.
    pub verb: String,
    /// The code of that reply.
    pub code: Option<i64>,
    /// The list that the reply named.
    pub list: Option<String>,
    /// What it is concluded from, as JSON.
    pub evidence: String,
}

/// How often something was noticed.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct EventCount {
    /// What.
    pub kind: String,
    /// About whose MX hosts.
    pub operator: String,
    /// From which of our addresses.
    pub egress: String,
    /// The list that was named.
    pub list: Option<String>,
    /// How often.
    pub events: i64,
    /// When last, in microseconds of Unix time.
    pub last_us: i64,
}

/// The part of every query.
const EVENTS: &str = "
    SELECT e.session, s.tenant, s.started_us, e.leg, e.at_us, e.kind, e.operator, e.egress, e.verb, e.code, e.list, e.evidence
    FROM events e JOIN sessions s ON s.id = e.session ";

impl Reader {
    /// Events, the newest first; only of one kind if one is given.
    pub async fn events(&mut self, filter: &Filter, kind: Option<EventKind>) -> Result<Vec<EventRow>, ReadError> {
        if !self.has_events().await? {
            return Ok(Vec::new());
        }
        let query = format!(
            "{EVENTS} WHERE (?1 IS NULL OR s.tenant = ?1) AND e.session >= ?2 AND (?3 IS NULL OR e.kind = ?3)
             ORDER BY e.session DESC, e.n DESC LIMIT ?4"
        );
        let rows = sqlx::query_as(sqlx::AssertSqlSafe(query))
            .bind(filter.tenant.clone())
            .bind(first_id(filter))
            .bind(kind.map(EventKind::name))
            .bind(i64::from(filter.limit.unwrap_or(50).min(LIST_MAX)))
            .fetch_all(&mut self.connection)
            .await;
        self.told(rows)
    }

    /// How often what was noticed about whom, from which address.
    pub async fn event_counts(&mut self, filter: &Filter) -> Result<Vec<EventCount>, ReadError> {
        if !self.has_events().await? {
            return Ok(Vec::new());
        }
        let rows = sqlx::query_as(
            "SELECT e.kind, e.operator, e.egress, e.list, count(*) AS events, max(s.started_us + e.at_us) AS last_us
             FROM events e JOIN sessions s ON s.id = e.session
             WHERE (?1 IS NULL OR s.tenant = ?1) AND e.session >= ?2
             GROUP BY e.kind, e.operator, e.egress, e.list ORDER BY events DESC, last_us DESC LIMIT ?3",
        )
        .bind(filter.tenant.clone())
        .bind(first_id(filter))
        .bind(i64::from(LIST_MAX))
        .fetch_all(&mut self.connection)
        .await;
        self.told(rows)
    }

    /// The events of one session, in order.
    pub(super) async fn events_of(&mut self, id: &str) -> Result<Vec<EventRow>, ReadError> {
        if !self.has_events().await? {
            return Ok(Vec::new());
        }
        let query = format!("{EVENTS} WHERE e.session = ? ORDER BY e.n LIMIT ?");
        let query = sqlx::query_as(sqlx::AssertSqlSafe(query)).bind(id).bind(SHOW_MAX);
        let rows = query.fetch_all(&mut self.connection).await;
        self.told(rows)
    }

    /// A database that an older proxy made has none until a newer one opens it.
    async fn has_events(&mut self) -> Result<bool, ReadError> {
        self.has("events").await
    }
}
