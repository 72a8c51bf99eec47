//! Big sites, whose words mean what they chose them to mean.

use super::{About, Class, Rule, When, listed, words};
use About::{Content as OfContent, Egress, Recipient, Sender, Session, Unclear};
use Class::{
    Authentication, BlockListed, Content, Greylisted, MailboxFull, Policy, RateLimited, Relay, Tls, UnknownUser,
};
use When::{AfterContent, Always, Permanent, RcptPermanent, Temporary};

/// By site.
pub(in crate::classify) const SITES: &[Rule] = &[
    // Gmail.
    words(
        "gmail-unauthenticated",
        Always,
        Authentication,
        Sender,
        &["because it is unauthenticated", "spf authentication didn't pass", "dkim authentication didn't pass"],
    ),
    words("gmail-no-tls", Always, Tls, Session, &["wasn't sent over a tls", "not sent over a tls"]),
    words("gmail-domain-rate", Temporary, RateLimited, Sender, &["your spf domain", "your dkim domain"]),
    words("gmail-address-rate", Temporary, RateLimited, Egress, &["unusual rate of"]),
    words("gmail-mailbox-rate", Temporary, RateLimited, Recipient, &["receiving mail at a rate"]),
    words("gmail-try-later", Temporary, RateLimited, Unclear, &["try again later, closing connection"]),
    listed("gmail-address-reputation", "google", &["low reputation of the sending ip"]),
    Rule {
        name: "gmail-domain-reputation",
        when: Always,
        words: &["low reputation of the sending domain"],
        status: &[],
        list: Some("google"),
        class: BlockListed,
        about: Sender,
    },
    words("gmail-user-policy", Always, Policy, Unclear, &["has a policy that prohibited the mail"]),
    words("gmail-message-id", Always, Content, OfContent, &["messages missing a valid messageid"]),
    // Outlook.com, Exchange Online, Exchange.
    words("outlook-limits", Always, RateLimited, Egress, &["we have limits for how many messages"]),
    listed(
        "outlook-address",
        "microsoft",
        &[
            "(s3140)",
            "(s3150)",
            "banned sending ip",
            "banned sender[",
            "traffic not accepted from this ip",
            "delist@microsoft",
            "delist@messaging.microsoft",
        ],
    ),
    Rule {
        name: "outlook-sender",
        when: Always,
        words: &["spam abuse detected", "access denied, banned sender"],
        status: &[],
        list: Some("microsoft"),
        class: BlockListed,
        about: Sender,
    },
    words("outlook-directory", RcptPermanent, UnknownUser, Recipient, &["access denied. as(2018"]),
    words("outlook-mailbox-busy", Temporary, RateLimited, Recipient, &["recipient thread limit exceeded"]),
    words("outlook-busy", Temporary, RateLimited, Egress, &["access denied, please try again later", "server busy"]),
    words("exchange-restriction", Always, Policy, Recipient, &["resolver.rst."]),
    words("exchange-rule", Always, Policy, Unclear, &["transport.rules."]),
    words(
        "exchange-authentication",
        Always,
        Authentication,
        Sender,
        &["required authentication level", "does not pass dmarc"],
    ),
    words(
        "exchange-relay",
        Always,
        Relay,
        Unclear,
        &["does not have permissions to submit", "unable to relay", "tenantattribution"],
    ),
    // Yahoo and AOL.
    listed("yahoo-address", "yahoo", &["will be permanently deferred"]),
    words("yahoo-greylisting", Temporary, Greylisted, Unclear, &["[gl01]"]),
    words(
        "yahoo-complaints",
        Temporary,
        RateLimited,
        Egress,
        &["[ts01]", "[ts02]", "[tss04]", "[tss05]", "user complaints"],
    ),
    words("yahoo-deferred", Temporary, RateLimited, Unclear, &["message temporarily deferred"]),
    words("yahoo-content", Always, Content, OfContent, &["[ph01]"]),
    words("yahoo-mailbox", Permanent, UnknownUser, Recipient, &["this user doesn't have a", "mailbox is disabled"]),
    listed("aol-address", "aol", &["(rtr:", "(con:"]),
    words("aol-rate", Always, RateLimited, Egress, &["(dyn:"]),
    // iCloud.
    words("icloud-content", AfterContent, Content, OfContent, &["rejected due to local policy"]),
    // Cisco.
    listed("cisco-reputation", "cisco", &["sending mta's poor reputation", "your access to submit messages to this"]),
    words("cisco-recipient", RcptPermanent, UnknownUser, Recipient, &["#5.1.0 address rejected"]),
    words("cisco-hourly", Always, RateLimited, Egress, &["too many recipients received"]),
    // Mimecast.
    listed("mimecast-reputation", "mimecast", &["ct ip reputation", "ip temporarily blacklisted"]),
    words("mimecast-greylisting", Temporary, Greylisted, Unclear, &["internal resources are temporarily"]),
    words(
        "mimecast-authentication",
        Always,
        Authentication,
        Sender,
        &["spf sender invalid", "dkim sender invalid", "dmarc sender invalid", "anti-spoofing policy"],
    ),
    words("mimecast-sender", Always, Policy, Sender, &["envelope blocked", "envelope rejected"]),
    words("mimecast-account", Temporary, RateLimited, Unclear, &["account service is temporarily"]),
    words("mimecast-content", Always, Content, OfContent, &["rejected due to security policies"]),
    // Barracuda. What the server behind it said stands in the parentheses.
    words("barracuda-content", AfterContent, Content, OfContent, &[":blocked)"]),
    // Carriers of Japan.
    words("docomo-full", Permanent, MailboxFull, Recipient, &["too much mail data"]),
    // Germany.
    listed("gmx-address", "gmx", &["ip address is block listed", "ip address is blacklisted"]),
    words("gmx-content", AfterContent, Content, OfContent, &["reject due to policy restrictions"]),
    listed("t-online-address", "t-online", &["tosa@rx.t-online.de"]),
    // Russia, China.
    listed("mail.ru-address", "mail.ru", &["access from ip address"]),
    words("yandex-greylisting", Temporary, Greylisted, Unclear, &["sorry, the service is currently unavailable"]),
    words("qq-rate", Always, RateLimited, Egress, &["ip frequency limited", "connection frequency limited"]),
    words("qq-domain-rate", Always, RateLimited, Sender, &["domain frequency limited"]),
    listed("qq-address", "tencent", &["suspected spam ip"]),
    words("qq-recipient", Always, Policy, Recipient, &["rejected by recipients"]),
    words("netease-content", Always, Content, OfContent, &["dt:spm"]),
    // Elsewhere.
    listed("comcast-address", "comcast", &["comcast block", "found on one or more dnsbls"]),
    words("comcast-rate", Temporary, RateLimited, Egress, &["rl00000"]),
    listed("att-address", "att", &["abuse_rbl@abuse-att"]),
    listed("cox-address", "cox", &["cxbl"]),
    words("orange-rate", Temporary, RateLimited, Egress, &["ofr004_10", "ofr_005_10"]),
    words("orange-content", Always, Content, OfContent, &["ofr_506"]),
    listed("earthlink-address", "earthlink", &["blockedbyearthlink"]),
    listed("messagelabs-address", "messagelabs", &["connection rejected by policy [7.7]"]),
    words("free-rate", Temporary, RateLimited, Egress, &["too many errors from your ip"]),
];
