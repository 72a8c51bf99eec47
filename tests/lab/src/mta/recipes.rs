//! Configurations: small, and what a careful administrator would run.
//!
//! Postfix and Exim offer STARTTLS. All three: 50 MB, any local part of the one domain delivered to a Maildir under
//! `/var/mail/lab/DOMAIN/USER`, except those that begin with `unknown`, which are refused with `550 5.1.1` at RCPT; no relaying
//! but of what is written on the host itself; no look-ups outside the lab.

use super::{Recipe, file};
use crate::config::MtaKind;

const POSTFIX_UID: u32 = 2010;
const POSTDROP_GID: u32 = 2011;
/// The user that Exim runs as.
pub(super) const EXIM_UID: u32 = 2020;
const SMTPD_UID: u32 = 2030;
/// The group that OpenSMTPD's `sendmail` has.
pub(super) const SMTPQ_UID: u32 = 2031;

pub(super) fn recipe(mta: MtaKind) -> Recipe {
    match mta {
        MtaKind::Postfix => postfix(),
        MtaKind::Exim => exim(),
        MtaKind::Opensmtpd => opensmtpd(),
    }
}

/// Postfix's own virtual(8) refuses `$1` in its tables, so mailboxes for any user go through pipe(8) and this.
const BOX: &str = r#"#!/bin/sh
# box DOMAIN USER < message
case "$1$2" in */*|.*|"") exit 67;; esac
box=/var/mail/lab/$1/$2
umask 022
mkdir -p -- "$box/tmp" "$box/new" "$box/cur" || exit 75
name=$(date +%s.%N).$$
cat >"$box/tmp/$name" && mv -- "$box/tmp/$name" "$box/new/$name" || exit 75
"#;

const MAIN_CF: &str = r#"compatibility_level = 3.6
myhostname = mx1.postfix.example
mydestination =
local_recipient_maps =
inet_protocols = ipv4
mail_owner = postfix
setgid_group = postdrop
queue_directory = /var/spool/postfix
data_directory = /var/lib/postfix
daemon_directory = /usr/lib/postfix/sbin
command_directory = /usr/sbin
shlib_directory = /usr/lib/postfix
alias_maps =
alias_database =
maillog_file = /dev/stdout
virtual_mailbox_domains = postfix.example
virtual_transport = box
smtpd_relay_restrictions = reject_unauth_destination
smtpd_recipient_restrictions = check_recipient_access regexp:/etc/postfix/recipients
smtpd_tls_security_level = may
smtpd_tls_chain_files = /etc/lab/tls.key, /etc/lab/tls.crt
smtpd_tls_loglevel = 1
smtpd_tls_received_header = yes
smtputf8_enable = yes
message_size_limit = 52428800
mailbox_size_limit = 0
smtpd_client_connection_count_limit = 0
"#;

const MASTER_CF: &str = r#"smtp      inet  n - n - - smtpd
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
smtp      unix  - - n - - smtp
error     unix  - - n - - error
retry     unix  - - n - - error
local     unix  - n n - - local
anvil     unix  - - n - 1 anvil
postlog   unix-dgram n - n - 1 postlogd
box       unix  - n n - 10 pipe
  flags=R user=lab argv=/usr/local/bin/box ${domain} ${user}
"#;

fn postfix() -> Recipe {
    Recipe {
        users: &[("postfix", POSTFIX_UID)],
        groups: &[("postfix", POSTFIX_UID), ("postdrop", POSTDROP_GID)],
        directories: &[
            ("var/lib/postfix", POSTFIX_UID, POSTFIX_UID, 0o700),
            ("var/spool/postfix", 0, 0, 0o755),
            ("var/spool/postfix/pid", 0, 0, 0o755),
            ("var/spool/postfix/active", POSTFIX_UID, 0, 0o700),
            ("var/spool/postfix/bounce", POSTFIX_UID, 0, 0o700),
            ("var/spool/postfix/corrupt", POSTFIX_UID, 0, 0o700),
            ("var/spool/postfix/defer", POSTFIX_UID, 0, 0o700),
            ("var/spool/postfix/deferred", POSTFIX_UID, 0, 0o700),
            ("var/spool/postfix/flush", POSTFIX_UID, 0, 0o700),
            ("var/spool/postfix/hold", POSTFIX_UID, 0, 0o700),
            ("var/spool/postfix/incoming", POSTFIX_UID, 0, 0o700),
            ("var/spool/postfix/private", POSTFIX_UID, 0, 0o700),
            ("var/spool/postfix/saved", POSTFIX_UID, 0, 0o700),
            ("var/spool/postfix/trace", POSTFIX_UID, 0, 0o700),
            ("var/spool/postfix/maildrop", POSTFIX_UID, POSTDROP_GID, 0o730),
            ("var/spool/postfix/public", POSTFIX_UID, POSTDROP_GID, 0o710),
        ],
        files: vec![
            file("etc/postfix/main.cf", 0o644, MAIN_CF),
            file("etc/postfix/master.cf", 0o644, MASTER_CF),
            file("etc/postfix/recipients", 0o644, "/^unknown/ 550 5.1.1 No such user here\n"),
            file("usr/local/bin/box", 0o755, BOX),
        ],
        run: &["/usr/lib/postfix/sbin/master", "-s"],
    }
}

const EXIM_CONF: &str = r#"primary_hostname = mx1.exim.example
domainlist local_domains = exim.example
tls_advertise_hosts = *
tls_certificate = /etc/lab/tls.crt
tls_privatekey = /etc/lab/tls.key
smtputf8_advertise_hosts = *
message_size_limit = 50M
smtp_accept_max = 200
smtp_accept_queue_per_connection = 0
host_lookup =
rfc1413_query_timeout = 0s
keep_environment =
log_file_path = /var/log/exim4/%slog
log_selector = +smtp_protocol_error +tls_cipher +received_recipients
acl_smtp_rcpt = rcpt
acl_smtp_data = accept

begin acl
rcpt:
  deny    message = 550 5.1.1 No such user here
          local_parts = ^unknown
  accept  domains = +local_domains
  deny    message = 550 5.7.1 relay not permitted

begin routers
box:
  driver = accept
  domains = +local_domains
  # The key that a look-up returns is free of taint; the wildcard of the list fits any local part.
  address_data = ${lookup{$local_part}lsearch*,ret=key{/etc/lab/anyone}}
  transport = box
# Mail that is written on this host.
remote:
  driver = dnslookup
  domains = ! +local_domains
  transport = remote

begin transports
remote:
  driver = smtp
box:
  driver = appendfile
  maildir_format
  create_directory
  directory = /var/mail/lab/exim.example/$address_data
  user = lab
  group = lab
  mode = 0644
  directory_mode = 0755
  return_path_add

begin retry
* * F,1h,1m
"#;

fn exim() -> Recipe {
    Recipe {
        users: &[("Debian-exim", EXIM_UID)],
        groups: &[("Debian-exim", EXIM_UID)],
        directories: &[
            ("var/spool/exim4", EXIM_UID, EXIM_UID, 0o750),
            ("var/log/exim4", EXIM_UID, EXIM_UID, 0o750),
            ("run/exim4", EXIM_UID, EXIM_UID, 0o755),
        ],
        files: vec![file("etc/exim4/exim4.conf", 0o644, EXIM_CONF), file("etc/lab/anyone", 0o644, "*: any\n")],
        run: &["/usr/sbin/exim4", "-bdf", "-q10m"],
    }
}

/// In the clear: Debian 12's 6.8.0 offers STARTTLS but fails every handshake, since its separate key process does not
/// work with OpenSSL 3 (OpenSMTPD issues 1171 and 1239). The lab wants an MX without TLS anyhow.
const SMTPD_CONF: &str = r#"table refused file:/etc/lab/refused
filter unknown phase rcpt-to match rcpt-to regex <refused> reject "550 5.1.1 No such user here"
smtp max-message-size "50M"
listen on 0.0.0.0 hostname mx1.opensmtpd.example filter unknown
table anyone { "@" = "lab" }
action "box" maildir "/var/mail/lab/%{rcpt.domain}/%{rcpt.user}" virtual <anyone>
action "remote" relay
match from any for domain "opensmtpd.example" action "box"
match from local for any action "remote"
"#;

fn opensmtpd() -> Recipe {
    Recipe {
        users: &[("opensmtpd", SMTPD_UID), ("opensmtpq", SMTPQ_UID)],
        groups: &[("opensmtpd", SMTPD_UID), ("opensmtpq", SMTPQ_UID)],
        directories: &[
            ("var/lib/opensmtpd", 0, 0, 0o755),
            ("var/lib/opensmtpd/empty", 0, 0, 0o755),
            ("var/spool/smtpd", 0, 0, 0o711),
            ("nonexistent", 0, 0, 0o755),
        ],
        files: vec![file("etc/smtpd.conf", 0o644, SMTPD_CONF), file("etc/lab/refused", 0o644, "^unknown.*\n")],
        run: &["/usr/sbin/smtpd", "-d", "-f", "/etc/smtpd.conf"],
    }
}
