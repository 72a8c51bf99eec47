//! What the tests share.

use warren_control::{Retry, Settings};

/// The settings of a small tenant.
pub(crate) fn settings() -> Settings {
    Settings {
        tenant: "acme".parse().unwrap(),
        hostname: "mail.warren.example".into(),
        domains: vec!["acme.example".into()],
        accounts: [(
            "alice@acme.example".to_owned(),
            vec!["alice@acme.example".to_owned(), "sales@acme.example".to_owned()],
        )]
        .into(),
        max_message_bytes: 1 << 20,
        max_recipients: 3,
        max_queue_bytes: 64 << 20,
        idle_ms: 300,
        retry: Retry { first_ms: 60_000, factor_percent: 200, max_ms: 120_000, expire_ms: 600_000 },
        hop_limit: 5,
    }
}
