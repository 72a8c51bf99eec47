//! Real mails of many kinds go through both entrances with their bodies untouched.

use super::harness::{Mx, Node, World};
use crate::mail::author::authors;
use crate::mail::header::{HeaderReader, Split};
use crate::testing::settings;
use std::path::Path;
use std::sync::Arc;

/// CPython's test data, from Debian's `libpython3.11-testsuite`.
const MAILS: &str = "/usr/lib/python3.11/test/test_email/data";

fn mails() -> Vec<(String, Vec<u8>)> {
    let Ok(directory) = std::fs::read_dir(Path::new(MAILS)) else {
        println!("skipped: {MAILS} is missing; apt-get install libpython3.11-testsuite");
        return Vec::new();
    };
    let paths =
        directory.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|kind| kind == "txt"));
    let mut mails: Vec<_> =
        paths.map(|path| (path.display().to_string(), crlf(&std::fs::read(&path).unwrap()))).collect();
    mails.sort();
    assert!(mails.len() > 40, "{} mails", mails.len());
    mails
}

/// As a mail program would send it: every line end a CRLF.
fn crlf(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 30);
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\r' if bytes.peek() == Some(&b'\n') => {}
            b'\r' | b'\n' => out.extend_from_slice(b"\r\n"),
            byte => out.push(byte),
        }
    }
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out
}

fn split(mail: &[u8]) -> Split {
    let mut reader = HeaderReader::default();
    reader.push(mail).unwrap().unwrap_or_else(|| reader.finish().unwrap())
}

#[tokio::test]
async fn relayed_as_they_are() {
    let (volume, world, mx) = (tempfile::tempdir().unwrap(), Arc::new(World::default()), Mx::willing().await);
    world.domain("x.example", &mx);
    let node = Node::start(volume.path(), &world, settings()).await;
    let mut client = node.receiver().await;
    for (count, (name, mail)) in mails().into_iter().enumerate() {
        let reply = client.send("<a@y.example>", &["<bob@x.example>"], &mail).await;
        assert!(reply.starts_with("250 "), "{name}: {reply}");
        let taken = mx.wait_for(count + 1).await.remove(count);
        let added = taken.content.len() - mail.len();
        if taken.content.ends_with(&mail) {
            assert!(
                taken.content[..added].starts_with(b"Received: ") && taken.content[..added].ends_with(b"\r\n"),
                "{name}"
            );
        } else {
            // A header section that did not end in an empty line got one; nothing else changed.
            let Split { header, rest } = split(&mail);
            assert_eq!(rest.len() + header.bytes().len(), mail.len() + 2, "{name}");
            assert!(taken.content.ends_with(&[header.bytes(), rest].concat()), "{name}");
        }
    }
}

#[tokio::test]
async fn submitted_with_their_bodies_untouched() {
    let (volume, world, mx) = (tempfile::tempdir().unwrap(), Arc::new(World::default()), Mx::willing().await);
    world.domain("x.example", &mx);
    let mut settings = settings();
    let mails = mails();
    // Everybody who wrote one of them has this account.
    let all = mails
        .iter()
        .filter_map(|(_, mail)| authors(&split(mail).header).ok())
        .flatten()
        .map(|author| author.to_string());
    settings.accounts.get_mut("alice@acme.example").unwrap().extend(all);
    let node = Node::start(volume.path(), &world, settings).await;
    let (mut sent, mut refused) = (0, 0);
    for (name, mail) in mails {
        let reply = node.alice().await.send("<alice@acme.example>", &["<bob@x.example>"], &mail).await;
        let Split { header, rest } = split(&mail);
        if authors(&header).is_err() {
            refused += 1;
            assert!(reply.starts_with("550 5.7.1 "), "{name}: {reply}");
            continue;
        }
        assert!(reply.starts_with("250 "), "{name}: {reply}");
        sent += 1;
        let taken = mx.wait_for(sent).await.remove(sent - 1);
        let arrived = split(&taken.content);
        assert_eq!(arrived.rest, rest, "{name}");
        for field in ["Received", "Date", "Message-ID", "From"] {
            assert!(arrived.header.has(field), "{name}: {field}");
        }
        // What was there is there still, in its order.
        let kept: Vec<_> = header.fields().iter().filter(|field| !field.is("Bcc")).collect();
        assert!(arrived.header.fields().iter().rev().zip(kept.iter().rev()).all(|(now, then)| now == *then), "{name}");
    }
    println!("{sent} sent, {refused} refused for their authors");
    assert!(refused * 4 <= sent, "most real mail has readable authors");
}
