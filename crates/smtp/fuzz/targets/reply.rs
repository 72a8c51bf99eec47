//! Whatever a server says is one well-formed reply when it is passed on, or an error.
use warren_smtp::reply::{Reply, ReplyParser};

/// Lines up to this length are not cut.
const WHOLE: usize = 480;

fn parse(wire: &[u8]) -> Vec<Reply> {
    let mut parser = ReplyParser::new();
    parser.push(wire);
    std::iter::from_fn(|| parser.next_reply().ok().flatten()).collect()
}

pub fn run(wire: &[u8]) {
    for reply in parse(wire) {
        let written = reply.to_bytes();
        let again = parse(&written);
        assert_eq!(again.len(), 1, "{reply:?} becomes {again:?}");
        assert_eq!(again[0].code, reply.code);
        if reply.lines.iter().all(|line| line.len() <= WHOLE) {
            assert_eq!(again[0], reply);
        }
        assert!(
            written.split_inclusive(|byte| *byte == b'\n').all(|line| line.len() <= 512 && line.ends_with(b"\r\n"))
        );
    }
}
