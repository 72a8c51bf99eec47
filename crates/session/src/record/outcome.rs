//! How a session ended.

use std::fmt;

/// How a session ended, seen as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Every recipient got the mail.
    Delivered,
    /// Some recipients got the mail.
    Partly,
    /// The MX refused for good.
    Refused,
    /// The MX refused for now.
    Deferred,
    /// The session ended in order and no mail was tried.
    Unused,
    /// The proxy may not dial this address.
    Forbidden,
    /// The MX could not be reached.
    Unreachable,
    /// TLS was required and not to be had.
    TlsFailed,
    /// The connection to the MX broke off.
    MxLost,
    /// The connection of the MSA broke off.
    MsaLost,
    /// The proxy broke off: a limit, a deadline, a protocol violation, or its own end.
    Cut,
}

impl Outcome {
    /// Every one.
    pub const ALL: [Self; 11] = [
        Self::Delivered,
        Self::Partly,
        Self::Refused,
        Self::Deferred,
        Self::Unused,
        Self::Forbidden,
        Self::Unreachable,
        Self::TlsFailed,
        Self::MxLost,
        Self::MsaLost,
        Self::Cut,
    ];

    /// The name used in the store and shown to people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Partly => "partly",
            Self::Refused => "refused",
            Self::Deferred => "deferred",
            Self::Unused => "unused",
            Self::Forbidden => "forbidden",
            Self::Unreachable => "unreachable",
            Self::TlsFailed => "tls_failed",
            Self::MxLost => "mx_lost",
            Self::MsaLost => "msa_lost",
            Self::Cut => "cut",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
