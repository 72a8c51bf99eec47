//! Which way something went.

use std::fmt;

/// Which way something went at the proxy, in the notation of the original research. The bar is the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dir {
    /// `<-`: a reply of the MX, passed to the MSA.
    ReplyPassed,
    /// `->`: a command of the MSA, passed to the MX.
    CommandPassed,
    /// `|<`: a reply of the MX that ended at the proxy.
    ReplyEnded,
    /// `|>`: a command that the proxy sent of its own.
    SentByProxy,
    /// `>|`: a command of the MSA that ended at the proxy.
    CommandEnded,
    /// `<|`: a reply that the proxy gave of its own.
    AnsweredByProxy,
    /// `==`: nothing that was said; TLS with the MSA, say.
    Noted,
}

impl Dir {
    /// Every direction.
    pub const ALL: [Self; 7] = [
        Self::ReplyPassed,
        Self::CommandPassed,
        Self::ReplyEnded,
        Self::SentByProxy,
        Self::CommandEnded,
        Self::AnsweredByProxy,
        Self::Noted,
    ];

    /// The two characters of the notation.
    #[must_use]
    pub fn notation(self) -> &'static str {
        match self {
            Self::ReplyPassed => "<-",
            Self::CommandPassed => "->",
            Self::ReplyEnded => "|<",
            Self::SentByProxy => "|>",
            Self::CommandEnded => ">|",
            Self::AnsweredByProxy => "<|",
            Self::Noted => "==",
        }
    }

    /// The direction that these two characters stand for.
    #[must_use]
    pub fn from_notation(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dir| dir.notation() == text)
    }

    /// Whether this went to the MX, so that a reply of the MX will follow.
    #[must_use]
    pub fn reaches_mx(self) -> bool {
        matches!(self, Self::CommandPassed | Self::SentByProxy)
    }

    /// Whether this came from the MX.
    #[must_use]
    pub fn from_mx(self) -> bool {
        matches!(self, Self::ReplyPassed | Self::ReplyEnded)
    }
}

impl fmt::Display for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.notation())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_notation_reads_back() {
        for dir in Dir::ALL {
            assert_eq!(Dir::from_notation(dir.notation()), Some(dir));
        }
        assert_eq!(Dir::from_notation("=>"), None);
    }
}
