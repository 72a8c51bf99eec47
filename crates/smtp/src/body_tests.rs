use super::*;
use proptest::prelude::*;

/// Scans `wire` in the given chunks: passed bytes, bytes behind the end, whether it ended, fault.
fn scan(chunks: &[&[u8]]) -> (Vec<u8>, Vec<u8>, bool, Option<BareLineEnd>) {
    let mut scanner = DataScanner::new();
    let (mut passed, mut rest, mut ended) = (Vec::new(), Vec::new(), false);
    for chunk in chunks {
        if ended {
            rest.extend_from_slice(chunk);
            continue;
        }
        let found = scanner.scan(chunk);
        passed.extend_from_slice(found.lead);
        passed.extend_from_slice(found.pass);
        ended = found.end;
        rest.extend_from_slice(&chunk[found.taken..]);
    }
    (passed, rest, ended, scanner.fault())
}

fn decode(chunks: &[&[u8]]) -> (Vec<u8>, bool, Option<BareLineEnd>) {
    let mut decoder = DataDecoder::new();
    let mut out = Vec::new();
    let mut ended = false;
    for chunk in chunks {
        if !ended {
            ended = decoder.decode(chunk, &mut out).1;
        }
    }
    (out, ended, decoder.fault())
}

fn encode(content: &[u8], cut: usize) -> Result<Vec<u8>, BareLineEnd> {
    let mut encoder = DataEncoder::new();
    let mut out = Vec::new();
    for chunk in content.chunks(cut) {
        encoder.encode(chunk, &mut out)?;
    }
    encoder.finish(&mut out)?;
    Ok(out)
}

#[test]
fn the_legal_end_is_found_wherever_it_is_split() {
    let wire = b"..a\r\n.b\r\n\0\x85\x0b.\r\n.\r\nQUIT\r\n";
    let end = wire.len() - 6;
    for at in 0..=wire.len() {
        let (passed, rest, ended, fault) = scan(&[&wire[..at], &wire[at..]]);
        assert_eq!(
            (passed.as_slice(), rest.as_slice(), ended, fault),
            (&wire[..end], &b"QUIT\r\n"[..], true, None),
            "split at {at}"
        );
        assert_eq!(decode(&[&wire[..at], &wire[at..]]), (b".a\r\nb\r\n\0\x85\x0b.\r\n".to_vec(), true, None));
    }
    assert_eq!(decode(&[b".\r\n"]), (vec![], true, None));
    assert_eq!(decode(&[b"\r\n.\r\n"]), (b"\r\n".to_vec(), true, None));
}

#[test]
fn false_ends_are_faults_and_never_ends() {
    let ends: [(&[u8], BareLineEnd); 9] = [
        (b"a\n.\n", BareLineEnd::Lf),
        (b"a\n.\r\n", BareLineEnd::Lf),
        (b"a\r\n.\n", BareLineEnd::Lf),
        (b"a\r.\r", BareLineEnd::Cr),
        (b"a\r\n.\r", BareLineEnd::Cr),
        (b"a\r.\r\n", BareLineEnd::Cr),
        (b"a\r\n.\r\r\n", BareLineEnd::Cr),
        (b"a\r\r\n.\r\n", BareLineEnd::Cr),
        (b"\n", BareLineEnd::Lf),
    ];
    for (false_end, kind) in ends {
        let wire = [false_end, b"MAIL FROM:<evil@x>\r\n.\r\nNOOP\r\n"].concat();
        for cut in 1..wire.len() {
            let chunks: Vec<&[u8]> = wire.chunks(cut).collect();
            let (passed, rest, _, fault) = scan(&chunks);
            assert_eq!(fault, Some(kind), "{false_end:?}");
            assert!(!passed.windows(5).any(|w| w == b"\r\n.\r\n"));
            assert!(
                !passed.ends_with(b"\r") && LineEndCheck::new().check(&passed).is_ok(),
                "{passed:?} passed of {false_end:?}"
            );
            // `a CR CR LF . CR LF` ends legally behind its fault, all others at the second dot.
            assert!(rest == b"NOOP\r\n" || rest.starts_with(b"MAIL") && false_end == b"a\r\r\n.\r\n", "{rest:?}");
        }
    }
}

#[test]
fn encoding_stuffs_and_ends() {
    assert_eq!(encode(b".a\r\n..\r\nb", 99).unwrap(), b"..a\r\n...\r\nb\r\n.\r\n");
    assert_eq!(encode(b"", 1).unwrap(), b".\r\n");
    assert_eq!(encode(b"a\nb", 9), Err(BareLineEnd::Lf));
    assert_eq!(encode(b"a\rb", 1), Err(BareLineEnd::Cr));
    assert_eq!(encode(b"a\r", 1), Err(BareLineEnd::Cr));
    assert_eq!(encode(b"\n", 1), Err(BareLineEnd::Lf));
}

#[test]
fn bdat_counts() {
    let mut counter = BdatCounter::new(5);
    assert_eq!((counter.take(3), counter.left(), counter.is_done()), (3, 2, false));
    assert_eq!((counter.take(9), counter.is_done()), (2, true));
    assert!(BdatCounter::new(0).is_done());
}

fn line_soup() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => Just(b"\r\n".to_vec()),
        3 => Just(b".".to_vec()),
        3 => Just(b"text".to_vec()),
        1 => Just(b"\r".to_vec()),
        1 => Just(b"\n".to_vec()),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
    ];
    proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn scanning_never_depends_on_chunks(wire in line_soup(), cut in 1usize..7) {
        let chunks: Vec<&[u8]> = wire.chunks(cut).collect();
        let (passed, rest, ended, fault) = scan(&chunks);
        let whole = scan(&[&wire]);
        prop_assert_eq!((&rest, ended, fault), (&whole.1, whole.2, whole.3));
        prop_assert_eq!(passed, whole.0);
    }

    #[test]
    fn nothing_illegal_is_passed_on(wire in line_soup(), cut in 1usize..7) {
        let chunks: Vec<&[u8]> = wire.chunks(cut).collect();
        let (passed, _, ended, fault) = scan(&chunks);
        let mut check = LineEndCheck::new();
        prop_assert!(check.check(&passed).is_ok() && check.finish().is_ok());
        if fault.is_some() {
            prop_assert!(!passed.ends_with(b"\r\n.\r\n") && passed != b".\r\n");
        } else if ended {
            prop_assert!(passed.ends_with(b".\r\n"));
        }
    }

    #[test]
    fn content_survives_the_wire(content in line_soup(), cut in 1usize..7) {
        let legal = { let mut check = LineEndCheck::new(); check.check(&content).and(check.finish()) };
        match encode(&content, cut) {
            Err(_) => prop_assert!(legal.is_err()),
            Ok(wire) => {
                prop_assert!(legal.is_ok());
                let chunks: Vec<&[u8]> = wire.chunks(cut).collect();
                let (mut decoded, ended, fault) = decode(&chunks);
                prop_assert_eq!((ended, fault), (true, None));
                if !content.is_empty() && !content.ends_with(b"\r\n") {
                    decoded.truncate(decoded.len() - 2);
                }
                prop_assert_eq!(decoded, content);
            }
        }
    }
}

/// Lines as mail has them, long enough for whole blocks to be looked at at once, and something odd somewhere.
fn long_content() -> impl Strategy<Value = Vec<u8>> {
    let odd =
        prop_oneof![Just("\r"), Just("\n"), Just("."), Just("\r\n."), Just("\r\n..\r\n"), Just("\r\n.\r\n"), Just("x")];
    (proptest::collection::vec(1usize..90, 1..80), proptest::collection::vec((0usize..4_000, odd), 0..3)).prop_map(
        |(lines, odds)| {
            let mut wire: Vec<u8> =
                lines.iter().flat_map(|length| [&vec![b'a'; *length][..], b"\r\n"].concat()).collect();
            for (at, odd) in odds {
                let at = at % (wire.len() + 1);
                wire.splice(at..at, odd.bytes());
            }
            wire.extend_from_slice(b".\r\nQUIT\r\n");
            wire
        },
    )
}

proptest! {
    #[test]
    fn blocks_are_looked_at_as_bytes_are(wire in long_content(), cut in 65usize..3_000) {
        let bytes: Vec<&[u8]> = wire.chunks(1).collect();
        let blocks: Vec<&[u8]> = wire.chunks(cut).collect();
        prop_assert_eq!(scan(&blocks), scan(&bytes));
        prop_assert_eq!(scan(&[&wire]), scan(&bytes));
    }
}
