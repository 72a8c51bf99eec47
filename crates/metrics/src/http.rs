//! `GET /metrics` for scrapers on this machine.
//!
//! Bounded, because whoever has an account on the machine can connect: few connections at once, one request each, its head of 8 KiB at most, and seconds
//! for all of it. Who asks more often than once a second is told the same page again, so that nobody keeps the programs busy with it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;
use warren_daemon::Accepting;

use crate::{Format, Page};

/// Bytes of a request's head.
const HEAD: usize = 8 << 10;
/// How long a page is told again.
const FRESH: Duration = Duration::from_secs(1);

/// What scrapers may take.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Connections at once: a scraper has one.
    connections: usize,
    /// How long the head of a request may take to come.
    head_within: Duration,
    /// How long a connection may take in all. Scrapers give up after ten seconds.
    all_within: Duration,
}

const BOUNDS: Bounds =
    Bounds { connections: 8, head_within: Duration::from_secs(5), all_within: Duration::from_secs(15) };

/// Who knows the page.
pub trait Source: Send + Sync + 'static {
    /// The page as of now.
    fn page(&self) -> impl Future<Output = Page> + Send;
}

/// Answers until dropped.
pub async fn serve<S: Source>(listener: TcpListener, source: S) {
    serve_within(listener, source, BOUNDS).await;
}

async fn serve_within<S: Source>(listener: TcpListener, source: S, bounds: Bounds) {
    let places = Arc::new(Semaphore::new(bounds.connections));
    let desk = Arc::new(Desk { source, bounds, last: Mutex::new(None) });
    let accepting = Accepting::default();
    loop {
        // Whoever finds no place waits in the kernel's queue, which is bounded as well.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                accepting.failed(&error, "metrics").await;
                continue;
            }
        };
        let desk = Arc::clone(&desk);
        tokio::spawn(async move {
            desk.converse(stream).await;
            drop(place);
        });
    }
}

struct Desk<S> {
    source: S,
    bounds: Bounds,
    last: Mutex<Option<(Instant, Arc<Page>)>>,
}

impl<S: Source> Desk<S> {
    async fn converse(&self, stream: TcpStream) {
        let answer = service_fn(async |request| Ok::<_, Infallible>(self.answer(&request).await));
        let conversation = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.bounds.head_within)
            .max_buf_size(HEAD)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), answer);
        match timeout(self.bounds.all_within, conversation).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a scraper of metrics broke off"),
            Err(_) => tracing::debug!("a scraper of metrics took too long"),
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() != "/metrics" {
            return plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n");
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "GET, please\n");
            refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        let format = wanted(request.headers().get_all(ACCEPT).iter().filter_map(|accept| accept.to_str().ok()));
        response(StatusCode::OK, format.media_type(), self.page().await.render(format))
    }

    /// One at a time, and once a second.
    async fn page(&self) -> Arc<Page> {
        let mut last = self.last.lock().await;
        if let Some((at, page)) = &*last
            && at.elapsed() < FRESH
        {
            return Arc::clone(page);
        }
        let page = Arc::new(self.source.page().await);
        *last = Some((Instant::now(), Arc::clone(&page)));
        page
    }
}

/// The format that a scraper asks for: OpenMetrics if it names it at all, as those do that prefer it.
fn wanted<'a>(mut accepts: impl Iterator<Item = &'a str>) -> Format {
    let open =
        accepts.any(|accept| accept.split(',').any(|one| one.trim().starts_with("application/openmetrics-text")));
    if open { Format::OpenMetrics } else { Format::Prometheus }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", text.to_owned())
}

fn response(status: StatusCode, media_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::parse;

    /// Tells how often it was asked.
    struct Asked(AtomicU64);

    impl Source for Asked {
        async fn page(&self) -> Page {
            let mut page = Page::default();
            page.counter("asked_total", "How often.").add(&[], self.0.fetch_add(1, Ordering::Relaxed) + 1);
            page
        }
    }

    async fn served() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Asked(AtomicU64::new(0))));
        address
    }

    /// Head and body of the answer.
    async fn ask(address: SocketAddr, request: &str) -> (String, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (head.to_owned(), body.to_owned())
    }

    fn get(accept: &str) -> String {
        format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n")
    }

    #[tokio::test]
    async fn a_scraper_gets_the_format_that_it_asks_for() {
        let address = served().await;
        let (head, body) = ask(address, &get("text/plain;q=0.5, */*;q=0.1")).await;
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("text/plain; version=0.0.4"), "{head}");
        assert!(!body.contains("# EOF") && parse(&body).unwrap().value("asked_total", &[]) == Some(1.0), "{body}");
        let open = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
        let (head, body) = ask(address, &get(open)).await;
        assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
        assert!(body.ends_with("# EOF\n"), "{body}");
        let again = parse(&body).unwrap().value("asked_total", &[]);
        assert_eq!(again, Some(1.0), "within a second the same page is told again");
    }

    #[tokio::test]
    async fn what_is_not_offered_is_refused() {
        let address = served().await;
        assert!(ask(address, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.0.starts_with("HTTP/1.1 404 "));
        let (head, _) = ask(address, "POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 405 ") && head.to_lowercase().contains("allow: get, head"), "{head}");
        assert!(ask(address, "EHLO me.example\r\n\r\n").await.0.starts_with("HTTP/1.1 400 "));
        let (head, body) = ask(address, "HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 ") && body.is_empty(), "{head}");
    }

    #[tokio::test]
    async fn a_head_without_end_is_refused() {
        let address = served().await;
        let long = format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(HEAD));
        assert!(ask(address, &long).await.0.starts_with("HTTP/1.1 431 "));
    }

    #[tokio::test]
    async fn the_silent_hold_their_places_for_a_while_only() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let bounds = Bounds { connections: 1, head_within: Duration::from_millis(300), ..BOUNDS };
        tokio::spawn(serve_within(listener, Asked(AtomicU64::new(0)), bounds));
        let began = Instant::now();
        let silent = TcpStream::connect(address).await.unwrap();
        let (head, _) = ask(address, &get("*/*")).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(began.elapsed() >= bounds.head_within, "there was no place before");
        drop(silent);
    }
}
