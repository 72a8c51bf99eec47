//! The proxy's socket: answers `warren egress` and `warren metrics`.
//!
//! Root may ask anything, the platform for metrics, by the kernel's word on the peer; others are shown the door. A connection has one question under way at a time, and
//! a picture that it took once and reads page by page, so that pages fit together however the world moves on meanwhile. Nothing of
//! mail depends on this socket. Each kind of caller has places of its own, so that neither can keep the other out.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use warren_control::egress::{EgressReply, EgressRequest, Explain, Explained, Row};
use warren_daemon::Accepting;
use warren_packet::MAX_MESSAGE;
use warren_packet::aio::{AsyncListener, AsyncPackets};

use crate::egress_store::Flush;

/// Connections of operators at once: each has one.
const OPERATORS: usize = 16;
/// Connections of the platform at once: it has one, and the last may not be closed yet.
const SCRAPERS: usize = 2;
/// How long a page of metrics is told again, so that nobody keeps the proxy busy with it.
const FRESH: Duration = Duration::from_secs(1);
/// How long a connection may be silent, or leave an answer untaken, before its place is somebody else's.
const SILENCE: Duration = Duration::from_secs(60);
/// Bytes of rows in one page: a packet less its frame.
const PAGE: usize = MAX_MESSAGE - 1024;
/// Bytes of metrics in one piece. As JSON each becomes six at worst.
const PIECE: usize = PAGE / 6;
/// How long an operator waits until what he did is saved.
const SAVE_WITHIN: Duration = Duration::from_secs(5);

/// Who knows the answers. Each is had at once: nothing here waits for mail.
pub trait Answers: Send + Sync + 'static {
    /// All that is known.
    fn snapshot(&self) -> Vec<Row>;
    /// What is counted, as a page in the text format of Prometheus.
    fn metrics(&self) -> String;
    /// Takes an address out of use; the lines say what changed. An error says why that cannot be.
    fn rest(&self, address: std::net::IpAddr, destination: Option<&str>) -> Result<Vec<String>, String>;
    /// Takes an address back in; the lines say what changed. An error says why that cannot be.
    fn restore(&self, address: std::net::IpAddr, destination: Option<&str>) -> Result<Vec<String>, String>;
    /// Which address would be chosen.
    fn explain(&self, asked: &Explain) -> Explained;
}

/// Who may ask.
#[derive(Debug, Clone, Copy)]
pub struct Callers {
    /// Anything.
    pub operator: u32,
    /// For metrics: the platform, which answers scrapers.
    pub scraper: Option<u32>,
}

/// Who a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Operator,
    Scraper,
}

impl Callers {
    fn find(self, user: u32) -> Option<Caller> {
        match user {
            user if user == self.operator => Some(Caller::Operator),
            user if Some(user) == self.scraper => Some(Caller::Scraper),
            _ => None,
        }
    }
}

impl Caller {
    fn may(self, request: &EgressRequest) -> bool {
        self == Caller::Operator || matches!(request, EgressRequest::Metrics { .. })
    }
}

/// Places for connections, by who has them.
#[derive(Debug)]
struct Places {
    operators: Arc<Semaphore>,
    scrapers: Arc<Semaphore>,
}

impl Places {
    fn new() -> Self {
        Self { operators: Arc::new(Semaphore::new(OPERATORS)), scrapers: Arc::new(Semaphore::new(SCRAPERS)) }
    }

    /// One for this caller, if there is one.
    fn take(&self, caller: Caller) -> Option<OwnedSemaphorePermit> {
        let places = match caller {
            Caller::Operator => &self.operators,
            Caller::Scraper => &self.scrapers,
        };
        Arc::clone(places).try_acquire_owned().ok()
    }
}

/// The page of metrics that was told last, whoever asked.
#[derive(Debug, Default)]
struct Told(Mutex<Option<(Instant, Arc<str>)>>);

impl Told {
    /// The page as of now, or of a moment ago.
    async fn page(&self, now: Instant, answers: &impl Answers) -> Arc<str> {
        let mut last = self.0.lock().await;
        if let Some((at, page)) = &*last
            && now.saturating_duration_since(*at) < FRESH
        {
            return Arc::clone(page);
        }
        let page = Arc::from(answers.metrics());
        *last = Some((now, Arc::clone(&page)));
        page
    }
}

/// Answers until dropped.
///
/// What was done by hand is saved by `flush` before it is said to be done.
pub async fn serve<A: Answers>(listener: AsyncListener, callers: Callers, answers: Arc<A>, flush: Option<Flush>) {
    let (places, told) = (Places::new(), Arc::new(Told::default()));
    let mut conversations = JoinSet::new();
    let accepting = Accepting::default();
    loop {
        while conversations.try_join_next().is_some() {}
        let peer = match listener.accept().await {
            Ok(peer) => peer,
            Err(error) => {
                accepting.failed(&io::Error::other(error), "proxy.sock").await;
                continue;
            }
        };
        let caller = match peer.peer() {
            Ok(known) => match callers.find(known.uid) {
                Some(caller) => caller,
                None => {
                    tracing::warn!(uid = known.uid, pid = known.pid, "stranger at the proxy's socket");
                    continue;
                }
            },
            Err(error) => {
                tracing::warn!(%error, "a peer at the proxy's socket cannot be told");
                continue;
            }
        };
        let Some(place) = places.take(caller) else {
            tracing::warn!(?caller, "too many connections to the proxy's socket");
            continue;
        };
        let (answers, told, flush) = (Arc::clone(&answers), Arc::clone(&told), flush.clone());
        conversations.spawn(async move {
            converse(&peer, caller, &*answers, &told, flush.as_ref()).await;
            drop(place);
        });
    }
}

/// What a connection reads piece by piece.
#[derive(Debug, Default)]
struct Kept {
    picture: Vec<Row>,
    metrics: Arc<str>,
}

async fn converse(peer: &AsyncPackets, caller: Caller, answers: &impl Answers, told: &Told, flush: Option<&Flush>) {
    let mut kept = Kept::default();
    loop {
        let request = match timeout(SILENCE, peer.recv::<EgressRequest>()).await {
            Ok(Ok(Some((request, _)))) if !caller.may(&request) => {
                return tracing::warn!(?caller, "a request at the proxy's socket that is not its business");
            }
            Ok(Ok(Some((request, _)))) => request,
            Ok(Ok(None)) => return,
            Ok(Err(error)) => return tracing::warn!(%error, "a request at the proxy's socket is not understood"),
            Err(_) => return tracing::debug!("silence at the proxy's socket"),
        };
        let mut reply = answer(answers, told, &mut kept, request).await;
        if let (EgressReply::Done { changes }, Some(flush)) = (&mut reply, flush)
            && !flush.now(SAVE_WITHIN).await
        {
            changes
                .push("it is in force, and not yet saved: the proxy would forget it if it were killed now".to_owned());
        }
        match timeout(SILENCE, peer.send(&reply, &[])).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return tracing::debug!(%error, "an answer found nobody"),
            Err(_) => return tracing::debug!("nobody takes an answer at the proxy's socket"),
        }
    }
}

async fn answer(answers: &impl Answers, told: &Told, kept: &mut Kept, request: EgressRequest) -> EgressReply {
    let done = |result| match result {
        Ok(changes) => EgressReply::Done { changes },
        Err(reason) => EgressReply::Refused { reason },
    };
    match request {
        EgressRequest::Snapshot { from } => {
            if from == 0 {
                kept.picture = answers.snapshot();
            }
            let (rows, more) = page(&kept.picture, from);
            if !more {
                kept.picture = Vec::new();
            }
            EgressReply::Rows { rows, more }
        }
        EgressRequest::Metrics { from } => {
            if from == 0 {
                kept.metrics = told.page(Instant::now(), answers).await;
            }
            let (text, more) = piece(&kept.metrics, from);
            let text = text.to_owned();
            if !more {
                kept.metrics = Arc::default();
            }
            EgressReply::Metrics { text, more }
        }
        EgressRequest::Rest { address, destination } => done(answers.rest(address, destination.as_deref())),
        EgressRequest::Restore { address, destination } => done(answers.restore(address, destination.as_deref())),
        EgressRequest::Explain(asked) => EgressReply::Explained(Box::new(answers.explain(&asked))),
    }
}

/// As many rows as fit a packet, and whether others follow.
fn page(picture: &[Row], from: u64) -> (Vec<Row>, bool) {
    let rest = usize::try_from(from).ok().and_then(|from| picture.get(from..)).unwrap_or_default();
    let mut length = 0;
    let fits = rest.iter().take_while(|row| {
        length += serde_json::to_vec(row).map_or(0, |json| json.len() + 1);
        length <= PAGE
    });
    // A row that fits no packet would end the list; rows are bounded far below that.
    let count = fits.count().max(usize::from(!rest.is_empty()));
    (rest[..count].to_vec(), count < rest.len())
}

/// As much text as fits a packet, and whether more follows.
fn piece(text: &str, from: u64) -> (&str, bool) {
    let rest = usize::try_from(from).ok().and_then(|from| text.get(from..)).unwrap_or_default();
    let piece = &rest[..rest.floor_char_boundary(PIECE)];
    (piece, piece.len() < rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;
    use std::sync::Mutex;
    use warren_control::egress::{NodeRow, RuleRow};
    use warren_packet::{PacketListener, Packets};

    /// Knows this many rules, each with a text of this length; a snapshot makes them one fewer.
    struct Known(Mutex<(u32, usize)>);

    impl Answers for Known {
        fn snapshot(&self) -> Vec<Row> {
            let mut known = self.0.lock().unwrap();
            known.0 -= 1;
            let node = Row::Node(NodeRow { at_unix_ms: 1, sessions: 0, waiting: 0 });
            let rule = |number| Row::Rule(RuleRow { number, when: "\u{1b}".repeat(known.1), pool: "default".into() });
            std::iter::once(node).chain((1..=known.0).map(rule)).collect()
        }

        fn metrics(&self) -> String {
            let mut known = self.0.lock().unwrap();
            known.0 += 1;
            format!("{}\u{1b}é", known.0).repeat(known.1)
        }

        fn rest(&self, address: IpAddr, destination: Option<&str>) -> Result<Vec<String>, String> {
            Ok(vec![format!("{address} rests towards {destination:?}")])
        }

        fn restore(&self, address: IpAddr, _: Option<&str>) -> Result<Vec<String>, String> {
            Err(format!("{address} is none of ours"))
        }

        fn explain(&self, asked: &Explain) -> Explained {
            unreachable!("nobody asks {asked:?}")
        }
    }

    fn own_user() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    /// We are the operator.
    fn operator() -> Callers {
        Callers { operator: own_user(), scraper: None }
    }

    fn served(known: Known, callers: Callers) -> (tempfile::TempDir, Packets) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("proxy.sock");
        let listener = AsyncListener::new(PacketListener::listen(&path).unwrap()).unwrap();
        tokio::spawn(serve(listener, callers, Arc::new(known), None));
        let packets = Packets::connect(&path).unwrap();
        (directory, packets)
    }

    async fn ask(client: &AsyncPackets, request: &EgressRequest) -> Option<EgressReply> {
        client.send(request, &[]).await.unwrap();
        client.recv().await.unwrap().map(|(reply, _)| reply)
    }

    #[tokio::test]
    async fn a_picture_is_read_in_pages_and_does_not_change_meanwhile() {
        let (_directory, client) = served(Known(Mutex::new((101, 4_000))), operator());
        let client = AsyncPackets::new(client).unwrap();
        let (mut had, mut pages) = (Vec::new(), 0);
        loop {
            let Some(EgressReply::Rows { rows, more }) =
                ask(&client, &EgressRequest::Snapshot { from: had.len() as u64 }).await
            else {
                panic!("rows were asked for")
            };
            had.extend(rows);
            pages += 1;
            if !more {
                break;
            }
        }
        assert_eq!(had.len(), 101, "the node, and a hundred rules");
        assert!(pages > 10, "{pages} pages: 24 KB a row as JSON");
        let last = Row::Rule(RuleRow { number: 100, when: "\u{1b}".repeat(4_000), pool: "default".into() });
        assert_eq!(had.last(), Some(&last));
        let beyond = ask(&client, &EgressRequest::Snapshot { from: u64::MAX }).await;
        assert_eq!(beyond, Some(EgressReply::Rows { rows: Vec::new(), more: false }));
    }

    #[tokio::test]
    async fn what_is_done_by_hand_is_answered() {
        let (_directory, client) = served(Known(Mutex::new((1, 1))), operator());
        let client = AsyncPackets::new(client).unwrap();
        let address = "203.0.113.10".parse().unwrap();
        let rest = EgressRequest::Rest { address, destination: Some("google.com".into()) };
        let changes = vec!["203.0.113.10 rests towards Some(\"google.com\")".to_owned()];
        assert_eq!(ask(&client, &rest).await, Some(EgressReply::Done { changes }));
        let restore = EgressRequest::Restore { address, destination: None };
        let reason = "203.0.113.10 is none of ours".to_owned();
        assert_eq!(ask(&client, &restore).await, Some(EgressReply::Refused { reason }));
    }

    #[tokio::test]
    async fn metrics_are_read_in_pieces_and_do_not_change_meanwhile() {
        let (_directory, client) = served(Known(Mutex::new((1, 20_000))), operator());
        let client = AsyncPackets::new(client).unwrap();
        let (mut had, mut pieces) = (String::new(), 0);
        loop {
            let asked = ask(&client, &EgressRequest::Metrics { from: had.len() as u64 }).await;
            let Some(EgressReply::Metrics { text, more }) = asked else { panic!("metrics were asked for: {asked:?}") };
            had += &text;
            pieces += 1;
            if !more {
                break;
            }
        }
        assert_eq!(had, "2\u{1b}é".repeat(20_000));
        assert!(pieces > 3, "{pieces}");
    }

    #[tokio::test]
    async fn who_may_ask_for_metrics_may_ask_for_nothing_else() {
        let callers = Callers { operator: own_user() + 1, scraper: Some(own_user()) };
        let (_directory, client) = served(Known(Mutex::new((1, 1))), callers);
        let client = AsyncPackets::new(client).unwrap();
        let metrics = ask(&client, &EgressRequest::Metrics { from: 0 }).await;
        assert_eq!(metrics, Some(EgressReply::Metrics { text: "2\u{1b}é".into(), more: false }));
        assert_eq!(ask(&client, &EgressRequest::Snapshot { from: 0 }).await, None);
    }

    #[test]
    fn the_places_of_one_caller_are_not_the_others() {
        let places = Places::new();
        let scrapers: Vec<_> = std::iter::from_fn(|| places.take(Caller::Scraper)).collect();
        assert_eq!(scrapers.len(), SCRAPERS);
        assert!(places.take(Caller::Operator).is_some(), "scrapers keep the operator out");
        let operators: Vec<_> = std::iter::from_fn(|| places.take(Caller::Operator)).collect();
        assert_eq!(operators.len(), OPERATORS);
        drop(scrapers);
        assert!(places.take(Caller::Scraper).is_some(), "operators keep the scraper out");
    }

    #[tokio::test]
    async fn a_scraper_too_many_is_shown_the_door() {
        let callers = Callers { operator: own_user() + 1, scraper: Some(own_user()) };
        let (directory, first) = served(Known(Mutex::new((1, 1))), callers);
        let mut there = vec![AsyncPackets::new(first).unwrap()];
        let more = || AsyncPackets::connect(directory.path().join("proxy.sock")).unwrap();
        there.extend((1..SCRAPERS).map(|_| more()));
        for client in &there {
            assert!(ask(client, &EgressRequest::Metrics { from: 0 }).await.is_some());
        }
        assert!(!matches!(more().recv::<EgressReply>().await, Ok(Some(_))));
    }

    #[tokio::test]
    async fn a_page_is_told_again_for_a_second() {
        let (told, known, start) = (Told::default(), Known(Mutex::new((1, 1))), Instant::now());
        let mut pages = Vec::new();
        for ms in [0, 999, 1_000, 1_500] {
            pages.push(told.page(start + Duration::from_millis(ms), &known).await.to_string());
        }
        assert_eq!(pages, ["2\u{1b}é", "2\u{1b}é", "3\u{1b}é", "3\u{1b}é"]);
    }

    #[tokio::test]
    async fn strangers_get_nothing() {
        let (_directory, client) =
            served(Known(Mutex::new((1, 1))), Callers { operator: own_user() + 1, scraper: None });
        let client = AsyncPackets::new(client).unwrap();
        // It may be gone before the question is out.
        let _ = client.send(&EgressRequest::Snapshot { from: 0 }, &[]).await;
        assert!(!matches!(client.recv::<EgressReply>().await, Ok(Some(_))));
    }
}
