//! A session that ends here is the same however the bytes are cut, unless somebody talks before it is his turn; a chunk's content comes whole or not at all, and is never a command.

use warren_smtp::Reply;
use warren_smtp::ehlo::Extensions;
use warren_smtp::server::{Event, Server, ServerConfig, Transfer};

/// Everything that is told of a session whose every command is accepted, with content in one piece, and everything that is answered.
fn play(wire: &[u8], piece: usize) -> (Vec<String>, Vec<u8>) {
    let extensions =
        Extensions { pipelining: true, chunking: true, binarymime: true, size: Some(4096), ..Extensions::default() };
    let mut server = Server::new(ServerConfig::new("mx.example", extensions));
    let (mut told, mut answers, mut content, mut kind) = (Vec::new(), Vec::new(), Vec::new(), Transfer::Data);
    let mut pieces = wire.chunks(piece);
    loop {
        while let Some(event) = server.next_event() {
            let wants_answer = event.wants_answer();
            match event {
                Event::Content(bytes) => content.extend(bytes),
                Event::ContentStart(transfer) => {
                    // The chunks of a message are one content.
                    kind = transfer;
                    told.push("content".to_owned());
                }
                Event::ContentEnd => {
                    assert!(content.len() <= 4096, "more than was offered: {}", content.len());
                    let text = std::mem::take(&mut content);
                    if kind == Transfer::Data {
                        assert!(bare_line_end(&text).is_none(), "{text:?}");
                    }
                    told.push(format!("{text:?}"));
                }
                // How much came before does not matter, and depends on the cut.
                Event::ContentAborted(why) => {
                    content.clear();
                    told.push(format!("{why:?}"));
                }
                other => told.push(format!("{other:?}")),
            }
            if wants_answer {
                match told.last().map(String::as_str) {
                    Some(event) if event.starts_with("StartTls") || event.starts_with("Auth") => {
                        server.reply(Reply::new(454, (4, 7, 0), "not now"));
                    }
                    _ => server.accept(),
                }
            }
            answers.extend(server.take_output());
        }
        answers.extend(server.take_output());
        match pieces.next() {
            Some(piece) if !server.is_closed() => server.receive(piece),
            _ => return (told, answers),
        }
    }
}

fn bare_line_end(text: &[u8]) -> Option<usize> {
    (0..text.len()).find(|at| match text[*at] {
        b'\n' => *at == 0 || text[at - 1] != b'\r',
        b'\r' => text.get(at + 1) != Some(&b'\n'),
        _ => false,
    })
}

pub fn run(data: &[u8]) {
    let Some((piece, wire)) = data.split_first() else { return };
    // Byte by byte nobody talks too early.
    let (reference, answers) = play(wire, 1);
    let (told, answered) = play(wire, usize::from(*piece).max(1) * 16);
    match told.split_last() {
        Some((last, before)) if last == "Closed(EarlyTalk)" => assert!(reference.starts_with(before), "{told:?}"),
        _ => assert_eq!((told, answered), (reference, answers)),
    }
}
