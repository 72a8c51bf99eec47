//! The policy as a whole: each rule in a literal case, and what holds whatever happens.

mod choice;
mod health;
mod properties;
mod senders;
mod sharing;
mod state;
mod waiting;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use warren_launcher_api::TenantName;
use warren_session::{About, Class, Verdict};

use super::*;

/// A policy, and a clock that goes when told.
struct World {
    policy: Policy,
    now: Moment,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn egress(text: &str) -> EgressAddr {
    EgressAddr(ip(text))
}

fn tenant(name: &str) -> TenantName {
    TenantName::new(name).unwrap()
}

fn operator(name: &str) -> Operator {
    Operator::named(name)
}

const A: &str = "192.0.2.1";
const B: &str = "192.0.2.2";
const MX: &str = "198.51.100.25";

/// One pool of these addresses, and budgets that nothing here uses up.
fn plain(addresses: &[&str]) -> Rules {
    let budget = Budget { sessions: 100, sessions_per_minute: 6_000 };
    let limits = Limits { sessions: 2_000, per_tenant: 1_000 };
    Rules::plain(addresses.iter().map(|address| egress(address)), budget, limits)
}

fn budget(sessions: u32, sessions_per_minute: u32) -> Budgets {
    Budgets { every: Budget { sessions, sessions_per_minute }, destinations: BTreeMap::new() }
}

/// What a session is about.
#[derive(Clone)]
struct Mail {
    tenant: TenantName,
    account: Option<String>,
    class: MailClass,
    operator: Operator,
    mx: IpAddr,
}

/// A session of a tenant to an operator.
fn mail(from: &str, to: &str) -> Mail {
    Mail { tenant: tenant(from), account: None, class: MailClass::Submitted, operator: operator(to), mx: ip(MX) }
}

impl Mail {
    fn ask(&self) -> Ask<'_> {
        let account = self.account.as_deref();
        Ask { tenant: &self.tenant, account, class: self.class, operator: &self.operator, mx: self.mx }
    }

    fn by(self, account: &str) -> Self {
        Self { account: Some(account.into()), ..self }
    }

    /// The same, to one of many operators.
    fn at(&self, n: u32) -> Self {
        Self { operator: operator(&format!("mx{}.example", n % 100)), ..self.clone() }
    }
}

impl World {
    fn new(rules: Rules) -> Self {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let now = Moment { now: Instant::now(), wall };
        Self { policy: Policy::new(rules, None, now), now }
    }

    fn pass(&mut self, seconds: u64) {
        self.pass_for(Duration::from_secs(seconds));
    }

    fn pass_for(&mut self, time: Duration) {
        self.now = Moment { now: self.now.now + time, wall: self.now.wall + time };
    }

    fn enter(&mut self, mail: &Mail) -> Entry {
        self.policy.enter(&mail.ask(), self.now)
    }

    /// A session that gets its place at once.
    fn go(&mut self, mail: &Mail) -> Granted {
        match self.enter(mail) {
            Entry::Granted(granted) => granted,
            other => panic!("no place at once: {other:?}"),
        }
    }

    /// A session that comes and goes: where from.
    fn from(&mut self, mail: &Mail) -> String {
        let granted = self.go(mail);
        self.leave(granted.ticket);
        granted.decision.egress.to_string()
    }

    fn wait(&mut self, mail: &Mail) -> Ticket {
        match self.enter(mail) {
            Entry::Wait(ticket) => ticket,
            other => panic!("does not wait: {other:?}"),
        }
    }

    fn refused(&mut self, mail: &Mail) -> NoEgress {
        match self.enter(mail) {
            Entry::Refused(none) => none,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// A session that has a new place, and says so.
    fn moved(&mut self, ticket: Ticket, mail: &Mail) {
        self.policy.moved(ticket, &[mail.ask()], self.now);
    }

    /// A message that moves: where it leaves from, and its session.
    fn elsewhere(&mut self, ticket: Ticket, mail: &Mail) -> Granted {
        assert!(matches!(self.at_mail(ticket, mail), AtMail::Move));
        self.leave(ticket);
        let granted = self.go(mail);
        self.moved(granted.ticket, mail);
        granted
    }

    /// How many messages of today an address has sent to an operator.
    fn of_the_ramp(&self, address: &str, mail: &Mail) -> u32 {
        let view = self.policy.view(self.now);
        let mut rows = view.destinations.iter();
        let row = rows.find(|row| row.address == egress(address) && row.operator == mail.operator);
        row.and_then(|row| row.warming).map_or(0, |(used, _)| used)
    }

    fn leave(&mut self, ticket: Ticket) {
        self.policy.leave(ticket, self.now);
    }

    fn next(&mut self) -> Vec<Outcome> {
        self.policy.next(self.now)
    }

    fn at_mail(&mut self, ticket: Ticket, mail: &Mail) -> AtMail {
        self.policy.mail(Some(ticket), &mail.ask(), self.now)
    }

    /// A reply to a session.
    fn hears(&mut self, granted: &Granted, mail: &Mail, stage: Stage, (class, about): (Class, About)) -> Vec<Change> {
        let list = (class == Class::BlockListed).then(|| "spamhaus".to_owned());
        let verdict = Verdict { class, list, about, rule: "".into() };
        let what = What::Reply { stage, verdict: &verdict, code: 550, text: "5.7.1 as it was said" };
        let lesson = Lesson {
            ticket: Some(granted.ticket),
            tenant: &mail.tenant,
            account: mail.account.as_deref(),
            class: mail.class,
            egress: granted.decision.egress,
            operator: &mail.operator,
            what,
        };
        self.policy.learn(&lesson, self.now)
    }

    /// The address of a session is turned away.
    fn listed(&mut self, granted: &Granted, mail: &Mail) -> Vec<Change> {
        self.hears(granted, mail, Stage::Mail, (Class::BlockListed, About::Egress))
    }

    fn throttled(&mut self, granted: &Granted, mail: &Mail) -> Vec<Change> {
        self.hears(granted, mail, Stage::Mail, (Class::RateLimited, About::Egress))
    }

    /// A recipient of a session is taken.
    fn welcome(&mut self, granted: &Granted, mail: &Mail) -> Vec<Change> {
        self.hears(granted, mail, Stage::Recipient, (Class::Accepted, About::Unclear))
    }

    /// A session in which so many recipients are unknown, at many places, and so many known.
    fn recipients(&mut self, mail: &Mail, unknown: u32, known: u32) {
        let granted = self.go(mail);
        for n in 0..unknown {
            self.hears(&granted, &mail.at(n), Stage::Recipient, (Class::UnknownUser, About::Recipient));
        }
        for _ in 0..known {
            self.welcome(&granted, mail);
        }
        self.leave(granted.ticket);
    }
}
