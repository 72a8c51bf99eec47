//! The way down from the root, on which trust ends or does not: asks what [`cuts`] judges.
//!
//! ```text
//!   a.b.c.d.e.f.example    example · f.example · e.f.example · d.e.f.example    one after the other: trust mostly ends here
//!                          then c… b… a…                                        at once, and judged in order
//! ```

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::PoisonError,
    task::Poll,
    time::Instant,
};

use hickory_proto::rr::{Name, RecordType};
use hickory_resolver::net::NetError;

use super::{
    Unanswered,
    cuts::{self, Cut},
    nameservers::Asking,
    response::{Response, Trust},
    work::Work,
};

/// Labels that are looked at one after the other.
const ONE_BY_ONE: usize = 4;
/// Labels behind those that are asked for at once: the reverse name of an IPv6 address has 34, and a way is to be gone in a few times the time of one answer.
const AT_ONCE: usize = 8;

/// What is known of a cut, or was heard of it.
enum Heard {
    Known(Cut),
    Said(Box<Response>),
}

impl Asking {
    /// Whether what was found at `name` is validated; an error if it is not, and ought to be.
    pub(super) async fn is_secure(&self, name: &Name, trust: Trust, work: &mut Work) -> Result<bool, Unanswered> {
        match trust {
            Trust::Secure => Ok(true),
            Trust::Insecure => Ok(false),
            Trust::Claimed => self.trust_ends_above(name, work).await.map(|()| false),
        }
    }

    /// Goes from the root down until trust ends; an error if it never does.
    async fn trust_ends_above(&self, name: &Name, work: &mut Work) -> Result<(), Unanswered> {
        let mut zone = Name::root();
        let all: Vec<Name> = (1..=name.iter().count()).map(|labels| name.trim_to(labels)).collect();
        let (first, deep) = all.split_at(all.len().min(ONE_BY_ONE));
        for some in first.chunks(1).chain(deep.chunks(AT_ONCE)) {
            let heard = together(some.iter().map(|below| self.heard_of(below)).collect()).await;
            for (below, heard) in some.iter().zip(heard) {
                match self.cut(below, &zone, heard?, work)? {
                    Cut::Signed => zone = below.clone(),
                    Cut::Unsigned => return Ok(()),
                    Cut::Unproven => {}
                }
            }
        }
        Err(Unanswered::Bogus)
    }

    /// What was proven of `name` lately, or is said now.
    async fn heard_of(&self, name: &Name) -> Result<Heard, NetError> {
        let known = self.cuts.lock().unwrap_or_else(PoisonError::into_inner).get(name, Instant::now());
        match known {
            Some(cut) => Ok(Heard::Known(cut)),
            None => Ok(Heard::Said(Box::new(self.ask(name, RecordType::DS).await?))),
        }
    }

    /// What there is between `zone` and `name`.
    fn cut(&self, name: &Name, zone: &Name, heard: Heard, work: &mut Work) -> Result<Cut, Unanswered> {
        let response = match heard {
            Heard::Known(cut) => return Ok(cut),
            Heard::Said(response) => response,
        };
        work.judging(&response)?;
        let cut = cuts::judge(name, zone, &response);
        let lasts = cuts::lasts(cut, zone, &response);
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner).keep(name.clone(), cut, lasts, Instant::now());
        Ok(cut)
    }
}

/// What comes of all of them, in their order.
async fn together<F: Future>(all: Vec<F>) -> Vec<F::Output> {
    let mut all: Vec<Pin<Box<F>>> = all.into_iter().map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = all.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (one, output) in all.iter_mut().zip(&mut outputs).filter(|(_, output)| output.is_none()) {
            if let Poll::Ready(ready) = one.as_mut().poll(cx) {
                *output = Some(ready);
            }
        }
        if outputs.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    outputs.into_iter().flatten().collect()
}
