//! A real MTA of the lab, as whoever sits at its host has it: its programs, its log, mail that is written there.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use warren_lab::Lab;
use warren_lab::config::MtaKind;

use crate::corpus::note;

/// One that runs.
#[derive(Debug)]
pub struct Mta<'lab> {
    lab: &'lab Lab,
    /// Which.
    pub kind: MtaKind,
    pid: u32,
}

impl<'lab> Mta<'lab> {
    /// The lab's.
    pub fn find(lab: &'lab Lab, kind: MtaKind) -> Self {
        let program = match kind {
            MtaKind::Postfix => "master",
            MtaKind::Exim => "exim4",
            MtaKind::Opensmtpd => "smtpd",
        };
        let pid = process(lab, kind, program).expect("the lab's MTA runs");
        Mta { lab, kind, pid }
    }

    /// Its host's network.
    pub fn namespace(&self) -> PathBuf {
        self.lab.namespace(self.kind.name()).expect("it runs on a host of its own")
    }

    /// The root of its host's files. What is written there lies on top of this machine's root, and is seen on that host alone.
    pub fn root(&self) -> PathBuf {
        format!("/proc/{}/root", self.pid).into()
    }

    /// The process of this name on its network.
    pub fn process(&self, name: &str) -> Option<u32> {
        process(self.lab, self.kind, name)
    }

    /// A program on its host, with the host's files and network.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid.to_string(), "--net", "--mount", "--root", "--wd", "--", program]);
        command
    }

    /// Who writes there.
    pub fn author(&self) -> String {
        format!("alice@{}", self.kind.domain())
    }

    /// A letter is written there.
    pub fn send(&self, to: &[&str], subject: &str) {
        let letter = note(&self.author(), subject);
        let mut sendmail = self.command("/usr/sbin/sendmail");
        let mut sendmail = sendmail.args(["-f", &self.author()]).args(to).stdin(Stdio::piped()).spawn().unwrap();
        // In the lines of a machine, not of the wire.
        let letter: Vec<u8> = letter.into_iter().filter(|byte| *byte != b'\r').collect();
        sendmail.stdin.take().unwrap().write_all(&letter).unwrap();
        assert!(sendmail.wait().unwrap().success());
    }

    /// What it wrote about itself.
    pub fn log(&self) -> String {
        self.lab.host_log(self.kind.name()).unwrap()
    }
}

fn process(lab: &Lab, kind: MtaKind, name: &str) -> Option<u32> {
    let network = std::fs::metadata(lab.namespace(kind.name())?).unwrap().ino();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        let there = std::fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|net| net.ino() == network);
        there && std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
    })
}
