//! An egress address gets onto a block list, and off it: what quickstart shows and a scenario asserts.
//!
//! ```text
//!   the list names the address that would be used ──▶ a message arrives all the same, from another one, in the same session
//!        ──▶ the address rests there, with the reply that said so ──▶ the list forgets it ──▶ a probe finds out ──▶ it is used again
//! ```

use std::net::IpAddr;
use std::time::{Duration, Instant};

use warren_lab::Lab;
use warren_lab::persona::catalogue;

use crate::Node;
use crate::corpus::note;

/// The MX that asks the list at RCPT.
pub const DESTINATION: &str = "listed-rcpt.example";
/// What the node's configuration must say, so that nobody waits for a quarter of an hour.
pub const SETTINGS: &str = "[egress.rest]\nfirst = \"5s\"\n";

const ALICE: &str = "alice@acme.example";
const ARRIVES_WITHIN: Duration = Duration::from_secs(60);

/// What happened.
#[derive(Debug)]
pub struct Story {
    /// The address that was listed.
    pub listed: IpAddr,
    /// The transcript of the session that went on from another address.
    pub transcript: String,
    /// `warren egress` while the address rested.
    pub resting: String,
    /// `warren egress` after it was used again.
    pub again: String,
}

/// Plays it; an error says what did not happen.
pub fn play(lab: &Lab, node: &Node<'_>, mut say: impl FnMut(&str)) -> Result<Story, String> {
    let told = node.ask(&["egress", "explain", "--tenant", "acme", "--to", DESTINATION]);
    let chosen = told.lines().find_map(|line| line.trim().strip_prefix("chosen")?.split_whitespace().next());
    let listed = chosen.and_then(|word| word.trim_end_matches(':').parse().ok()).ok_or(told.clone())?;
    say(&format!("mail of acme to {DESTINATION} would leave from {listed}; now the list {} has it", catalogue::LIST));
    lab.set_list(catalogue::LIST, &[listed]).map_err(|error| error.to_string())?;

    deliver(lab, node, "while listed")?;
    say("a message arrived all the same; its session:");
    let id = node.wait_until("the recorded session", || {
        let table = node.ask(&["sessions", "--tenant", "acme", "--limit", "500"]);
        let row = table.lines().find(|line| line.contains(DESTINATION) && line.contains("delivered"))?;
        row.split_whitespace().find(|word| word.len() == 16).map(str::to_owned)
    });
    let transcript = node.ask(&["sessions", "show", &id]);
    transcript.lines().for_each(&mut say);
    let rests = |table: &str| table.lines().any(|line| line.contains(&listed.to_string()) && line.contains("rested"));
    let resting = node.wait_until("the rest", || Some(node.ask(&["egress"])).filter(|table| rests(table)));
    resting.lines().for_each(&mut say);

    say("now it is off the list");
    lab.set_list(catalogue::LIST, &[]).map_err(|error| error.to_string())?;
    let end = Instant::now() + ARRIVES_WITHIN;
    let mut number = 0;
    loop {
        number += 1;
        deliver(lab, node, &format!("after the listing {number}"))?;
        let again = node.ask(&["egress", "--all"]);
        let there = |line: &&str| line.contains(&listed.to_string()) && line.contains(DESTINATION);
        if again.lines().find(there).is_some_and(|row| !row.contains("rested") && !row.contains("probing")) {
            say(&format!("after {number} more messages one of them was the probe, and {listed} is used there again:"));
            again.lines().for_each(&mut say);
            return Ok(Story { listed, transcript, resting, again });
        }
        if Instant::now() > end {
            return Err(format!("{listed} is not used again:\n{again}"));
        }
        // The rest has its time, whatever one does.
        std::thread::park_timeout(Duration::from_millis(500));
    }
}

/// One message, from submission to mailbox.
fn deliver(lab: &Lab, node: &Node<'_>, subject: &str) -> Result<(), String> {
    let to = format!("gina@{DESTINATION}");
    let sent = node.submit(ALICE, ALICE, &[&to], 587, &note(ALICE, subject));
    if !sent.accepted {
        return Err(sent.text);
    }
    let fits = |m: &warren_lab::Message| m.header("Subject").as_deref() == Some(subject);
    lab.mailbox(DESTINATION, "gina").wait_for(fits, ARRIVES_WITHIN).map(drop).map_err(|error| error.to_string())
}
