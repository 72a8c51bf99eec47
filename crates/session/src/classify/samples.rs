//! Replies as servers give them, with the addresses replaced by documentation ones.

use super::*;

/// Verb, code, text with the enhanced code in front where there is one, class, list.
const SAMPLES: &[(&str, u16, &str, Class, Option<&str>)] = &[
    // Taken.
    (".", 250, "2.0.0 Ok: queued as 4Xq8k01xwzz9s", Class::Delivered, None),
    (".", 250, "OK id=1qXyZa-0001Ab-2C", Class::Delivered, None),
    ("BDAT", 250, "2.0.0 OK 1700000000 d2e1a72fcca58-8273a0a5f0asi1 - gsmtp", Class::Delivered, None),
    ("RCPT", 250, "2.1.5 Ok", Class::Accepted, None),
    ("DATA", 354, "End data with <CR><LF>.<CR><LF>", Class::Accepted, None),
    // Unknown users, by server.
    (
        "RCPT",
        550,
        "5.1.1 <nobody@postfix.example>: Recipient address rejected: User unknown in local recipient table",
        Class::UnknownUser,
        None,
    ),
    ("RCPT", 550, "Unrouteable address", Class::UnknownUser, None),
    (
        "RCPT",
        550,
        "5.1.1 The email account that you tried to reach does not exist. Please try\n5.1.1 double-checking the recipient's email address for typos",
        Class::UnknownUser,
        None,
    ),
    ("RCPT", 550, "5.2.1 The email account that you tried to reach is disabled.", Class::UnknownUser, None),
    ("RCPT", 550, "5.5.0 Requested action not taken: mailbox unavailable (S2017062302).", Class::UnknownUser, None),
    ("RCPT", 554, "delivery error: dd This user doesn't have a yahoo.com account", Class::Other, None),
    (
        "RCPT",
        550,
        "5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup",
        Class::UnknownUser,
        None,
    ),
    ("RCPT", 550, "Requested action not taken: mailbox unavailable", Class::UnknownUser, None),
    ("RCPT", 550, "no mailbox here by that name", Class::UnknownUser, None),
    ("RCPT", 550, "5.1.1 <x@opensmtpd.example>: Recipient not found", Class::UnknownUser, None),
    // Greylisting.
    (
        "RCPT",
        450,
        "4.2.0 <x@a.example>: Recipient address rejected: Greylisted, see http://postgrey.schweikert.ch/help/a.example.html",
        Class::Greylisted,
        None,
    ),
    ("RCPT", 451, "4.7.1 Greylisting in action, please come back in 00:04:59", Class::Greylisted, None),
    ("RCPT", 451, "Resources temporarily unavailable. Please try again later. (greylisted)", Class::Greylisted, None),
    ("RCPT", 450, "4.7.1 Client host rejected: Graylisted, retry in 300 seconds", Class::Greylisted, None),
    // Pace.
    (
        ".",
        421,
        "4.7.28 Our system has detected an unusual rate of unsolicited mail originating\n4.7.28 from your IP address [203.0.113.10]. To protect our users from spam, mail\n4.7.28 sent from your IP address has been temporarily rate limited.",
        Class::RateLimited,
        None,
    ),
    (
        "MAIL",
        421,
        "4.7.0 [TSS04] Messages from 203.0.113.10 temporarily deferred due to unexpected volume or user complaints - 4.16.55.1",
        Class::RateLimited,
        None,
    ),
    (
        "RCPT",
        451,
        "4.7.650 The mail server [203.0.113.10] has been temporarily rate limited due to IP reputation.",
        Class::RateLimited,
        None,
    ),
    (
        "RCPT",
        451,
        "4.7.500 Server busy. Please try again later from [203.0.113.10]. (AS77712000)",
        Class::RateLimited,
        None,
    ),
    ("", 421, "4.7.0 a.example Error: too many connections from 203.0.113.10", Class::RateLimited, None),
    ("", 421, "Too many concurrent SMTP connections; please try again later", Class::RateLimited, None),
    (
        "RCPT",
        450,
        "4.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages",
        Class::RateLimited,
        None,
    ),
    // Lists.
    (
        "RCPT",
        554,
        "5.7.1 Service unavailable; Client host [203.0.113.10] blocked using zen.spamhaus.org; https://www.spamhaus.org/query/ip/203.0.113.10",
        Class::BlockListed,
        Some("spamhaus"),
    ),
    (
        "MAIL",
        550,
        "5.7.1 Unfortunately, messages from [203.0.113.10] weren't sent. Please contact your Internet service provider since part of their network is on our block list (S3140).",
        Class::BlockListed,
        Some("microsoft"),
    ),
    (
        "RCPT",
        550,
        "5.7.606 Access denied, banned sending IP [203.0.113.10]. To request removal from this list please visit https://sender.office.com/",
        Class::BlockListed,
        Some("microsoft"),
    ),
    (
        "MAIL",
        553,
        "5.7.1 [BL21] Connections will not be accepted from 203.0.113.10, because the ip is in Spamhaus's list",
        Class::BlockListed,
        Some("spamhaus"),
    ),
    (
        "",
        554,
        "IP=203.0.113.10 - A problem occurred. Ask your postmaster for help or to contact tosa@rx.t-online.de to clarify.",
        Class::BlockListed,
        Some("t-online"),
    ),
    (
        "RCPT",
        550,
        "Rejected because 203.0.113.10 is in a black list at bl.spamcop.net",
        Class::BlockListed,
        Some("spamcop"),
    ),
    (
        "",
        554,
        "Service unavailable; Client host [203.0.113.10] blocked using b.barracudacentral.org",
        Class::BlockListed,
        Some("barracuda"),
    ),
    ("", 554, "Blocked - see https://ipcheck.proofpoint.com/?ip=203.0.113.10", Class::BlockListed, Some("proofpoint")),
    (
        "RCPT",
        550,
        "5.7.1 Mail from 203.0.113.10 refused, see RBL server dnsbl-1.uceprotect.net",
        Class::BlockListed,
        Some("uceprotect"),
    ),
    (
        ".",
        550,
        "5.7.1 [203.0.113.10] Our system has detected that this message is likely suspicious due to the very low reputation of the sending IP address.",
        Class::BlockListed,
        Some("google"),
    ),
    // Policy.
    (
        ".",
        550,
        "5.7.26 This mail has been blocked because the sender is unauthenticated. Gmail requires all senders to authenticate with either SPF or DKIM.",
        Class::Policy,
        None,
    ),
    (
        ".",
        550,
        "5.7.1 Unauthenticated email from a.example is not accepted due to domain's DMARC policy.",
        Class::Policy,
        None,
    ),
    ("RCPT", 554, "5.7.1 <x@b.example>: Relay access denied", Class::Policy, None),
    ("RCPT", 550, "relay not permitted", Class::Policy, None),
    ("RCPT", 450, "4.7.25 Client host rejected: cannot find your hostname, [203.0.113.10]", Class::BlockListed, None),
    ("EHLO", 550, "5.7.1 Helo command rejected: need fully-qualified hostname", Class::Policy, None),
    ("MAIL", 552, "5.3.4 Message size exceeds fixed limit", Class::Policy, None),
    ("RCPT", 452, "4.5.3 Error: too many recipients", Class::Policy, None),
    (
        "MAIL",
        554,
        "Transaction failed\nReject due to policy restrictions.\nFor explanation visit https://postmaster.gmx.net/",
        Class::Policy,
        None,
    ),
    // Content.
    (
        ".",
        550,
        "5.7.1 Our system has detected that this message is likely unsolicited mail. To reduce the amount of spam sent to Gmail, this message has been blocked.",
        Class::Content,
        None,
    ),
    (".", 554, "5.7.1 Spam message rejected", Class::Content, None),
    (".", 550, "This message contains malware (Win.Test.EICAR_HDB-1)", Class::Content, None),
    (".", 550, "5.6.11 bare newline", Class::Other, None),
    // TLS.
    ("MAIL", 530, "5.7.0 Must issue a STARTTLS command first", Class::Tls, None),
    ("STARTTLS", 454, "4.7.0 TLS not available due to local problem", Class::Tls, None),
    ("STARTTLS", 454, "TLS currently unavailable", Class::Tls, None),
    ("MAIL", 451, "5.7.10 Encryption needed", Class::Tls, None),
    // The rest.
    (".", 421, "4.4.2 mx.a.example Error: timeout exceeded", Class::Network, None),
    ("DATA", 421, "mx.a.example: SMTP command timeout - closing connection", Class::Network, None),
    ("RCPT", 451, "4.3.0 Temporary lookup failure", Class::Other, None),
    ("RCPT", 452, "4.2.2 The recipient's inbox is out of storage space.", Class::Other, None),
    ("MAIL", 503, "5.5.1 Error: nested MAIL command", Class::Other, None),
    ("EHLO", 220, "tarpit.example ESMTP", Class::Accepted, None),
];

/// The enhanced code in front of a reply's text.
fn enhanced(text: &str) -> Option<&str> {
    crate::log::enhanced(text)
}

#[test]
fn replies_of_the_real_world_are_told_apart() {
    let mut wrong = Vec::new();
    for &(verb, code, text, class, list) in SAMPLES {
        let verdict = classify(&Said { verb, code, enhanced: enhanced(text), text });
        if (verdict.class, verdict.list.as_deref()) != (class, list) {
            wrong.push(format!(
                "{verb} {code} {text}\n   expected {class} {list:?}, got {} {:?}",
                verdict.class, verdict.list
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn words_inside_other_words_do_not_count() {
    let said = |text| classify(&Said { verb: "RCPT", code: 450, enhanced: None, text }).class;
    assert_eq!(said("gorblimey.example is not known here"), Class::Other);
    assert_eq!(said("see our RBL"), Class::BlockListed);
}

#[test]
fn any_reply_has_a_class() {
    for code in [0, 100, 199, 400, 600, u16::MAX] {
        assert_eq!(classify(&Said { verb: "", code, enhanced: Some("x"), text: "\u{1b}[2J İ" }).class, Class::Other);
    }
}

#[test]
fn a_class_has_one_name_everywhere() {
    for class in Class::ALL {
        assert_eq!(serde_json::to_value(class).unwrap(), class.name());
    }
}
