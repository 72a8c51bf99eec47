//! MTA-STS policies (RFC 8461 §3.2), and the names that they allow.

use serde::{Deserialize, Serialize};

/// Most `mx` patterns of a policy; the rest of a longer one makes it invalid, rather than a part of it binding.
const MAX_PATTERNS: usize = 100;
/// Longest life of a policy: about a year (RFC 8461 §3.2).
pub const MAX_AGE_S: u32 = 31_557_600;

/// A policy in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StsPolicy {
    /// What it asks for.
    pub mode: StsMode,
    /// The MX hosts that may be: names, or `*.` and a name, in lower case.
    pub mx: Vec<String>,
    /// How long it holds, in seconds.
    pub max_age_s: u32,
    /// The id of the TXT record under which it was fetched.
    pub id: String,
}

/// `mode` (RFC 8461 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StsMode {
    /// Mail goes only to hosts that it names, over verified TLS.
    Enforce,
    /// Mail goes; failures are reported.
    Testing,
    /// No policy any more.
    None,
}

/// What came of asking for a domain's policy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StsFound {
    /// The domain has none.
    #[default]
    None,
    /// It says that it has one, which could not be had, and none is cached: reported, and otherwise as if there were none (RFC 8461 §3.3, §5.1).
    Failed(StsFailure),
    /// This one.
    Policy(StsPolicy),
}

/// Why a policy could not be had (RFC 8460 §4.3.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StsFailure {
    /// The policy host does not give it out.
    Fetch,
    /// What it gives out is no policy.
    Invalid,
    /// Its certificate does not verify.
    WebPki,
}

/// What is wrong with a policy's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an MTA-STS policy: {0}")]
pub struct NotPolicy(pub &'static str);

impl StsPolicy {
    /// Reads the text of a policy that was fetched under `id`. Unknown fields are skipped; of fields that may come once the first counts (RFC 8461 §3.2).
    pub fn parse(text: &str, id: &str) -> Result<Self, NotPolicy> {
        let (mut version, mut mode, mut max_age, mut mx) = (None, None, None, Vec::new());
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let (key, value) = line.split_once(':').ok_or(NotPolicy("a line without a colon"))?;
            let value = value.trim_matches([' ', '\t']);
            match key {
                "version" => _ = version.get_or_insert(value),
                "mode" => _ = mode.get_or_insert(value),
                "max_age" => _ = max_age.get_or_insert(value),
                "mx" => mx.push(value.to_ascii_lowercase()),
                _ => {}
            }
        }
        if version != Some("STSv1") {
            return Err(NotPolicy("version is not STSv1"));
        }
        let mode = match mode {
            Some("enforce") => StsMode::Enforce,
            Some("testing") => StsMode::Testing,
            Some("none") => StsMode::None,
            _ => return Err(NotPolicy("mode is none of enforce, testing, none")),
        };
        let max_age = max_age.filter(|age| (1..=10).contains(&age.len()) && age.bytes().all(|b| b.is_ascii_digit()));
        let max_age_s: u64 = max_age.and_then(|age| age.parse().ok()).ok_or(NotPolicy("max_age is no number"))?;
        if mode != StsMode::None && mx.is_empty() {
            return Err(NotPolicy("no mx"));
        }
        if mx.len() > MAX_PATTERNS || !mx.iter().all(|pattern| pattern_ok(pattern)) {
            return Err(NotPolicy("an mx that is no host name, or too many"));
        }
        let max_age_s = u32::try_from(max_age_s).unwrap_or(MAX_AGE_S).min(MAX_AGE_S);
        Ok(Self { mode, mx, max_age_s, id: id.to_owned() })
    }

    /// Whether mail may go to the host `mx` (RFC 8461 §4.1).
    #[must_use]
    pub fn allows(&self, mx: &str) -> bool {
        self.mx.iter().any(|pattern| covers(pattern, mx))
    }

    /// Its lines, as reports quote them.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mode = match self.mode {
            StsMode::Enforce => "enforce",
            StsMode::Testing => "testing",
            StsMode::None => "none",
        };
        let mut lines = vec!["version: STSv1".to_owned(), format!("mode: {mode}")];
        lines.extend(self.mx.iter().map(|mx| format!("mx: {mx}")));
        lines.push(format!("max_age: {}", self.max_age_s));
        lines
    }
}

fn pattern_ok(pattern: &str) -> bool {
    let name = pattern.strip_prefix("*.").unwrap_or(pattern);
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    pattern.len() <= 253 && name.split('.').all(label)
}

/// Whether `pattern`, a name or `*.` and a name, covers `name`: a star stands for exactly one label, the leftmost (RFC 6125 §6.4.3).
pub(crate) fn covers(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.trim_end_matches('.'), name.trim_end_matches('.'));
    match pattern.strip_prefix("*.") {
        Some(parent) => {
            name.split_once('.').is_some_and(|(first, rest)| !first.is_empty() && rest.eq_ignore_ascii_case(parent))
        }
        None => !pattern.is_empty() && pattern.eq_ignore_ascii_case(name),
    }
}
