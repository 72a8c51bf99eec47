//! What the configuration asks for: `[proxy] tls`, and `[[proxy.tls_rules]]` by destination.

use warren_config::{Node, TlsPolicy, TlsRule};

/// The rules, first match first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// By recipient domain.
    pub rules: Vec<TlsRule>,
    /// Where none matches.
    pub default: TlsPolicy,
}

impl Rules {
    /// Those of a node.
    #[must_use]
    pub fn of(node: &Node) -> Self {
        Self { rules: node.proxy.tls_rules.clone(), default: node.proxy.tls }
    }

    /// What holds for a recipient domain, in lower case and without a dot at its end; and whether a rule says so rather than the default.
    #[must_use]
    pub fn for_domain(&self, domain: &str) -> (TlsPolicy, bool) {
        let rule = self.rules.iter().find(|rule| rule.domains.iter().any(|pattern| matches(pattern, domain)));
        rule.map_or((self.default, false), |rule| (rule.policy, true))
    }
}

fn matches(pattern: &str, domain: &str) -> bool {
    match pattern.strip_prefix('*') {
        // Everything below, however deep: who writes a rule for a company means its departments.
        Some(parent) => domain.len() > parent.len() && domain.ends_with(parent),
        None => domain == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_matches_counts() {
        let rule = |domain: &str, policy| TlsRule { domains: vec![domain.into()], policy };
        let rules = Rules {
            rules: vec![
                rule("old.bank.example", TlsPolicy::Off),
                rule("*.bank.example", TlsPolicy::Verify),
                rule("bank.example", TlsPolicy::Require),
            ],
            default: TlsPolicy::Opportunistic,
        };
        for (domain, expected) in [
            ("old.bank.example", (TlsPolicy::Off, true)),
            ("a.b.bank.example", (TlsPolicy::Verify, true)),
            ("bank.example", (TlsPolicy::Require, true)),
            ("riverbank.example", (TlsPolicy::Opportunistic, false)),
            (".bank.example", (TlsPolicy::Opportunistic, false)),
        ] {
            assert_eq!(rules.for_domain(domain), expected, "{domain}");
        }
    }
}
