//! What a look-up may cost in hashes (CVE-2023-50868, RFC 9276 §2.3): whoever owns a zone chooses how often its names are hashed, and whoever asks how many
//! labels they have. Pure.

use super::{
    Unanswered,
    expansion::{MOST_ITERATIONS, nsec3},
    response::Response,
};

/// Times that SHA-1 runs, at most, for all responses of one look-up, but for the first: some milliseconds. Zones as RFC 9276 §3.1 has them, of no further
/// iterations, take 2,000 for the longest names that are looked up.
const MOST: u32 = 25_000;
/// Names that are hashed beside the one asked for and those above it: wildcards, and what is looked for twice.
const ASIDE: u32 = 4;

/// The hashes of one look-up.
#[derive(Debug, Default)]
pub(super) struct Work(u32);

impl Work {
    /// Counts what a response costs: the library has hashed the name and all above it, and whoever judges the response may do so again. An error if that is
    /// too much: the look-up fails (RFC 9276 §3.2: a resolver may answer SERVFAIL for any number of iterations).
    pub(super) fn judging(&mut self, response: &Response) -> Result<(), Unanswered> {
        let hashed = response.authorities.iter().filter_map(nsec3).map(|nsec3| nsec3.iterations());
        let Some(iterations) = hashed.filter(|iterations| *iterations <= MOST_ITERATIONS).max() else { return Ok(()) };
        let names = 2 * (u32::from(response.asked.num_labels()) + 1) + ASIDE;
        self.0 = self.0.saturating_add(names * (u32::from(iterations) + 1));
        if self.0 > MOST { Err(Unanswered::Hashes) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::ResponseCode;

    use super::*;
    use crate::resolver::upstream::{
        response::Denial,
        samples::{name, signed_nsec, signed_nsec3},
    };

    fn of(labels: usize, iterations: Option<u16>) -> Response {
        let asked = name(&format!("{}zone.", "a.".repeat(labels - 1)));
        let authorities = match iterations {
            Some(iterations) => signed_nsec3("b.zone.", "zone.", iterations, false),
            None => signed_nsec("a.zone.", "b.zone.", "zone."),
        };
        Response { asked, code: ResponseCode::NXDomain, answers: Vec::new(), authorities, denial: Denial::Accepted }
    }

    /// How many labels down a look-up comes.
    fn comes(iterations: Option<u16>) -> usize {
        let mut work = Work::default();
        (1..=40).take_while(|labels| work.judging(&of(*labels, iterations)).is_ok()).count()
    }

    #[test]
    fn deep_names_are_looked_up_and_not_at_any_cost() {
        assert_eq!([None, Some(0), Some(10)].map(comes), [40, 40, 40]);
        assert_eq!([100, 500].map(|iterations| comes(Some(iterations))), [12, 4]);
        assert_eq!(comes(Some(501)), 40, "nobody hashes that");
    }

    #[test]
    fn hostile_responses_add_up() {
        let (mut work, mut rounds) = (Work::default(), 0_u32);
        while work.judging(&of(40, Some(500))).is_ok() {
            rounds += 1;
        }
        assert!(rounds <= 1, "{rounds} responses of 43,000 hashes");
    }
}
