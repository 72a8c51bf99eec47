//! Deadlines: no operation on a connection waits for ever.

use std::future::Future;
use std::io;
use std::time::Duration;

use thiserror::Error;

/// A deadline passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no {what} within {seconds} s", seconds = limit.as_secs_f32())]
pub struct Expired {
    /// What was waited for.
    pub what: &'static str,
    /// How long.
    pub limit: Duration,
}

impl From<Expired> for io::Error {
    fn from(expired: Expired) -> Self {
        Self::new(io::ErrorKind::TimedOut, expired)
    }
}

/// Runs an I/O operation for at most `limit`; after that it is an error of kind `TimedOut` that names `what` was waited
/// for. The operation is dropped: use with cancel-safe operations, or give the connection up.
pub async fn within<T>(
    limit: Duration,
    what: &'static str,
    operation: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    match tokio::time::timeout(limit, operation).await {
        Ok(result) => result,
        Err(_) => Err(Expired { what, limit }.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_error_names_what_was_waited_for() {
        let error =
            within(Duration::from_millis(1), "greeting", std::future::pending::<io::Result<()>>()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(error.to_string(), "no greeting within 0.001 s");
    }
}
