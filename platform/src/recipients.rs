//! What becomes of inbound mail to an address: forwarded, a bounce on its way back, ours to no avail, or not ours. Pure.

use warren_config::Recipient;
use warren_control::Verdict;
use warren_smtp::Mailbox;

use crate::books::Book;

/// What becomes of inbound mail to an address.
pub fn verdict(book: &Book, address: &str) -> Verdict {
    let Ok(mailbox) = address.parse::<Mailbox>() else { return Verdict::NoSuchUser };
    // Mail to an address literal is not for a tenant.
    let Some(domain) = mailbox.domain() else { return Verdict::NotLocal };
    let (local, domain) = (mailbox.local(), domain.as_str());
    let found = book.directory.recipient(local, domain);
    // Mail to ourselves is forwarded by the tenant that forwards for our postmaster, if there is one.
    let ours = found == Recipient::NotLocal && domain.eq_ignore_ascii_case(&book.node.hostname);
    let postmaster = || book.directory.postmaster(&book.node);
    let found = match found {
        Recipient::NoSuchUser if is_postmaster(local) => postmaster().unwrap_or(Recipient::NoSuchUser),
        Recipient::NotLocal if ours && is_postmaster(local) => postmaster().unwrap_or(Recipient::NotLocal),
        found => found,
    };
    match found {
        Recipient::Forward { tenant, to } => Verdict::Forward { tenant: tenant.name.clone(), to: to.to_vec() },
        Recipient::NoSuchUser => match book.directory.by_domain(domain) {
            Some(tenant) if is_srs(local) => Verdict::Srs { tenant: tenant.name.clone() },
            _ => Verdict::NoSuchUser,
        },
        // What was forwarded for our postmaster may bounce to us.
        Recipient::NotLocal => match postmaster() {
            Some(Recipient::Forward { tenant, .. }) if ours && is_srs(local) => {
                Verdict::Srs { tenant: tenant.name.clone() }
            }
            _ => Verdict::NotLocal,
        },
    }
}

fn is_postmaster(local: &str) -> bool {
    local.eq_ignore_ascii_case("postmaster")
}

/// `SRS0=…` or `SRS1=…`; SRS allows `+` and `-` for the first separator, and other MTAs may have changed the case.
fn is_srs(local: &str) -> bool {
    let local = local.as_bytes();
    let tag = local.get(..4).is_some_and(|tag| tag.eq_ignore_ascii_case(b"SRS0") || tag.eq_ignore_ascii_case(b"SRS1"));
    tag && matches!(local.get(4), Some(b'=' | b'+' | b'-'))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use warren_control::TenantName;

    use super::*;

    #[test]
    fn verdicts() {
        let directory = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(directory.path().join(file), text).unwrap();
        fs::create_dir(directory.path().join("tenants")).unwrap();
        write("warren.toml", "hostname = \"mail.example.net\"\n[egress]\naddresses = [\"203.0.113.10\"]\n");
        write("tenants/acme.toml", "domains = [\"acme.example\"]\n[forward]\n\"info\" = [\"a@b.example\"]\n");
        let book = Book::read(directory.path()).unwrap();
        let tenant = TenantName::new("acme").unwrap();
        let forward = Verdict::Forward { tenant: tenant.clone(), to: vec!["a@b.example".into()] };
        for address in ["info@acme.example", "INFO@Acme.Example", "\"info\"@acme.example"] {
            assert_eq!(verdict(&book, address), forward, "{address}");
        }
        for address in ["SRS0=HHH=TT=b.example=x@acme.example", "srs1-x@acme.example"] {
            assert_eq!(verdict(&book, address), Verdict::Srs { tenant: tenant.clone() }, "{address}");
        }
        for address in ["bob@acme.example", "SRS0@acme.example", "info%x@acme.example", "no address", "info@"] {
            assert_eq!(verdict(&book, address), Verdict::NoSuchUser, "{address}");
        }
        let nowhere = ["info@globex.example", "info@[192.0.2.1]", "SRS0=a@globex.example"];
        for address in nowhere.iter().chain(&["postmaster@mail.example.net", "SRS0=a@mail.example.net"]) {
            assert_eq!(verdict(&book, address), Verdict::NotLocal, "{address}");
        }
        assert_eq!(verdict(&book, "postmaster@acme.example"), Verdict::NoSuchUser);
    }

    #[test]
    fn one_postmaster_for_all_who_have_none() {
        let directory = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(directory.path().join(file), text).unwrap();
        fs::create_dir(directory.path().join("tenants")).unwrap();
        write(
            "warren.toml",
            "hostname = \"mail.example.net\"\npostmaster = \"ops@acme.example\"\n[egress]\naddresses = [\"203.0.113.10\"]\n",
        );
        write("tenants/acme.toml", "domains = [\"acme.example\"]\n[forward]\nops = [\"ops@b.example\"]\n");
        write("tenants/globex.toml", "domains = [\"globex.example\"]\n[forward]\npostmaster = [\"g@b.example\"]\n");
        let book = Book::read(directory.path()).unwrap();
        let forward = |tenant: &str, to: &str| Verdict::Forward {
            tenant: TenantName::new(tenant).unwrap(),
            to: vec![to.to_owned()],
        };
        for address in ["Postmaster@Mail.Example.NET", "POSTMASTER@acme.example"] {
            assert_eq!(verdict(&book, address), forward("acme", "ops@b.example"), "{address}");
        }
        assert_eq!(verdict(&book, "Postmaster@globex.example"), forward("globex", "g@b.example"));
        let srs = Verdict::Srs { tenant: TenantName::new("acme").unwrap() };
        assert_eq!(verdict(&book, "SRS0=HHH=TT=b.example=x@mail.example.net"), srs);
        for address in ["postmaster@elsewhere.example", "ops@mail.example.net", "SRS0=x=y=z@elsewhere.example"] {
            assert_eq!(verdict(&book, address), Verdict::NotLocal, "{address}");
        }
    }
}
