//! What scrapers are told of the resolver: `docs/metrics.md` has the names.

use warren_metrics::{Page, http::Source};

use super::{Policies, Upstream, doors::Asking};

impl Source for Asking {
    async fn page(&self) -> Page {
        told(&self.upstream(), self.policies())
    }
}

fn told(upstream: &Upstream, policies: &Policies) -> Page {
    let mut page = Page::default();
    upstream.counts().tell(&mut page);
    let help = "Whether answers are validated by DNSSEC; if not, DANE protects no mail.";
    page.gauge("warren_resolver_validates", help).add(&[], upstream.validates().into());
    page.gauge("warren_resolver_policies", "Domains whose MTA-STS policy is known, or known to fail.")
        .add(&[], policies.count() as u64);
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolver::sts::fetch::Fetcher;
    use warren_config::{Dnssec, Resolver};
    use warren_metrics::{Format, outline, parse};

    #[tokio::test]
    async fn what_is_told_is_what_is_documented() {
        let nameserver = ([127, 0, 0, 1], 9).into();
        let config = Resolver { nameservers: vec![nameserver], dnssec: Dnssec::Off, trust_anchors: None };
        let policies = Policies::new(Fetcher::new(None, Vec::new()).unwrap(), None);
        let page = told(&Upstream::new(&config).unwrap(), &policies);
        assert_eq!(page.value("warren_resolver_validates", &[]), Some(0.0));
        assert_eq!(parse(&page.render(Format::OpenMetrics)).as_ref(), Ok(&page));
        assert_eq!(page.outline(), outline(include_str!("../../../docs/metrics.md"), "## Resolver"));
    }
}
