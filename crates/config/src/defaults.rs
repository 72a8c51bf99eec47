//! What every setting is when it is not set, and why.

use std::time::Duration;

use crate::egress::{Budget, Rest, Thresholds};

/// `[listen] submission`: RFC 6409, all IPv4 and IPv6 addresses are one's own choice; IPv4 is everywhere.
pub const SUBMISSION: &str = "0.0.0.0:587";
/// `[listen] submissions`: RFC 8314 implicit TLS.
pub const SUBMISSIONS: &str = "0.0.0.0:465";
/// `[listen] smtp`: mail from other MTAs.
pub const SMTP: &str = "0.0.0.0:25";

/// `[egress] max_sessions`: outbound sessions of the node at once. Each costs two descriptors and some 100 KiB, and
/// busy nodes of other MTAs run with a few thousand.
pub const MAX_SESSIONS: u32 = 2_000;
/// `[egress] max_sessions_per_tenant`: a twentieth, so that one tenant's tarpitted mail leaves room for everybody.
pub const MAX_SESSIONS_PER_TENANT: u32 = 100;
/// `[egress] max_wait`: long enough for most sessions ahead to end, and well below the five minutes that Postfix and Exim wait for a greeting.
pub const MAX_WAIT: Duration = Duration::from_secs(60);

/// `[egress.budgets]`, of one address towards one destination. 20 sessions at once is what Postfix opens to a destination, so receivers
/// know it; 600 in a minute is ten a second, more than any but the largest nodes need, and few enough that a flood becomes a queue.
pub const EGRESS_BUDGET: Budget = Budget { sessions: 20, sessions_per_minute: 600 };

/// `[egress.rest]`: a quarter of an hour first, because many lists are left within one, and a reply that was taken for more than it meant costs no
/// more. A day at most: who is listed for longer needs a human, who sees it in `warren egress`.
pub const EGRESS_REST: Rest = Rest { first: Duration::from_secs(15 * 60), longest: Duration::from_secs(24 * 60 * 60) };
/// `[egress.suspicion]`: a score of 30 is one recipient in six unknown, or one message in eleven called spam: more than a list that people write to
/// every day has, so quarantine, which costs nobody a message. 60 and 90 are twice and three times that. Anybody may run an MX and call
/// everything spam, so it takes three destinations to slow a sender and five to stop it. A message in 20 s is more than a person writes, and nothing to a
/// spammer. Ten times the usual volume is no busy day, and below 200 an hour there is little to be protected from.
pub const SUSPICION: Thresholds = Thresholds {
    raised: 30,
    high: 60,
    severe: 90,
    high_destinations: 3,
    severe_destinations: 5,
    every: Duration::from_secs(20),
    jump: 10,
    jump_from: 200,
};
/// `[egress.warm_up] daily`: messages towards one destination, doubled every second day for three weeks. The big receivers publish no numbers;
/// what senders report to work begins at some tens a day and doubles within two or three.
pub const WARM_UP: [u32; 21] = [
    50, 70, 100, 140, 200, 280, 400, 560, 800, 1_100, 1_600, 2_200, 3_200, 4_500, 6_400, 9_000, 13_000, 18_000, 26_000,
    36_000, 51_000,
];

/// `[fleet] idle`: how long an MSA waits before it sleeps. People send in bursts; waking costs milliseconds, so there
/// is little to gain by waiting longer.
pub const IDLE: Duration = Duration::from_secs(30);
/// `[fleet] slots`: containers made ahead of need, about 1 MiB each. Enough for the bursts of a small node; the pool
/// adapts.
pub const SLOTS: u32 = 4;
/// `[fleet] start_deadline`: how long a client waits for a container before 451. Starting takes milliseconds, but hundreds
/// of tenants may be wanted in the same second of a small machine: some ten seconds then. Clients wait for minutes (RFC
/// 5321, section 4.5.3.2), people for less.
pub const START_DEADLINE: Duration = Duration::from_secs(30);

/// `[submission] remember_passwords`: mail programs log in for every mail, and look at their folders every few minutes. For that long the
/// platform's memory holds what a right password can be guessed with more cheaply than with the hash in the file.
pub const REMEMBER_PASSWORDS: Duration = Duration::from_secs(5 * 60);

/// `[limits] message_size`: large providers take 25 MB of attachments, which base64 and headers make 35 MB; a margin on
/// top.
pub const MESSAGE_SIZE: u64 = 50 << 20;
/// A message and what is noted about its recipients are one file: so much of `file_size` a message is not to have. RFC 5321 §4.5.3.1.8 wants a hundred recipients to be taken with
/// any message; with long addresses and long replies, three times over as the queue writes them, they come to this.
pub const FILE_BESIDES: u64 = 640 << 10;
/// `[limits] recipients` of one transaction: RFC 5321 wants at least 100; mailing programs split at some hundreds.
pub const RECIPIENTS: u32 = 500;
/// `[limits] hops`: Received fields that count as a loop. RFC 5321 section 6.3: at least 100.
pub const HOPS: u32 = 100;
/// `[limits] connections` of clients at once, for each of front door and receiver. Two descriptors each, within a
/// customary hard limit of 20,000 beside the descriptors of containers.
pub const CONNECTIONS: u32 = 1_000;
/// `[limits] connections_per_address`: an office behind one address fits; one host cannot take all.
pub const CONNECTIONS_PER_ADDRESS: u32 = 50;

/// `[limits] account_messages_per_hour`, submitted: more than anybody writes by hand, and a newsletter to a club; a stolen password
/// gives a spammer no more. Senders of newsletters get more in their tenant's file.
pub const ACCOUNT_MESSAGES_PER_HOUR: u32 = 500;
/// `[limits] account_recipients_per_hour`: four full transactions of [`RECIPIENTS`].
pub const ACCOUNT_RECIPIENTS_PER_HOUR: u32 = 2_000;
/// `[limits] messages_per_hour` of a tenant, submitted by all its accounts, and as many again forwarded: a company of some hundred people.
pub const MESSAGES_PER_HOUR: u32 = 5_000;
/// `[limits] recipients_per_hour` of a tenant, likewise.
pub const RECIPIENTS_PER_HOUR: u32 = 20_000;

/// `[retry] first`: greylisting hosts ask for some minutes.
pub const RETRY_FIRST: Duration = Duration::from_secs(5 * 60);
/// `[retry] factor_percent`: each wait is one and a half times the one before.
pub const RETRY_FACTOR_PERCENT: u32 = 150;
/// `[retry] max`: a host that comes back gets its mail within hours.
pub const RETRY_MAX: Duration = Duration::from_secs(4 * 60 * 60);
/// `[retry] expire`: RFC 5321 section 4.5.4.1: give up after 4 to 5 days.
pub const RETRY_EXPIRE: Duration = Duration::from_secs(5 * 24 * 60 * 60);

/// `[cgroup] name`: the node's group, within which each container has one.
pub const CGROUP: &str = "warren";

/// `[users]`: one for each program, so that taking one over gives nothing of the others.
pub const USER_PLATFORM: &str = "warren-platform";
/// See [`USER_PLATFORM`].
pub const USER_PROXY: &str = "warren-proxy";
/// See [`USER_PLATFORM`].
pub const USER_RESOLVER: &str = "warren-resolver";
/// See [`USER_PLATFORM`].
pub const USER_RECEIVER: &str = "warren-receiver";

/// `[paths] state`: volumes with the queues, session database, keys. Survives reboots.
pub const STATE: &str = "/var/lib/warren";
/// `[paths] run`: sockets, cell records, locks. Gone after a reboot.
pub const RUN: &str = "/run/warren";
/// `[paths] images`: what containers run.
pub const IMAGES: &str = "/usr/lib/warren/images";

/// `[proxy] connect_timeout`: at most 30 s, so that an MSA (RFC 5321: 5 minutes for the greeting) can try the next MX
/// in its own time.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// `[proxy.reuse] idle`: what other MTAs have. Sessions of one batch follow each other faster, and MXs that close idle connections wait longer.
pub const REUSE_IDLE: Duration = Duration::from_secs(2);
/// `[proxy.reuse] messages`: big providers that count them allow twenty in a connection and more.
pub const REUSE_MESSAGES: u32 = 20;
/// `[proxy] record`: what MXs said, and how long they took to say it, is half of what the proxy is for
pub const RECORD: bool = true;
/// `[proxy] keep_sessions`: long enough to compare this month with the last; records name people, so they are not kept for ever
/// unless somebody wants that.
pub const KEEP_SESSIONS: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// A tenant's `image`: Warren's own MSA.
pub const IMAGE: &str = "msa";
