//! What the configuration asks for: `[proxy] tls`, and `[[proxy.tls_rules]]` by destination.

use warren_config::TlsPolicy;

/// The rules, first match first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// By destination.
    pub rules: Vec<Rule>,
    /// Where none matches.
    pub default: TlsPolicy,
}

/// What is asked for towards some destinations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Recipient domains: a name, or `*.` and a name for everything below it; in lower case.
    pub destination: String,
    /// What is asked for.
    pub policy: TlsPolicy,
}

impl Rules {
    /// What holds for a recipient domain, and whether a rule says so rather than the default.
    #[must_use]
    pub fn of(&self, domain: &str) -> (TlsPolicy, bool) {
        let rule = self.rules.iter().find(|rule| rule.matches(domain));
        rule.map_or((self.default, false), |rule| (rule.policy, true))
    }
}

impl Rule {
    fn matches(&self, domain: &str) -> bool {
        let domain = domain.trim_end_matches('.').to_ascii_lowercase();
        match self.destination.strip_prefix('*') {
            // Everything below, however deep: who writes a rule for a company means its departments.
            Some(parent) => domain.ends_with(parent) && domain.len() > parent.len(),
            None => domain == self.destination,
        }
    }
}
