//! Lines are the same however the bytes are cut, and hold no line end and no NUL.
use warren_smtp::line::{LineBuffer, LineError};

const MAX: usize = 64;

fn lines(wire: &[u8], piece: usize) -> Vec<Result<Vec<u8>, LineError>> {
    let mut buffer = LineBuffer::new(MAX);
    let mut out = Vec::new();
    for piece in wire.chunks(piece) {
        buffer.push(piece);
        out.extend(std::iter::from_fn(|| buffer.next_line()));
        assert!(buffer.len() <= MAX + piece.len(), "bounded");
    }
    out
}

pub fn run(data: &[u8]) {
    let Some((piece, wire)) = data.split_first() else { return };
    let whole = lines(wire, usize::MAX);
    assert_eq!(lines(wire, usize::from(*piece).max(1)), whole);
    for line in whole.into_iter().flatten() {
        assert!(line.len() <= MAX - 2 && !line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
    }
}
