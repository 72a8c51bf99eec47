//! Content is the same before and after the wire, and what is passed on holds no bare line end, however it is cut.
use warren_smtp::body::{DataDecoder, DataEncoder, DataScanner};

/// What is passed on of the first message on the wire, and whether it ended there.
fn scan(wire: &[u8], piece: usize) -> (Vec<u8>, bool) {
    let (mut scanner, mut out) = (DataScanner::new(), Vec::new());
    for piece in wire.chunks(piece) {
        let scan = scanner.scan(piece);
        out.extend_from_slice(scan.lead);
        out.extend_from_slice(scan.pass);
        if scan.end {
            return (out, scanner.fault().is_none());
        }
    }
    (out, false)
}

pub fn run(data: &[u8]) {
    let Some((piece, bytes)) = data.split_first() else { return };
    let piece = usize::from(*piece).max(1);
    let (passed, ended) = scan(bytes, usize::MAX);
    assert_eq!(scan(bytes, piece), (passed.clone(), ended));
    for (at, byte) in passed.iter().enumerate() {
        match byte {
            b'\n' => assert_eq!(passed.get(at.wrapping_sub(1)), Some(&b'\r')),
            b'\r' => assert_eq!(passed.get(at + 1), Some(&b'\n')),
            _ => {}
        }
    }
    assert!(!ended || passed == b".\r\n" || passed.ends_with(b"\r\n.\r\n"));

    let (mut encoder, mut wire) = (DataEncoder::new(), Vec::new());
    let encoded = bytes.chunks(piece).try_for_each(|piece| encoder.encode(piece, &mut wire));
    if encoded.and_then(|()| encoder.finish(&mut wire)).is_ok() {
        let (mut decoder, mut content) = (DataDecoder::new(), Vec::new());
        assert_eq!(decoder.decode(&wire, &mut content), (wire.len(), true));
        assert!(content == bytes || content == [bytes, b"\r\n"].concat());
    }
}
