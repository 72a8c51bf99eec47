//! What the configuration means for sessions. Exchanged whole at a reload; a session keeps what it began with.

use std::time::Duration;

use warren_config::Node;
use warren_smtp::mediator::TlsPolicy;

use crate::reach::Reach;
use crate::tls::Rules;

/// What every session needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name to give in EHLO. Reverse DNS of every egress address names it.
    pub ehlo_name: String,
    /// What may be dialled.
    pub reach: Reach,
    /// How long dialling may take.
    pub connect_timeout: Duration,
    /// What is asked of an MX's TLS.
    pub tls: TlsPolicy,
    /// What is asked of it by recipient domain.
    pub tls_rules: Rules,
}

impl Settings {
    /// From the node's configuration.
    pub fn of(node: &Node) -> Self {
        let listeners = node.proxy.standalone.iter().flat_map(|standalone| &standalone.listen);
        Self {
            ehlo_name: node.hostname.clone(),
            reach: Reach {
                allow: node.egress.allow_networks.clone(),
                receiver: node.receiver_addresses().into_iter().collect(),
                listeners: listeners.copied().collect(),
            },
            connect_timeout: node.proxy.connect_timeout,
            tls: match node.proxy.tls {
                warren_config::TlsPolicy::Off => TlsPolicy::Off,
                warren_config::TlsPolicy::Opportunistic => TlsPolicy::Opportunistic,
                warren_config::TlsPolicy::Require => TlsPolicy::Require,
                warren_config::TlsPolicy::Verify => TlsPolicy::Verify,
            },
            tls_rules: Rules::of(node),
        }
    }
}
