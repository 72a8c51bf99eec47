use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> Result<Mailbox, AddressError> {
    text.parse()
}

#[test]
fn legal_forms_mean_what_they_say() {
    for (text, local, shown) in [
        ("a.b+c@x.example", "a.b+c", "a.b+c@x.example"),
        ("\"a.b\"@x.example", "a.b", "a.b@x.example"),
        ("\"a b\\\"c\\\\\"@x.example", "a b\"c\\", "\"a b\\\"c\\\\\"@x.example"),
        ("\"\"@x.example", "", "\"\"@x.example"),
        ("u@[192.0.2.1]", "u", "u@[192.0.2.1]"),
        ("u@[IPv6:2001:db8::1]", "u", "u@[IPv6:2001:db8::1]"),
        ("дмитрий@почта.example", "дмитрий", "дмитрий@почта.example"),
        ("u@a_b.example", "u", "u@a_b.example"),
    ] {
        let mailbox = parse(text).unwrap();
        assert_eq!((mailbox.local(), mailbox.to_string().as_str()), (local, shown), "{text}");
    }
    assert_eq!(parse("u@X.Example").unwrap(), parse("u@x.eXAMPLE").unwrap());
    assert_ne!(parse("U@x.example").unwrap(), parse("u@x.example").unwrap());
}

#[test]
fn illegal_forms_are_refused() {
    for text in [
        "",
        "u",
        "u@",
        "@x.example",
        "u@x..example",
        "u@.example",
        "u@x.example.",
        "u..v@x.example",
        ".u@x.example",
        "u@-x.example",
        "u@[1.2.3]",
        "u@1.2.3.4",
        "u@x.example ",
        "u v@x.example",
        "u@x.exam\u{202e}ple",
        "u\u{7f}@x.example",
        "\"u@x.example",
        "\"u\"v@x.example",
        "u@x.example@y.example",
        "u\u{ff20}y.example",
        "u@x。example",
        "u@x．example",
        "u@\u{212a}elvin.example",
        "<u@x.example>",
        "u@x/y",
        "u@$(id).example",
        "\"a\u{1b}b\"@x.example",
        "u\u{a0}@x.example",
    ] {
        assert!(parse(text).is_err(), "{text:?} was accepted");
    }
    assert_eq!(parse("@a.example,@b.example:u@c.example"), Err(AddressError::SourceRoute));
    assert_eq!(parse(&format!("{}@x.example", "u".repeat(257))), Err(AddressError::TooLong));
    assert!(parse(&format!("{}@x.example", "u".repeat(256))).is_ok());
    assert!(parse(&format!("u@{}.example", "x".repeat(64))).is_err());
}

#[test]
fn relay_forms_are_recognised() {
    for text in [
        "a%b.example@x.example",
        "b.example!a@x.example",
        "\"a@b.example\"@x.example",
        "|id@x.example",
        "/etc@x.example",
    ] {
        assert!(parse(text).unwrap().is_relay_form(), "{text}");
    }
    assert!(!parse("a.b+c=d@x.example").unwrap().is_relay_form());
}

#[test]
fn paths() {
    assert_eq!("".parse(), Ok(ReversePath::Null));
    assert_eq!("PostMaster".parse(), Ok(ForwardPath::Postmaster));
    assert_eq!("a@b.example".parse::<ForwardPath>().unwrap().to_string(), "a@b.example");
    assert_eq!(parse("A@B.Example").unwrap().to_key(), "A@b.example");
}

proptest! {
    #[test]
    fn shown_text_parses_to_the_same_value(local in "[ -~äλ]{0,40}", domain in "[a-z]{1,9}(\\.[a-z]{2,9}){1,3}") {
        let mailbox = Mailbox::new(&local, domain.parse().unwrap()).unwrap();
        prop_assert_eq!(mailbox.to_string().parse::<Mailbox>().unwrap(), mailbox);
    }

    #[test]
    fn domains_are_equal_as_they_are_ordered(one in "[aAkK\u{212a}\u{e5}\u{c5}\u{212b}i\u{130}\u{131}]{1,2}\\.x", other in "[aAkK\u{212a}\u{e5}\u{c5}\u{212b}i\u{130}\u{131}]{1,2}\\.x") {
        if let (Ok(one), Ok(other)) = (Domain::new(&one), Domain::new(&other)) {
            prop_assert_eq!(one == other, other == one);
            prop_assert_eq!(one == other, one.cmp(&other).is_eq());
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,80}") {
        if let Ok(mailbox) = text.parse::<Mailbox>() {
            prop_assert_eq!(mailbox.to_string().parse::<Mailbox>().unwrap(), mailbox);
        }
    }
}
