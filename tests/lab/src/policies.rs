//! MTA-STS policies (RFC 8461) over HTTPS: one host for all domains, told apart by the name that TLS is asked for.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::config::StsPolicy;
use crate::map::policy_host;

/// Longest head of a request that is read.
const MAX_HEAD: usize = 8 * 1024;
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves them until the lab ends.
pub async fn serve(policies: Vec<StsPolicy>, listener: TcpListener, tls: TlsAcceptor) {
    let policies = Arc::new(policies);
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (policies, tls) = (policies.clone(), tls.clone());
        tokio::spawn(async move {
            // Who goes away, or is too slow, misses its answer and nothing else.
            let _ = tokio::time::timeout(PATIENCE, answer(stream, tls, &policies)).await;
        });
    }
}

async fn answer(stream: TcpStream, tls: TlsAcceptor, policies: &[StsPolicy]) -> std::io::Result<()> {
    let mut stream = tls.accept(stream).await?;
    let name = stream.get_ref().1.server_name().unwrap_or_default().to_owned();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD {
        head.push(stream.read_u8().await?);
    }
    stream.write_all(response(policies, &name, &head).as_bytes()).await?;
    stream.shutdown().await
}

fn response(policies: &[StsPolicy], name: &str, head: &[u8]) -> String {
    let asked = head.starts_with(b"GET /.well-known/mta-sts.txt HTTP/1.1\r\n");
    let policy = policies.iter().find(|policy| asked && policy_host(&policy.domain) == name);
    let (status, text) = policy.map_or(("404 Not Found", ""), |policy| ("200 OK", policy.text.as_str()));
    let length = text.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_and_the_path_decide() {
        let policies = [StsPolicy { domain: "a.example".into(), text: "version: STSv1\n".into() }];
        let get = |name: &str, path: &str| response(&policies, name, format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes());
        let path = "/.well-known/mta-sts.txt";
        assert!(get("mta-sts.a.example", path).starts_with("HTTP/1.1 200 "));
        assert!(get("mta-sts.a.example", path).ends_with("\r\n\r\nversion: STSv1\n"));
        assert!(get("mta-sts.b.example", path).starts_with("HTTP/1.1 404 "));
        assert!(get("mta-sts.a.example", "/").starts_with("HTTP/1.1 404 "));
    }
}
