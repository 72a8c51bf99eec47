//! `[[proxy.tls_rules]]`: what is asked of an MX's TLS, by recipient domain.
//!
//! ```toml
//! [[proxy.tls_rules]]
//! domains = ["bank.example", "*.bank.example"]
//! policy = "verify"
//! ```

use serde::Deserialize;
use serde_spanned::Spanned;

use crate::checker::{Checker, Text};
use crate::node::TlsPolicy;
use crate::values::parse_domain;

/// One rule. The first that a recipient domain matches holds; where none does, `[proxy] tls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsRule {
    /// Recipient domains: a name, or `*.` and a name for everything below it; in lower case.
    pub domains: Vec<String>,
    /// What is asked for.
    pub policy: TlsPolicy,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsRuleFile {
    domains: Spanned<Vec<Spanned<Text>>>,
    policy: Spanned<TlsPolicy>,
}

impl TlsRuleFile {
    /// What it asks for, and where that stands.
    pub(crate) fn written(&self) -> &Spanned<TlsPolicy> {
        &self.policy
    }
}

/// Checks the rules as they are written.
pub(crate) fn tls_rules(check: &mut Checker, raw: &[TlsRuleFile]) -> Vec<TlsRule> {
    let mut seen: Vec<String> = Vec::new();
    raw.iter()
        .map(|rule| {
            let written = rule.domains.get_ref();
            if written.is_empty() {
                check.problem(rule.domains.span(), "no domain, expected at least one such as \"bank.example\"");
            }
            let domains = check.list(written, parse_pattern);
            for (domain, raw) in domains.iter().zip(written) {
                if seen.contains(domain) {
                    check.problem(raw.span(), format!("{domain:?} has a rule above, which is the one that counts"));
                }
            }
            seen.extend(domains.iter().cloned());
            TlsRule { domains, policy: *rule.policy.get_ref() }
        })
        .collect()
}

/// A domain, or `*.` and a domain. One label is enough behind the star: a whole top-level domain may be meant.
fn parse_pattern(text: &str) -> Result<String, String> {
    let Some(parent) = text.strip_prefix("*.") else { return parse_domain(text) };
    let wrong = || {
        format!("{text:?} is not a pattern of domains, expected a name such as \"bank.example\" or \"*.bank.example\"")
    };
    // What is below a name is well-formed if and only if something below it is.
    let below = parse_domain(&format!("x.{parent}")).map_err(|_| wrong())?;
    Ok(format!("*.{}", &below[2..]))
}
