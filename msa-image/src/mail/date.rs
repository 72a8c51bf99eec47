//! Dates as mail writes them.

use jiff::{Timestamp, tz::TimeZone};

/// `Sat, 21 Nov 2026 22:12:28 +0000`.
#[must_use]
pub fn rfc5322(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .unwrap_or(Timestamp::UNIX_EPOCH);
    time.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_in_the_rfc() {
        assert_eq!(rfc5322(1_795_299_148_999), "Sat, 21 Nov 2026 22:12:28 +0000");
        assert_eq!(rfc5322(0), "Thu, 01 Jan 1970 00:00:00 +0000");
        assert_eq!(rfc5322(u64::MAX), "Thu, 01 Jan 1970 00:00:00 +0000");
    }
}
