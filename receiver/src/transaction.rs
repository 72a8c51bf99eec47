//! One message's envelope on its way through: which recipients go together, where each goes, and under which sender.
//!
//! Pure: verdicts and the day are passed in. The first recipient fixes the tenant, because a message is handed to one MSA and gets one
//! answer; recipients of other tenants get `452 4.5.3`, which makes the remote host bring them in a transaction of their own.

use warren_control::api::Verdict;
use warren_launcher_api::TenantName;
use warren_smtp::client::Envelope;
use warren_smtp::command::{MailParams, RcptParams};
use warren_smtp::{Domain, ForwardPath, Host, Mailbox, Reply, ReversePath};

use crate::srs::{Srs, SrsError};

/// An open transaction.
#[derive(Debug)]
pub struct Transaction {
    sender: ReversePath,
    params: MailParams,
    route: Option<Route>,
    targets: Vec<(ForwardPath, RcptParams)>,
    recipients: Vec<String>,
}

/// Where the message goes; fixed by the first recipient.
#[derive(Debug)]
struct Route {
    tenant: TenantName,
    /// The sender as rewritten for the domain of the first recipient.
    sender: ReversePath,
}

/// The address to ask the platform about, or the refusal that needs no question.
pub fn address_of(to: &ForwardPath, hostname: &str) -> Result<Mailbox, Reply> {
    let mailbox = match to {
        ForwardPath::Mailbox(mailbox) => mailbox.clone(),
        ForwardPath::Postmaster => {
            let ours = hostname.parse().map(Host::Domain).and_then(|host| Mailbox::new("postmaster", host));
            ours.map_err(|_| no_such_user())?
        }
    };
    if mailbox.domain().is_none() {
        return Err(not_local());
    }
    // The locals of SRS addresses carry foreign local parts; their signature decides.
    if mailbox.is_relay_form() && !Srs::has_form(mailbox.local()) {
        return Err(not_local());
    }
    Ok(mailbox)
}

/// The verdict on a recipient, seen as the remote host wrote it: who writes to the bare postmaster asks for no relaying, even if nobody
/// configured a forward for it.
pub fn seen_as(to: &ForwardPath, verdict: Verdict) -> Verdict {
    match (to, verdict) {
        (ForwardPath::Postmaster, Verdict::NotLocal) => Verdict::NoSuchUser,
        (_, verdict) => verdict,
    }
}

impl Transaction {
    /// Begins with MAIL.
    pub fn new(sender: ReversePath, params: MailParams) -> Self {
        Self { sender, params, route: None, targets: Vec::new(), recipients: Vec::new() }
    }

    /// Adds a recipient as the platform decided; otherwise says why not.
    pub fn add(&mut self, to: &Mailbox, params: RcptParams, verdict: Verdict, keep: &Rules<'_>) -> Result<(), Reply> {
        let domain = to.domain().ok_or_else(not_local)?;
        let (tenant, targets) = match verdict {
            Verdict::NotLocal => return Err(not_local()),
            Verdict::NoSuchUser => return Err(no_such_user()),
            Verdict::Deferred => return Err(deferred()),
            Verdict::Suspended => return Err(suspended()),
            Verdict::OverLimit(text) => return Err(crate::handover::over_limit(text)),
            Verdict::Forward { tenant, to } => (tenant, parse_targets(&to)?),
            Verdict::Srs { tenant } => {
                let back = keep.srs.reverse(to.local(), domain, keep.day).map_err(refuse_srs)?;
                (tenant, vec![ForwardPath::Mailbox(back)])
            }
        };
        if self.route.as_ref().is_some_and(|route| route.tenant != tenant) {
            return Err(Reply::new(452, (4, 5, 3), "send to this recipient in a transaction of its own"));
        }
        let new: Vec<ForwardPath> =
            targets.into_iter().filter(|target| self.targets.iter().all(|(known, _)| known != target)).collect();
        if !self.targets.is_empty() && self.targets.len() + new.len() > keep.max_targets {
            return Err(Reply::new(452, (4, 5, 3), "too many recipients"));
        }
        if self.route.is_none() {
            self.route = Some(Route { tenant, sender: self.rewritten(domain, keep)? });
        }
        self.targets.extend(new.into_iter().map(|target| (target, params.clone())));
        self.recipients.push(to.to_string());
        Ok(())
    }

    /// What is handed over, and to whom; `None` before the first accepted recipient.
    pub fn envelope(&self, size: u64) -> Option<(TenantName, Envelope)> {
        let route = self.route.as_ref()?;
        // SMTPUTF8 is needed as well if only the new addresses need it.
        let utf8 =
            route.sender.mailbox().into_iter().chain(self.targets.iter().filter_map(|(target, _)| target.mailbox()));
        let smtputf8 = self.params.smtputf8 || utf8.into_iter().any(Mailbox::needs_smtputf8);
        let params = MailParams {
            size: Some(size),
            smtputf8,
            auth: None,
            require_tls: false,
            other: vec![],
            ..self.params.clone()
        };
        Some((route.tenant.clone(), Envelope { from: route.sender.clone(), params, recipients: self.targets.clone() }))
    }

    /// The sender as MAIL named it.
    pub fn sender(&self) -> &ReversePath {
        &self.sender
    }

    /// Whether MAIL asked for SMTPUTF8.
    pub fn is_smtputf8(&self) -> bool {
        self.params.smtputf8
    }

    /// Recipients as RCPT named them.
    pub fn recipients(&self) -> &[String] {
        &self.recipients
    }

    fn rewritten(&self, domain: &Domain, keep: &Rules<'_>) -> Result<ReversePath, Reply> {
        let too_long = |_| Reply::new(550, (5, 1, 7), "sender address too long to be forwarded");
        keep.srs.forward(&self.sender, domain, keep.day).map_err(too_long)
    }
}

/// What decides beside the verdict.
#[derive(Debug)]
pub struct Rules<'a> {
    /// The key of rewritten senders.
    pub srs: &'a Srs,
    /// Today, in days since 1970.
    pub day: u64,
    /// Most forward-paths handed over in one transaction.
    pub max_targets: usize,
}

/// The platform checked these when it loaded them; whatever else it may say is put off, not lost.
fn parse_targets(texts: &[String]) -> Result<Vec<ForwardPath>, Reply> {
    let targets: Result<Vec<ForwardPath>, _> =
        texts.iter().map(|text| text.parse::<Mailbox>().map(ForwardPath::Mailbox)).collect();
    targets.ok().filter(|targets| !targets.is_empty()).ok_or_else(deferred)
}

fn refuse_srs(error: SrsError) -> Reply {
    match error {
        SrsError::Malformed | SrsError::Forged => no_such_user(),
        SrsError::Expired => Reply::new(550, (5, 1, 1), "this return address has expired"),
    }
}

fn no_such_user() -> Reply {
    Reply::new(550, (5, 1, 1), "no such user here")
}

/// For a while, as far as the remote host is concerned: it brings the mail again when the tenant may be back.
fn suspended() -> Reply {
    Reply::new(450, (4, 2, 1), "this recipient is suspended, try again later")
}

fn not_local() -> Reply {
    Reply::new(550, (5, 7, 1), "relaying denied")
}

/// The answer while the platform cannot say.
pub fn deferred() -> Reply {
    Reply::new(451, (4, 3, 0), "try again later")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(srs: &Srs) -> Rules<'_> {
        Rules { srs, day: 20_000, max_targets: 3 }
    }

    fn srs() -> Srs {
        Srs::new([&b"secret"[..]]).unwrap()
    }

    fn forward(tenant: &str, to: &[&str]) -> Verdict {
        Verdict::Forward { tenant: tenant.parse().unwrap(), to: to.iter().map(|text| (*text).to_owned()).collect() }
    }

    fn add(transaction: &mut Transaction, to: &str, verdict: Verdict) -> u16 {
        let srs = srs();
        transaction
            .add(&to.parse().unwrap(), RcptParams::default(), verdict, &rules(&srs))
            .err()
            .map_or(250, |reply| reply.code)
    }

    fn new(sender: &str) -> Transaction {
        Transaction::new(sender.parse().unwrap(), MailParams::default())
    }

    #[test]
    fn the_first_recipient_fixes_the_tenant() {
        let mut transaction = new("a@x.example");
        assert_eq!(add(&mut transaction, "info@acme.example", forward("acme", &["u@y.example", "v@y.example"])), 250);
        assert_eq!(add(&mut transaction, "info@globex.example", forward("globex", &["w@y.example"])), 452);
        assert_eq!(add(&mut transaction, "other@acme.example", forward("acme", &["v@y.example", "w@y.example"])), 250);
        assert_eq!(add(&mut transaction, "more@acme.example", forward("acme", &["z@y.example"])), 452);
        let (tenant, envelope) = transaction.envelope(7).unwrap();
        assert_eq!((tenant.as_str(), envelope.recipients.len(), envelope.params.size), ("acme", 3, Some(7)));
        assert!(
            envelope.from.to_string().starts_with("SRS0=")
                && envelope.from.to_string().ends_with("=x.example=a@acme.example")
        );
        assert_eq!(transaction.recipients(), ["info@acme.example", "other@acme.example"]);
    }

    #[test]
    fn bounces_find_the_way_back() {
        let mut transaction = new("a@x.example");
        add(&mut transaction, "info@acme.example", forward("acme", &["u@y.example"]));
        let rewritten = transaction.envelope(1).unwrap().1.from.to_string();
        let mut bounce = new("");
        assert_eq!(add(&mut bounce, &rewritten, Verdict::Srs { tenant: "acme".parse().unwrap() }), 250);
        let (_, envelope) = bounce.envelope(1).unwrap();
        assert_eq!(
            (envelope.from.clone(), envelope.recipients[0].0.to_string().as_str()),
            (ReversePath::Null, "a@x.example")
        );
        assert_eq!(
            add(&mut new(""), &rewritten.replace("x.ex", "z.ex"), Verdict::Srs { tenant: "acme".parse().unwrap() }),
            550
        );
    }

    #[test]
    fn refusals() {
        let mut transaction = new("a@x.example");
        assert_eq!(add(&mut transaction, "u@acme.example", Verdict::NoSuchUser), 550);
        assert_eq!(add(&mut transaction, "u@z.example", Verdict::NotLocal), 550);
        assert_eq!(add(&mut transaction, "u@acme.example", Verdict::Deferred), 451);
        assert_eq!(add(&mut transaction, "u@acme.example", Verdict::Suspended), 450);
        assert_eq!(add(&mut transaction, "u@acme.example", Verdict::OverLimit("later".into())), 450);
        assert_eq!(add(&mut transaction, "u@acme.example", forward("acme", &["not an address"])), 451);
        assert_eq!(add(&mut transaction, "u@acme.example", forward("acme", &[])), 451);
        assert!(transaction.envelope(1).is_none());
        for relay in
            ["a%b.example@acme.example", "b.example!a@acme.example", "\"a@b.example\"@acme.example", "a@[192.0.2.1]"]
        {
            assert_eq!(address_of(&relay.parse().unwrap(), "mail.example").unwrap_err().code, 550, "{relay}");
        }
        assert_eq!(
            address_of(&ForwardPath::Postmaster, "mail.example").unwrap().to_string(),
            "postmaster@mail.example"
        );
        assert!(address_of(&"\"SRS0=AAAA=BB=x.example=a%b\"@acme.example".parse().unwrap(), "mail.example").is_ok());
    }
}
