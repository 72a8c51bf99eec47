//! What reading the configuration again would change, told before it is done.

use std::collections::BTreeSet;

use warren_config::Node;
use warren_control::{
    TenantName,
    api::{Names, Plan},
};

use crate::books::Book;

/// Names told of each kind; the longest of all kinds together fit a packet.
const TOLD: usize = 200;

/// What changes when `new` replaces `running`, on a node whose programs started with `started`. Who runs an outdated image is for
/// the caller to add.
pub fn plan(started: &Node, running: &Book, new: &Book) -> Plan {
    let changes = running.changes(new);
    let directory = running.directory.changes(&new.directory);
    let told: BTreeSet<&TenantName> = changes.container.iter().chain(&changes.settings).collect();
    let access = directory.changed.iter().filter(|name| !told.contains(name));
    Plan {
        added: names(&directory.added),
        removed: names(&directory.removed),
        container: names(&changes.container),
        settings: names(&changes.settings),
        access: names(access),
        node: running.node != new.node,
        restart: started.needs_restart(&new.node).into_iter().map(str::to_owned).collect(),
        outdated: Names::default(),
    }
}

/// The first of them.
pub fn names<'a>(all: impl IntoIterator<Item = &'a TenantName>) -> Names {
    let mut names = Names::default();
    for name in all {
        names.count += 1;
        if names.first.len() < TOLD {
            names.first.push(name.clone());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const NODE: &str = "hostname = \"mail.example.net\"\n[egress]\naddresses = [\"203.0.113.10\"]\n";

    #[test]
    fn each_change_is_told_by_what_it_costs() {
        let directory = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(directory.path().join(file), text).unwrap();
        fs::create_dir(directory.path().join("tenants")).unwrap();
        write("warren.toml", NODE);
        for tenant in ["a", "b", "c", "d", "e"] {
            write(&format!("tenants/{tenant}.toml"), &format!("domains = [\"{tenant}.example\"]\n"));
        }
        let running = Book::read(directory.path()).unwrap();
        write("warren.toml", &format!("{NODE}[listen]\nsmtp = []\n"));
        write("tenants/a.toml", "domains = [\"a.example\", \"aa.example\"]\n");
        write("tenants/b.toml", "domains = [\"b.example\"]\nimage = \"postfix\"\n");
        fs::remove_file(directory.path().join("tenants/c.toml")).unwrap();
        write("tenants/d.toml", "domains = [\"d.example\"]\n[forward]\ninfo = [\"x@elsewhere.example\"]\n");
        write("tenants/f.toml", "domains = [\"f.example\"]\n");
        let plan = plan(&running.node, &running, &Book::read(directory.path()).unwrap());
        let told = |names: &Names| names.first.iter().map(TenantName::as_str).collect::<Vec<_>>().join(" ");
        let lists = [&plan.added, &plan.removed, &plan.container, &plan.settings, &plan.access];
        assert_eq!(lists.map(told), ["f", "c", "b", "a", "d"]);
        assert!(plan.node);
        assert_eq!(plan.restart, ["[listen]"]);
    }

    #[test]
    fn long_lists_are_counted() {
        let many: Vec<_> = (0..1000).map(|n| TenantName::new(&format!("t{n}")).unwrap()).collect();
        let names = names(&many);
        assert_eq!((names.count, names.first.len()), (1000, TOLD));
    }
}
