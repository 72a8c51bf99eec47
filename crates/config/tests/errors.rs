//! What a broken configuration is told, word for word; and what a good one means.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use warren_config::{Deadlines, Directory, Dnssec, Node, Problems, Rates, Recipient, Reuse, TenantName, TlsPolicy};
use warren_launcher_api::CellId;

const NODE: &str = "hostname = \"mail.example.net\"\n[egress]\naddresses = [\"203.0.113.10\"]\n";
const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNo";

/// A configuration directory with these files.
fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("tenants")).unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text.replace("HASH", HASH)).unwrap();
    }
    directory
}

/// The problems, with paths relative to the directory.
fn told(directory: &Path, problems: &Problems) -> String {
    problems.to_string().replace(&format!("{}/", directory.display()), "")
}

fn node_error(text: &str) -> String {
    let directory = directory(&[("warren.toml", text)]);
    told(directory.path(), &Node::load(directory.path()).unwrap_err())
}

fn tenants_error(tenants: &[(&str, &str)]) -> String {
    let directory = directory(tenants);
    fs::write(directory.path().join("warren.toml"), NODE).unwrap();
    let node = Node::load(directory.path()).unwrap();
    told(directory.path(), &Directory::load(directory.path(), &node).unwrap_err())
}

fn load(tenants: &[(&str, &str)]) -> Directory {
    let directory = directory(tenants);
    fs::write(directory.path().join("warren.toml"), NODE).unwrap();
    let node = Node::load(directory.path()).unwrap();
    Directory::load(directory.path(), &node).unwrap()
}

#[test]
fn reuse_has_bounds() {
    let text = node_error(&format!("{NODE}[proxy.reuse]\nidle = \"61s\"\nmessages = 0\n"));
    assert!(text.contains("warren.toml:5") && text.contains("\"61s\" is out of bounds"), "{text}");
    assert!(text.contains("warren.toml:6") && text.contains('0'), "{text}");
}

#[test]
fn the_least_node_has_every_default() {
    let directory = directory(&[("warren.toml", NODE)]);
    let node = Node::load(directory.path()).unwrap();
    assert_eq!(node.listen.submission, ["0.0.0.0:587".parse().unwrap()]);
    assert_eq!(node.fleet.idle, Duration::from_secs(30));
    assert_eq!(node.proxy.keep_sessions, Some(Duration::from_secs(90 * 86_400)));
    assert_eq!(node.paths.launcher_socket(), Path::new("/run/warren/launcher.sock"));
    assert_eq!(node.receiver_addresses(), node.egress.addresses);
}

#[test]
fn every_setting_can_be_set() {
    let text = r#"
hostname = "MAIL.example.net"
[egress]
addresses = ["203.0.113.10", "2001:db8::10"]
allow_networks = ["198.51.100.0/24"]
receiver = ["203.0.113.10"]
max_sessions = 10
max_sessions_per_tenant = 5
[listen]
submission = ["203.0.113.10:587"]
submissions = []
smtp = ["203.0.113.10:25"]
[tls]
certificate = "/etc/ssl/mail.pem"
key = "/etc/ssl/mail.key"
[resolver]
nameservers = ["198.51.100.53", "[2001:db8::53]:5353"]
dnssec = "require"
trust_anchors = "/etc/warren/anchors"
[fleet]
idle = "2s"
slots = 0
start_deadline = "5s"
[submission]
remember_passwords = "0s"
[limits]
message_size = "10M"
recipients = 100
hops = 50
connections = 10
connections_per_address = 2
messages_per_hour = 40
recipients_per_hour = 400
account_messages_per_hour = 10
account_recipients_per_hour = 100
memory = "64M"
pids = 16
cpu_weight = 50
file_size = "64M"
open_files = 256
volume_size = "200M"
[retry]
first = "1s"
factor_percent = 200
max = "10s"
expire = "1h"
[cgroup]
name = "warren-a"
[users]
platform = "p"
proxy = "x"
resolver = "r"
receiver = "v"
[paths]
state = "/tmp/s"
run = "/tmp/r"
images = "/tmp/i"
[proxy]
connect_timeout = "5s"
keep_sessions = "30d"
tls = "verify"
ca_file = "/etc/warren/roots.pem"
[[proxy.tls_rules]]
domains = ["Bank.example", "*.bank.example"]
policy = "require"
[proxy.timeouts]
greeting = "90s"
end_of_data = "20m"
[proxy.reuse]
idle = "500ms"
messages = 5
[proxy.standalone]
listen = ["127.0.0.1:10025"]
mode = "tproxy"
tenants = { "10.0.0.5" = "acme" }
certificate = "/etc/warren/proxy.pem"
key = "/etc/warren/proxy.key"
require_tls = true
resolver = { "127.0.0.1:53" = "acme" }
"#;
    let directory = directory(&[("warren.toml", text)]);
    let node = Node::load(directory.path()).unwrap();
    assert_eq!(node.hostname, "mail.example.net");
    assert_eq!((node.limits.container.memory_bytes, node.limits.container.volume_bytes), (64 << 20, 200 << 20));
    let timeouts = Deadlines {
        greeting: Duration::from_secs(90),
        end_of_data: Duration::from_secs(1_200),
        ..Deadlines::default()
    };
    assert_eq!(node.proxy.timeouts, timeouts);
    assert_eq!(node.proxy.reuse, Reuse { idle: Duration::from_millis(500), messages: 5 });
    let expected = Rates { messages: 40, recipients: 400, account_messages: 10, account_recipients: 100 };
    assert_eq!(node.limits.rates, expected);
    assert_eq!(node.resolver.nameservers[1].port(), 5353);
    assert_eq!(node.proxy.keep_sessions, Some(Duration::from_secs(30 * 86_400)));
    let rules = &node.proxy.tls_rules;
    assert_eq!((rules.len(), rules[0].policy), (1, TlsPolicy::Require));
    assert_eq!(rules[0].domains, ["bank.example", "*.bank.example"]);
    assert_eq!(node.proxy.ca_file.as_deref(), Some(Path::new("/etc/warren/roots.pem")));
    assert_eq!(node.resolver.dnssec, Dnssec::Require);
    assert_eq!(node.resolver.trust_anchors.as_deref(), Some(Path::new("/etc/warren/anchors")));
    let standalone = node.proxy.standalone.unwrap();
    assert_eq!(standalone.tenants.len(), 1);
    assert_eq!(standalone.cell(&TenantName::new("acme").unwrap()), Some(CellId(0)));
    assert_eq!(standalone.cell(&TenantName::new("other").unwrap()), None);
    let tls = standalone.tls.unwrap();
    assert_eq!((tls.files.key.as_path(), tls.required), (Path::new("/etc/warren/proxy.key"), true));
    assert!(node.listen.submissions.is_empty());
}

#[test]
fn sessions_are_kept_for_ever_if_wanted_and_never_for_no_time() {
    let with = |keep: &str| format!("{NODE}[proxy]\nkeep_sessions = \"{keep}\"\n");
    let directory = directory(&[("warren.toml", &with("forever"))]);
    assert_eq!(Node::load(directory.path()).unwrap().proxy.keep_sessions, None);
    for wrong in ["0s", "59m", "always", ""] {
        let expected = "expected one hour or more such as \"90d\", or \"forever\"";
        assert_eq!(
            node_error(&with(wrong)),
            format!("warren.toml:5:17: {wrong:?} is not how long to keep sessions, {expected}")
        );
    }
}

#[test]
fn a_tenant_may_have_limits_of_its_own() {
    let file = "domains = [\"acme.example\"]\n[limits]\naccount_messages_per_hour = 9\nvolume_size = \"2G\"\n";
    let directory = load(&[("tenants/acme.toml", file)]);
    let acme = directory.tenant(&TenantName::new("acme").unwrap()).unwrap();
    assert_eq!((acme.rates.account_messages, acme.rates.messages), (9, 5_000));
    assert_eq!((acme.container.volume_bytes, acme.container.pids), (2 << 30, 64));
    let error = tenants_error(&[("tenants/acme.toml", &file.replace("= 9", "= 0"))]);
    assert_eq!(error, "tenants/acme.toml:3:29: 0 is out of bounds, expected 1 to 1000000000");
}

#[test]
fn a_message_and_what_is_noted_about_it_fit_into_a_file() {
    let beside = "a message's file also holds what is noted about its recipients, 640K";
    assert_eq!(
        node_error(&format!("{NODE}[limits]\nmessage_size = \"31M\"\nfile_size = \"31M\"\n")),
        format!(
            "warren.toml:5:16: message_size \"31M\" is too near the file_size of 31744K, expected at most 31104K: {beside}"
        )
    );
    assert_eq!(
        node_error(&format!("{NODE}[limits]\nmessage_size = \"1G\"\n")),
        format!(
            "warren.toml:5:16: message_size \"1G\" is too near the file_size of 262144K, expected at most 261504K: {beside}"
        )
    );
    let tenant = |limits: &str| format!("domains = [\"acme.example\"]\n[limits]\n{limits}");
    assert_eq!(
        tenants_error(&[("tenants/acme.toml", &tenant("file_size = \"2M\"\nmessage_size = \"1409K\"\n"))]),
        format!(
            "tenants/acme.toml:4:16: message_size \"1409K\" is too near the file_size of 2048K, expected at most 1408K: {beside}"
        )
    );
    // What is not written is what fits.
    for (limits, kib) in [
        ("file_size = \"2M\"\nmessage_size = \"1408K\"", 1_408),
        ("file_size = \"2M\"", 1_408),
        ("file_size = \"1M\"", 384),
        ("file_size = \"60M\"", 50 << 10),
    ] {
        let directory = load(&[("tenants/acme.toml", &tenant(limits))]);
        assert_eq!(directory.tenant(&TenantName::new("acme").unwrap()).unwrap().message_size, kib << 10, "{limits}");
    }
    let small = directory(&[("warren.toml", &format!("{NODE}[limits]\nfile_size = \"20M\"\n"))]);
    assert_eq!(Node::load(small.path()).unwrap().limits.message_size, (20 << 20) - (640 << 10));
}

#[test]
fn a_broken_node_is_told_where_and_what() {
    assert_eq!(node_error("hostname = \n"), "warren.toml:1:12: string values must be quoted, expected literal string");
    assert_eq!(node_error("[egress]\naddresses = []\n"), "warren.toml:1:1: missing field `hostname`");
    assert_eq!(
        node_error(&format!("{NODE}[fleet]\nidel = \"30s\"\n")),
        "warren.toml:5:1: unknown field `idel`, expected one of `idle`, `slots`, `start_deadline`"
    );
    assert_eq!(
        node_error(
            "hostname = \"mail\"\n[egress]\naddresses = [\"203.0.113.10\", \"10.0.0.256\"]\n[fleet]\nidle = \"soon\"\n"
        ),
        "warren.toml:1:12: \"mail\" is not a domain: it has one label only; expected a name such as \"example.com\"\n\
         warren.toml:3:30: \"10.0.0.256\" is not an IP address, expected one such as \"203.0.113.10\"\n\
         warren.toml:5:8: \"soon\" is not a duration, expected a number and a unit such as \"500ms\", \"30s\", \"5m\", \"4h\" or \"5d\""
    );
    assert_eq!(
        node_error("hostname = \"mail.example.net\"\n[egress]\naddresses = []\n"),
        "warren.toml:3:13: no egress address, expected at least one of this host's addresses"
    );
    assert_eq!(
        node_error(&format!("{NODE}[limits]\nmemory = \"1M\"\npids = 0\n[paths]\nstate = \"var\"\n")),
        "warren.toml:5:10: \"1M\" is out of bounds, expected 16384K to 1048576M\n\
         warren.toml:6:8: 0 is out of bounds, expected 8 to 100000\n\
         warren.toml:8:9: \"var\" is not an absolute path, expected one that begins with / and has no .. in it"
    );
    assert_eq!(
        node_error(&format!("{NODE}[proxy]\ntls = \"maybe\"\n")),
        "warren.toml:5:7: unknown variant `maybe`, expected one of `off`, `opportunistic`, `require`, `verify`"
    );
    assert_eq!(
        node_error(&format!("{NODE}[listen]\nsmtp = [\"0.0.0.0:25\", \"0.0.0.0\"]\nsubmission = [\"0.0.0.0:25\"]\n")),
        "warren.toml:5:9: 0.0.0.0:25 has another use already\n\
         warren.toml:5:23: \"0.0.0.0\" is not an address with a port, expected one such as \"0.0.0.0:587\" or \"[::]:587\""
    );
}

#[test]
fn a_missing_node_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let problems = Node::load(directory.path()).unwrap_err();
    assert_eq!(
        told(directory.path(), &problems),
        "warren.toml: cannot be read: No such file or directory (os error 2)"
    );
}

#[test]
fn a_broken_tenant_is_told_where_and_what() {
    assert_eq!(
        tenants_error(&[("tenants/acme.toml", "domains = []\naccounts = { alice = \"HASH\" }\n")]),
        "tenants/acme.toml:1:11: a tenant without a domain, expected at least one"
    );
    assert_eq!(
        tenants_error(&[("tenants/acme.toml", "accounts = { alice = \"HASH\" }\n")]),
        "tenants/acme.toml:1:1: missing field `domains`"
    );
    assert_eq!(
        tenants_error(&[(
            "tenants/acme.toml",
            "domains = [\"acme.example\", \"bad_.example\"]\naccounts = { Alice = \"HASH\", bob = \"secret\", \"x@y.example\" = \"HASH\" }\n"
        )]),
        "tenants/acme.toml:1:28: \"bad_.example\" is not a domain: its labels are 1 to 63 letters, digits and hyphens each, with no hyphen at an end; expected a name such as \"example.com\"\n\
         tenants/acme.toml:2:14: \"Alice\" has capitals, expected \"alice\" (logins are compared without regard to case)\n\
         tenants/acme.toml:2:COLUMN: not a password hash: it does not begin with $argon2id$v=19$; expected what `warren passwd` prints, \"$argon2id$v=19$m=…\"\n\
         tenants/acme.toml:2:SECOND: \"x@y.example\" is not an account, expected the part before the @ (it holds at each of the domains)"
            .replace("COLUMN", &(14 + "Alice = ".len() + HASH.len() + 2 + ", bob = ".len()).to_string())
            .replace("SECOND", &(14 + "Alice = ".len() + HASH.len() + 2 + ", bob = \"secret\", ".len()).to_string())
    );
    assert_eq!(
        tenants_error(&[(
            "tenants/acme.toml",
            "domains = [\"acme.example\"]\n[senders]\nalice = [\"sales@acme.example\"]\n"
        )]),
        "tenants/acme.toml:3:1: there is no account \"alice\", expected one of [accounts]"
    );
    assert_eq!(
        tenants_error(&[(
            "tenants/acme.toml",
            "domains = [\"acme.example\"]\n[accounts]\nalice = \"HASH\"\n[senders]\nalice = [\"ceo@globex.example\"]\n"
        )]),
        "tenants/acme.toml:5:10: \"ceo@globex.example\" is not in a domain of this tenant, expected one of acme.example"
    );
    assert_eq!(
        tenants_error(&[("tenants/Acme.toml", "domains = [\"acme.example\"]\n")]),
        "tenants/Acme.toml: the file's name is the tenant's: \"Acme\" is not a name: write 1 to 63 of a-z, 0-9 and -, beginning with a letter or digit"
    );
}

#[test]
fn hashes_that_would_cost_too_much_are_refused() {
    for (parameters, told) in [
        ("m=4194304,t=2,p=1", "\"m=4194304\" is not m=1 to 262144"),
        ("m=19456,t=99,p=1", "\"t=99\" is not t=1 to 16"),
        ("m=19456,t=2", "its parameters are not m, t and p"),
    ] {
        let hash = HASH.replace("m=19456,t=2,p=1", parameters);
        let error =
            tenants_error(&[("tenants/a.toml", &format!("domains = [\"a.example\"]\n[accounts]\nx = \"{hash}\"\n"))]);
        assert!(error.starts_with(&format!("tenants/a.toml:3:5: not a password hash: {told};")), "{error}");
    }
}

#[test]
fn a_domain_belongs_to_one_tenant() {
    let error = tenants_error(&[
        ("tenants/acme.toml", "domains = [\"acme.example\"]\n"),
        ("tenants/globex.toml", "domains = [\n  \"globex.example\",\n  \"ACME.example\",\n]\n"),
    ]);
    assert_eq!(
        error,
        "tenants/globex.toml:3:3: acme.example is a domain of tenant acme already, expected each domain in one tenant only"
    );
}

#[test]
fn forwards_lead_out_of_the_node() {
    let globex = ("tenants/globex.toml", "domains = [\"globex.example\"]\n[forward]\nb = [\"a@acme.example\"]\n");
    assert_eq!(
        tenants_error(&[("tenants/acme.toml", "domains = [\"acme.example\"]\n[forward]\na = [\"A@acme.example\"]\n")]),
        "tenants/acme.toml:3:6: mail for a@acme.example would be forwarded to itself, expected a forward that leads elsewhere"
    );
    assert_eq!(
        tenants_error(&[
            ("tenants/acme.toml", "domains = [\"acme.example\"]\n[forward]\na = [\"b@globex.example\"]\n"),
            globex
        ]),
        "tenants/acme.toml:3:6: mail for a@acme.example would be forwarded to itself, expected a forward that leads elsewhere\n\
         tenants/globex.toml:3:6: mail for b@globex.example would be forwarded to itself, expected a forward that leads elsewhere"
    );
    assert_eq!(
        tenants_error(&[("tenants/acme.toml", "domains = [\"acme.example\"]\n[forward]\nx = [\"y@acme.example\"]\n")]),
        "tenants/acme.toml:3:6: y@acme.example has no forward (this node keeps no mailboxes), expected one that has, or one elsewhere"
    );
    assert_eq!(
        tenants_error(&[(
            "tenants/acme.toml",
            "domains = [\"acme.example\"]\n[forward]\nx = []\n\"y@z.example\" = [\"|sh\"]\n"
        )]),
        "tenants/acme.toml:3:5: a forward to nobody, expected at least one address\n\
         tenants/acme.toml:4:1: z.example is not a domain of this tenant, expected one of acme.example"
    );
}

#[test]
fn the_directory_answers() {
    let found = load(&[
        (
            "tenants/acme.toml",
            "domains = [\"acme.example\", \"acme2.example\"]\n[accounts]\nalice = \"HASH\"\n[senders]\nalice = [\"sales@acme.example\"]\n\
             [forward]\ninfo = [\"x@elsewhere.example\"]\n\"info@acme2.example\" = [\"y@elsewhere.example\"]\n",
        ),
        ("tenants/globex.toml", "domains = [\"globex.example\"]\n"),
        ("tenants/.acme.toml.swp", "no"),
        ("tenants/acme.toml~", "no"),
    ]);
    let login = found.login("Alice@ACME2.example").unwrap();
    assert_eq!((login.name, login.account.password.as_str()), ("alice", HASH));
    assert_eq!(
        login.tenant.sender_addresses("alice"),
        ["alice@acme.example", "alice@acme2.example", "sales@acme.example"]
    );
    assert_eq!(login.tenant.logins().len(), 2);
    assert!(found.login("alice@globex.example").is_none() && found.login("alice").is_none());
    let to = |local, domain| match found.recipient(local, domain) {
        Recipient::Forward { to, .. } => to.to_vec(),
        other => vec![format!("{other:?}")],
    };
    assert_eq!(to("INFO", "acme.example"), ["x@elsewhere.example"]);
    assert_eq!(to("info", "Acme2.example"), ["y@elsewhere.example"]);
    assert_eq!(to("alice", "acme.example"), ["NoSuchUser"]);
    assert_eq!(to("info", "elsewhere.example"), ["NotLocal"]);
}

#[test]
fn a_reload_knows_what_changed() {
    let acme = "domains = [\"acme.example\"]\n";
    let old = load(&[
        ("tenants/acme.toml", acme),
        ("tenants/b.toml", "domains = [\"b.example\"]\n"),
        ("tenants/c.toml", "domains = [\"c.example\"]\n"),
    ]);
    let new = load(&[
        ("tenants/acme.toml", "# only a remark\ndomains = [ \"acme.example\" ]\n"),
        ("tenants/c.toml", "idle = \"9s\"\ndomains = [\"c.example\"]\n"),
        ("tenants/d.toml", "domains = [\"d.example\"]\n"),
    ]);
    let changes = old.changes(&new);
    let name = |text| TenantName::new(text).unwrap();
    assert_eq!((changes.added, changes.removed, changes.changed), (vec![name("d")], vec![name("b")], vec![name("c")]));
    assert!(old.changes(&old.clone()).is_empty());
}

#[test]
fn at_a_terminal_a_mark_stands_under_the_place() {
    let directory = directory(&[("warren.toml", "hostname = \"mail\"\n[egress]\naddresses = [\"203.0.113.10\"]\n")]);
    let shown = Node::load(directory.path()).unwrap_err().render(false);
    assert!(
        shown.contains("hostname = \"mail\"") && shown.contains("warren.toml:1:12") && shown.contains("──"),
        "{shown}"
    );
}

#[test]
fn tls_rules_are_told_where_and_what_is_wrong() {
    let rule = |lines: &str| node_error(&format!("{NODE}[[proxy.tls_rules]]\n{lines}"));
    assert_eq!(
        rule("domains = []\npolicy = \"verify\"\n"),
        "warren.toml:5:11: no domain, expected at least one such as \"bank.example\""
    );
    assert_eq!(
        rule("domains = [\"*bank.example\"]\npolicy = \"verify\"\n"),
        "warren.toml:5:12: \"*bank.example\" is not a domain: its labels are 1 to 63 letters, digits and hyphens each, \
         with no hyphen at an end; expected a name such as \"example.com\""
    );
    assert_eq!(
        rule("domains = [\"*.\"]\npolicy = \"verify\"\n"),
        "warren.toml:5:12: \"*.\" is not a pattern of domains, expected a name such as \"bank.example\" or \"*.bank.example\""
    );
    assert_eq!(
        rule(
            "domains = [\"a.example\"]\npolicy = \"off\"\n[[proxy.tls_rules]]\ndomains = [\"A.example\"]\npolicy = \"off\"\n"
        ),
        "warren.toml:8:12: \"a.example\" has a rule above, which is the one that counts"
    );
    assert!(
        rule("domains = [\"a.example\"]\npolicy = \"dane\"\n").contains("`off`, `opportunistic`, `require`, `verify`")
    );
}

#[test]
fn beside_an_mta_nothing_is_verified_without_a_resolver() {
    let standalone = "[proxy.standalone]\nlisten = [\"127.0.0.1:10025\"]\nmode = \"redirect\"\n\
                      tenants = { \"10.0.0.5\" = \"acme\", \"10.0.0.6\" = \"other\" }\n";
    let rule = "[[proxy.tls_rules]]\ndomains = [\"bank.example\"]\npolicy = \"verify\"\n";
    let resolver = "resolver = { \"127.0.0.1:53\" = \"acme\", \"127.0.0.2:53\" = \"other\" }\n";
    let nameservers = "[resolver]\nnameservers = [\"192.0.2.53\"]\n";
    let problems = |text: String| {
        let directory = directory(&[("warren.toml", &text)]);
        let found = Node::load(directory.path()).err();
        found.map(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap_or_default()
    };
    for (what, line) in [("[proxy]\ntls = \"verify\"\n", "5:7"), (rule, "6:10")] {
        let found = problems(format!("{NODE}{what}{standalone}"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].contains("the MXs of acme: its mail would wait for ever") && found[0].contains(line),
            "{found:?}"
        );
        assert_eq!(problems(format!("{NODE}{nameservers}{what}{standalone}{resolver}")), Vec::<String>::new());
        let one = "resolver = { \"127.0.0.1:53\" = \"acme\" }\n";
        let found = problems(format!("{NODE}{nameservers}{what}{standalone}{one}"));
        assert!(found.len() == 1 && found[0].contains("the MXs of other"), "{found:?}");
    }
    assert_eq!(problems(format!("{NODE}[proxy]\ntls = \"require\"\n{standalone}")), Vec::<String>::new());
    for (resolver, expected) in [
        (resolver, "the resolver has nobody to ask, expected nameservers"),
        ("resolver = { \"127.0.0.1:53\" = \"third\" }\n", "third is none of tenants"),
        ("resolver = { \"127.0.0.1:53\" = \"acme\", \"127.0.0.2:53\" = \"acme\" }\n", "acme has a resolver already"),
    ] {
        let found = problems(format!("{NODE}{standalone}{resolver}"));
        assert!(found.iter().any(|problem| problem.contains(expected)), "{found:?}");
    }
}

#[test]
fn a_standalone_certificate_needs_its_key() {
    let base = format!(
        "{NODE}[proxy.standalone]\nlisten = [\"0.0.0.0:10025\"]\nmode = \"redirect\"\ntenants = {{ \"10.0.0.5\" = \"acme\" }}\n"
    );
    let with = |lines: &str| format!("{base}{lines}");
    for (lines, expected) in [
        ("certificate = \"/c.pem\"\n", "8:15: a certificate without its key, expected key = \"…\" beside it"),
        ("key = \"/k.pem\"\n", "8:7: a key without its certificate, expected certificate = \"…\" beside it"),
        ("require_tls = true\n", "8:15: TLS is required and there is none, expected certificate and key"),
        ("certificate = \"c.pem\"\nkey = \"/k.pem\"\n", "8:15: \"c.pem\" is not an absolute path"),
    ] {
        let error = node_error(&with(lines));
        assert!(error.starts_with(&format!("warren.toml:{expected}")), "{error}");
    }
    let load = |lines: &str| Node::load(directory(&[("warren.toml", &with(lines))]).path()).unwrap();
    let (none, some) = (load("require_tls = false\n"), load("certificate = \"/c.pem\"\nkey = \"/k.pem\"\n"));
    assert_eq!(none.proxy.standalone.as_ref().unwrap().tls, None);
    assert!(!some.proxy.standalone.as_ref().unwrap().tls.as_ref().unwrap().required);
    assert!(none.needs_restart(&some).is_empty(), "certificates come and go by reload");
    let mut moved = some.clone();
    moved.proxy.standalone.as_mut().unwrap().listen.clear();
    assert_eq!(some.needs_restart(&moved), ["[proxy.standalone]"]);
    moved.proxy.standalone = None;
    assert_eq!(some.needs_restart(&moved), ["[proxy.standalone]"]);
}
