//! What is to be delivered, when, and by how many sessions at a time. Pure: time comes in, plans go out.
//!
//! ```text
//!   messages ─due─▶ destinations (by domain): jobs in order ─▶ sessions, bounded per destination and in all
//! ```
//!
//! A destination that is slow holds [`PER_DESTINATION`] sessions and no more, and places are given to the destination that has
//! the fewest: a tarpit delays its own mail only.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use warren_queue::{Attempt, Delivery, Envelope, MessageId};
use warren_smtp::{Host, Mailbox};

/// Sessions to one destination at a time: more than a small MX likes to see from one sender is rude.
pub const PER_DESTINATION: usize = 4;
/// Recipients in one transaction: what every MX must take (RFC 5321 §4.5.3.1.8).
pub const PER_TRANSACTION: usize = 100;

/// Some recipients of one message with the same destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The message.
    pub id: MessageId,
    /// Which of its recipients.
    pub recipients: Vec<usize>,
}

/// What is to be done now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// A session each, to these destinations, beginning with these jobs.
    pub sessions: Vec<(Host, Job)>,
    /// Messages that need no delivery but a look: reports to write, files to remove.
    pub conclude: Vec<MessageId>,
}

/// The state of all deliveries.
#[derive(Debug)]
pub struct Board {
    /// Sessions at a time.
    most: usize,
    messages: HashMap<MessageId, Entry>,
    due: BTreeSet<(u64, MessageId, Item)>,
    destinations: BTreeMap<Host, Destination>,
    sessions: usize,
}

#[derive(Debug)]
struct Entry {
    envelope: Envelope,
    /// Recipients in jobs, waiting or under way.
    in_flight: usize,
    writing: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    Recipient(usize),
    Conclude,
}

#[derive(Debug, Default)]
struct Destination {
    jobs: VecDeque<Job>,
    sessions: usize,
}

impl Board {
    /// Empty, with so many sessions at a time.
    #[must_use]
    pub fn with(most: usize) -> Self {
        Self { most, messages: HashMap::new(), due: BTreeSet::new(), destinations: BTreeMap::new(), sessions: 0 }
    }

    /// Beyond this many sessions a destination gets its first only: several tarpits leave the other half to the rest.
    fn several_up_to(&self) -> usize {
        self.most / 2
    }

    /// Takes in a message: its pending recipients by their due times, or a look at once if none is pending.
    pub fn take_in(&mut self, envelope: Envelope, now_ms: u64) {
        let id = envelope.id.clone();
        if self.messages.contains_key(&id) {
            return;
        }
        self.enlist(&envelope);
        if envelope.is_settled() {
            self.due.insert((now_ms, id.clone(), Item::Conclude));
        }
        self.messages.insert(id, Entry { envelope, in_flight: 0, writing: Arc::default() });
    }

    fn enlist(&mut self, envelope: &Envelope) {
        for (index, recipient) in envelope.recipients.iter().enumerate().filter(|(_, recipient)| recipient.is_pending())
        {
            self.due.insert((recipient.due_ms, envelope.id.clone(), Item::Recipient(index)));
        }
    }

    /// Recipients who are due later than `latest_ms`, which no wait could be, are due now: the clock was set back.
    pub fn bring_forward(&mut self, latest_ms: u64, now_ms: u64) {
        let late = self.due.iter().rev().take_while(|(due, _, _)| *due > latest_ms);
        let late: Vec<_> = late.filter(|(_, _, item)| *item != Item::Conclude).cloned().collect();
        for item in late {
            self.due.remove(&item);
            self.due.insert((now_ms, item.1, item.2));
        }
    }

    /// Turns what is due into jobs and says which sessions to start; they count as started.
    pub fn plan(&mut self, now_ms: u64) -> Plan {
        let mut plan = Plan::default();
        let mut grouped: BTreeMap<(MessageId, Host), Vec<usize>> = BTreeMap::new();
        while self.due.first().is_some_and(|(due, _, _)| *due <= now_ms) {
            let Some((_, id, item)) = self.due.pop_first() else { break };
            let Some(entry) = self.messages.get_mut(&id) else { continue };
            match item {
                Item::Conclude => plan.conclude.push(id),
                Item::Recipient(index) => match host_of(&entry.envelope.recipients[index].path) {
                    Some(host) => {
                        entry.in_flight += 1;
                        grouped.entry((id, host)).or_default().push(index);
                    }
                    None => {
                        // Was an address when it was accepted; never tried again.
                        let text = "the address cannot be used".to_owned();
                        let attempt =
                            Attempt { at_ms: now_ms, host: None, status: "5.1.3".into(), text, from_peer: false };
                        entry.envelope.settle(index, Delivery::Failed, attempt);
                        plan.conclude.push(id);
                    }
                },
            }
        }
        for ((id, host), recipients) in grouped {
            let jobs = &mut self.destinations.entry(host).or_default().jobs;
            jobs.extend(
                recipients.chunks(PER_TRANSACTION).map(|part| Job { id: id.clone(), recipients: part.to_vec() }),
            );
        }
        while self.sessions < self.most {
            let most = if self.sessions < self.several_up_to() { PER_DESTINATION } else { 1 };
            let wanting = self
                .destinations
                .iter_mut()
                .filter(|(_, destination)| !destination.jobs.is_empty() && destination.sessions < most);
            let Some((host, destination)) = wanting.min_by_key(|(_, destination)| destination.sessions) else { break };
            let Some(job) = destination.jobs.pop_front() else { break };
            destination.sessions += 1;
            self.sessions += 1;
            plan.sessions.push((host.clone(), job));
        }
        plan
    }

    /// The next job of a session that has done one.
    pub fn next_job(&mut self, host: &Host) -> Option<Job> {
        self.destinations.get_mut(host)?.jobs.pop_front()
    }

    /// A session has ended.
    pub fn session_ended(&mut self, host: &Host) {
        self.sessions = self.sessions.saturating_sub(1);
        if let Some(destination) = self.destinations.get_mut(host) {
            destination.sessions = destination.sessions.saturating_sub(1);
            if destination.sessions == 0 && destination.jobs.is_empty() {
                self.destinations.remove(host);
            }
        }
    }

    /// A copy of a message's envelope.
    #[must_use]
    pub fn envelope(&self, id: &MessageId) -> Option<Envelope> {
        self.messages.get(id).map(|entry| entry.envelope.clone())
    }

    /// Whether jobs of a message wait or are under way.
    #[must_use]
    pub fn in_flight(&self, id: &MessageId) -> bool {
        self.messages.get(id).is_some_and(|entry| entry.in_flight > 0)
    }

    /// Who holds this writes the message's files.
    #[must_use]
    pub fn writing(&self, id: &MessageId) -> Option<Arc<tokio::sync::Mutex<()>>> {
        self.messages.get(id).map(|entry| Arc::clone(&entry.writing))
    }

    /// A job is over: notes what it brought; recipients that are still pending wait for their time.
    pub fn finish(&mut self, job: &Job, note: impl FnOnce(&mut Envelope)) {
        let Some(entry) = self.messages.get_mut(&job.id) else { return };
        note(&mut entry.envelope);
        entry.in_flight = entry.in_flight.saturating_sub(job.recipients.len());
        for &index in &job.recipients {
            let recipient = &entry.envelope.recipients[index];
            if recipient.is_pending() {
                self.due.insert((recipient.due_ms, job.id.clone(), Item::Recipient(index)));
            }
        }
    }

    /// Changes an envelope without a job.
    pub fn change(&mut self, id: &MessageId, change: impl FnOnce(&mut Envelope)) {
        if let Some(entry) = self.messages.get_mut(id) {
            change(&mut entry.envelope);
        }
    }

    /// A message is to be looked at again.
    pub fn conclude_at(&mut self, id: &MessageId, due_ms: u64) {
        if self.messages.contains_key(id) {
            self.due.insert((due_ms, id.clone(), Item::Conclude));
        }
    }

    /// A message is gone.
    pub fn forget(&mut self, id: &MessageId) {
        self.messages.remove(id);
    }

    /// When something is due next; what is under way does not count.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        self.due.first().map(|(due, _, _)| *due)
    }

    /// As [`Self::next_due`], with what is under way as due at once: for the time after this process. A settled message that
    /// is still here is under way too, unless its next look is noted: its reports may not be written yet.
    #[must_use]
    pub fn next_due_after_stop(&self, now_ms: u64) -> Option<u64> {
        let noted: BTreeSet<&MessageId> =
            self.due.iter().filter(|(_, _, item)| *item == Item::Conclude).map(|(_, id, _)| id).collect();
        let under_way = self
            .messages
            .iter()
            .any(|(id, entry)| entry.in_flight > 0 || entry.envelope.is_settled() && !noted.contains(id));
        if under_way { Some(self.next_due().map_or(now_ms, |due| due.min(now_ms))) } else { self.next_due() }
    }

    /// How many messages there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there is no message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

fn host_of(path: &str) -> Option<Host> {
    path.parse::<Mailbox>().ok().map(|mailbox| mailbox.host().clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use warren_queue::{Content, Origin, Recipient};

    const IN_ALL: usize = 40;

    fn envelope(number: usize, paths: &[&str]) -> Envelope {
        Envelope {
            version: Envelope::VERSION,
            id: format!("m{number:04}").parse().unwrap(),
            arrived_ms: 0,
            origin: Origin::Submission,
            reverse_path: "alice@acme.example".into(),
            recipients: paths.iter().map(|path| Recipient::new(*path, 10)).collect(),
            content: Content { bytes: 0, eight_bit: false, smtputf8: false },
            ret: None,
            envid: None,
        }
    }

    fn settled(envelope: &mut Envelope) {
        let attempt = Attempt { at_ms: 1, host: None, status: "2.0.0".into(), text: String::new(), from_peer: true };
        (0..envelope.recipients.len()).for_each(|index| envelope.settle(index, Delivery::Delivered, attempt.clone()));
    }

    #[test]
    fn recipients_are_grouped_by_domain_and_nothing_starts_early() {
        let mut board = Board::with(IN_ALL);
        board.take_in(envelope(1, &["a@X.example", "b@y.example", "c@x.example"]), 0);
        assert_eq!((board.plan(9), board.next_due()), (Plan::default(), Some(10)));
        let sessions: BTreeMap<Host, Job> = board.plan(10).sessions.into_iter().collect();
        assert_eq!(sessions.len(), 2);
        let x: Host = "x.example".parse().unwrap();
        assert_eq!((&sessions[&x].recipients, board.next_job(&x)), (&vec![0, 2], None));
        assert_eq!((board.next_due(), board.next_due_after_stop(50)), (None, Some(50)));
    }

    #[test]
    fn a_tarpit_leaves_room_for_others() {
        let mut board = Board::with(IN_ALL);
        (0..80).for_each(|number| board.take_in(envelope(number, &["x@tarpit.example"]), 0));
        assert_eq!(board.plan(10).sessions.len(), PER_DESTINATION);
        assert_eq!(board.plan(10), Plan::default());
        board.take_in(envelope(100, &["x@fast.example"]), 10);
        assert_eq!(board.plan(10).sessions[0].0, "fast.example".parse().unwrap());
    }

    #[test]
    fn many_destinations_are_bounded_and_all_get_their_turn() {
        let mut board = Board::with(IN_ALL);
        for number in 0..(3 * IN_ALL) {
            let path = format!("x@d{number}.example");
            board.take_in(envelope(number, &[&path]), 0);
        }
        let mut seen = BTreeSet::new();
        loop {
            let sessions = board.plan(10).sessions;
            assert!(sessions.len() <= IN_ALL);
            if sessions.is_empty() {
                break;
            }
            for (host, job) in sessions {
                board.finish(&job, settled);
                board.forget(&job.id);
                board.session_ended(&host);
                seen.insert(host);
            }
        }
        assert_eq!(seen.len(), 3 * IN_ALL);
        assert!(board.is_empty() && board.destinations.is_empty() && board.sessions == 0 && board.next_due().is_none());
    }

    #[test]
    fn a_clock_that_jumps_brings_no_storm_and_strands_nobody() {
        const HOURS: u64 = 6 * 3_600_000;
        let mut board = Board::with(IN_ALL);
        for number in 0..(2 * IN_ALL) {
            let mut later = envelope(number, &[&format!("x@d{number}.example")]);
            later.recipients[0].due_ms = 10 + number as u64 * 60_000;
            board.take_in(later, 0);
        }
        assert_eq!(board.plan(10).sessions.len(), 1);
        // Ahead, everything is due at once, and has its turn as if it came one by one.
        let mut under_way = board.plan(10 + HOURS).sessions;
        assert_eq!(under_way.len(), IN_ALL - 1);
        // Set back, what was due stays so.
        while let Some((host, job)) = under_way.pop() {
            board.finish(&job, settled);
            board.forget(&job.id);
            board.session_ended(&host);
            under_way.extend(board.plan(10).sessions);
            assert!(under_way.len() < IN_ALL);
        }
        assert_eq!((board.len(), board.next_due()), (1, None), "the first one is under way still");
    }

    #[test]
    fn who_is_due_in_years_is_due_now() {
        let mut board = Board::with(IN_ALL);
        board.take_in(envelope(1, &["a@x.example"]), 0);
        let mut years_ahead = envelope(2, &["a@y.example"]);
        years_ahead.recipients[0].due_ms = 10_000_000;
        board.take_in(years_ahead, 0);
        board.bring_forward(2_000, 5);
        assert_eq!((board.plan(5).sessions.len(), board.next_due()), (1, Some(10)));
    }

    #[test]
    fn several_tarpits_leave_room_too() {
        let mut board = Board::with(IN_ALL);
        for number in 0..(10 * PER_DESTINATION) {
            let path = format!("x@tarpit{}.example", number % 10);
            board.take_in(envelope(number, &[&path]), 0);
        }
        assert_eq!(board.plan(10).sessions.len(), IN_ALL / 2);
        board.take_in(envelope(100, &["x@fast.example"]), 10);
        assert_eq!(board.plan(10).sessions.len(), 1);
    }

    #[test]
    fn long_lists_are_split() {
        let paths: Vec<String> = (0..250).map(|n| format!("r{n}@x.example")).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let mut board = Board::with(IN_ALL);
        board.take_in(envelope(1, &paths), 0);
        let sessions = board.plan(10).sessions;
        assert_eq!(sessions.len(), 3);
        let sizes: Vec<usize> = sessions.iter().map(|(_, job)| job.recipients.len()).collect();
        assert_eq!(sizes, [100, 100, 50]);
    }

    #[test]
    fn a_deferred_recipient_waits_for_its_time() {
        let mut board = Board::with(IN_ALL);
        board.take_in(envelope(1, &["a@x.example"]), 0);
        let (host, job) = board.plan(10).sessions.remove(0);
        assert!(board.in_flight(&job.id));
        board.finish(&job, |envelope| envelope.recipients[0].due_ms = 500);
        board.session_ended(&host);
        assert_eq!((board.in_flight(&job.id), board.next_due(), board.plan(499)), (false, Some(500), Plan::default()));
        assert_eq!(board.plan(500).sessions.len(), 1);
    }

    #[test]
    fn a_settled_message_is_looked_at_once() {
        let mut board = Board::with(IN_ALL);
        let mut done = envelope(1, &["a@x.example"]);
        settled(&mut done);
        board.take_in(done.clone(), 7);
        assert_eq!(board.next_due_after_stop(5), Some(7));
        assert_eq!(board.plan(7).conclude, [done.id.clone()]);
        assert_eq!(board.plan(7), Plan::default());
        assert_eq!(board.next_due_after_stop(8), Some(8), "its reports are being written");
        board.conclude_at(&done.id, 90);
        assert_eq!(board.next_due_after_stop(8), Some(90), "the disk is given time");
        board.forget(&done.id);
        assert_eq!((board.plan(90), board.next_due_after_stop(90)), (Plan::default(), None));
    }
}
