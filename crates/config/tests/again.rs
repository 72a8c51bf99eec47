//! A folder read again and again says what a first reading would say, whatever happened to its files meanwhile.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use warren_config::{Directory, Folder, Node, TenantName};

const NODE: &str = "hostname = \"mail.example.net\"\n[egress]\naddresses = [\"203.0.113.10\"]\n";

fn empty() -> (tempfile::TempDir, Node) {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("tenants")).unwrap();
    fs::write(directory.path().join("warren.toml"), NODE).unwrap();
    let node = Node::load(directory.path()).unwrap();
    (directory, node)
}

fn write(directory: &Path, tenant: &str, text: &str) {
    fs::write(directory.join(format!("tenants/{tenant}.toml")), text).unwrap();
}

fn tenant(directory: &Directory, name: &str) -> Arc<warren_config::Tenant> {
    Arc::clone(directory.tenant(&TenantName::new(name).unwrap()).unwrap())
}

/// Small numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// One change among few names and domains, so that tenants often get in each other's way.
fn change(directory: &Path, dice: &mut Dice) {
    let name = format!("t{}", dice.below(8));
    let file = directory.join(format!("tenants/{name}.toml"));
    match dice.below(6) {
        0 => drop(fs::remove_file(file)),
        1 => drop(fs::rename(file, directory.join(format!("tenants/t{}.toml", dice.below(8))))),
        2 => fs::write(file, "domains = 7\n").unwrap(),
        _ => {
            let (domain, local, to) = (dice.below(10), dice.below(3), dice.below(12));
            let text = format!("domains = [\"d{domain}.example\"]\n[forward]\nf{local} = [\"f0@d{to}.example\"]\n");
            // As editors and programs do: a new file takes the name; or in place.
            if dice.below(2) == 0 {
                fs::write(directory.join("tenants/.draft"), text).unwrap();
                fs::rename(directory.join("tenants/.draft"), file).unwrap();
            } else {
                fs::write(file, text).unwrap();
            }
        }
    }
}

#[test]
fn as_if_read_for_the_first_time() {
    for links in [false, true] {
        let (directory, node) = empty();
        if links {
            // Where links are, there is no watch: files are compared by how they look.
            write(directory.path(), "../linked", "domains = [\"linked.example\"]\n");
            std::os::unix::fs::symlink("../linked.toml", directory.path().join("tenants/linked.toml")).unwrap();
        }
        let mut folder = Folder::new(directory.path());
        let mut known = Directory::default();
        let mut dice = Dice(7);
        let (mut good, mut bad) = (0, 0);
        for round in 0..1_000 {
            for _ in 0..=dice.below(3) {
                change(directory.path(), &mut dice);
            }
            let expected = Directory::load(directory.path(), &node);
            match (folder.read(&node, &known), expected) {
                (Ok(read), Ok(expected)) => {
                    assert_eq!(read, expected, "round {round}");
                    known = read;
                    good += 1;
                }
                (Err(read), Err(expected)) => {
                    let told: Vec<String> = expected.iter().map(ToString::to_string).collect();
                    for problem in read.iter() {
                        assert!(told.contains(&problem.to_string()), "round {round}: {problem} is not in {told:?}");
                    }
                    bad += 1;
                }
                (read, expected) => panic!("round {round}: {read:?} is not {expected:?}"),
            }
            if round % 10 == 0 {
                (0..8).for_each(|n| drop(fs::remove_file(directory.path().join(format!("tenants/t{n}.toml")))));
            }
        }
        assert!(good > 100 && bad > 100, "{good} good and {bad} bad readings prove little");
    }
}

#[test]
fn what_did_not_change_is_shared() {
    let (directory, node) = empty();
    for tenant in ["a", "b", "c"] {
        write(directory.path(), tenant, &format!("domains = [\"{tenant}.example\"]\n"));
    }
    let mut folder = Folder::new(directory.path());
    let first = folder.read(&node, &Directory::default()).unwrap();
    write(directory.path(), "b", "domains = [\"b.example\", \"bb.example\"]\n");
    write(directory.path(), "c", "# touched\ndomains = [\"c.example\"]\n");
    let second = folder.read(&node, &first).unwrap();
    let same = |name| Arc::ptr_eq(&tenant(&first, name), &tenant(&second, name));
    assert_eq!((same("a"), same("b"), same("c")), (true, false, true));
    assert_eq!(first.differences(&second).count(), 1);
    assert_eq!(second.by_domain("bb.example").unwrap().name.as_str(), "b");
}

#[test]
fn a_change_of_the_node_reaches_every_tenant() {
    let (directory, mut node) = empty();
    write(directory.path(), "a", "domains = [\"a.example\"]\n");
    let mut folder = Folder::new(directory.path());
    let first = folder.read(&node, &Directory::default()).unwrap();
    node.fleet.idle *= 2;
    let second = folder.read(&node, &first).unwrap();
    assert_eq!(tenant(&second, "a").idle, node.fleet.idle);
}

#[test]
fn a_problem_stays_until_it_is_repaired() {
    let (directory, node) = empty();
    write(directory.path(), "a", "domains = [\"a.example\"]\n");
    let mut folder = Folder::new(directory.path());
    let known = folder.read(&node, &Directory::default()).unwrap();
    write(directory.path(), "a", "domains = [\"a.example\"]\n[forward]\nx = [\"y@b.example\"]\n");
    write(directory.path(), "b", "domains = [\"b.example\"]\n");
    for _ in 0..2 {
        let told = folder.read(&node, &known).unwrap_err().to_string();
        assert!(told.contains("tenants/a.toml:3:6: y@b.example has no forward"), "{told}");
    }
    write(directory.path(), "b", "domains = [\"b.example\"]\n[forward]\ny = [\"z@elsewhere.example\"]\n");
    let known = folder.read(&node, &known).unwrap();
    assert_eq!(known.tenants().len(), 2);
    // Taking away what a forward of another tenant leads to is wrong at that forward.
    write(directory.path(), "b", "domains = [\"b.example\"]\n");
    let told = folder.read(&node, &known).unwrap_err().to_string();
    assert!(told.contains("tenants/a.toml:3:6: y@b.example has no forward"), "{told}");
}

#[test]
fn a_folder_that_is_gone_does_not_take_everybody_along() {
    let (directory, node) = empty();
    write(directory.path(), "acme", "domains = [\"acme.example\"]\n");
    let mut folder = Folder::new(directory.path());
    let known = folder.read(&node, &Directory::default()).unwrap();
    fs::rename(directory.path().join("tenants"), directory.path().join("moved")).unwrap();
    let said = folder.read(&node, &known).unwrap_err().to_string();
    assert!(said.contains("tenants") && said.contains("the folder is gone"), "{said}");
    // Put back, all is as it was.
    fs::rename(directory.path().join("moved"), directory.path().join("tenants")).unwrap();
    assert!(folder.read(&node, &known).unwrap().tenant(&TenantName::new("acme").unwrap()).is_some());
}
