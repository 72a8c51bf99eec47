//! The running node.

use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use warren_lab::{Lab, find_program};

use crate::dialogue::Dialogue;
use crate::disk::Disk;
use crate::leftovers;
use crate::log::Log;
use crate::setup::{PASSWORD, Setup};

/// How long the node may take to come up, to go, or to come to what a scenario waits for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What `warren up` prints when every program is ready.
const UP: &str = "warren is up";

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A node in a lab.
#[derive(Debug)]
pub struct Node<'lab> {
    lab: &'lab Lab,
    /// In the folder, so it goes before that.
    disk: Option<Disk>,
    folder: tempfile::TempDir,
    cgroup: String,
    up: Child,
    log: Arc<Log>,
    letters: AtomicU32,
    /// Of containers, as far as they were seen when the node ended.
    namespaces: Mutex<leftovers::Namespaces>,
}

/// What `warren send` answered.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Whether the server took the message for every recipient.
    pub accepted: bool,
    /// What was printed: the reply, or the error.
    pub text: String,
}

impl<'lab> Node<'lab> {
    /// Writes the configuration, runs `warren up` and returns when it is up.
    pub fn start(lab: &'lab Lab, setup: &Setup) -> Self {
        let node = Self::start_unready(lab, setup);
        node.wait_for_log(UP);
        node
    }

    /// The same without waiting, for a node that is not expected to come up.
    pub fn start_unready(lab: &'lab Lab, setup: &Setup) -> Self {
        let folder = tempfile::Builder::new().prefix("warren-").tempdir().unwrap();
        let cgroup = format!("warren-t{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        setup.write(folder.path(), &cgroup);
        let disk = setup.disk.map(|size| Disk::mount(&folder.path().join("state/volumes"), size));
        let log = Arc::new(Log::default());
        let up = run_up(lab, folder.path(), &log);
        Node { lab, disk, folder, cgroup, up, log, letters: AtomicU32::new(0), namespaces: Mutex::default() }
    }

    /// Runs `warren up` again, after the node ended in whatever way.
    pub fn restart(&mut self) {
        assert!(self.up.try_wait().unwrap().is_some(), "it still runs");
        self.log.clear();
        self.up = run_up(self.lab, self.folder.path(), &self.log);
        self.wait_for_log(UP);
    }

    /// The configuration directory.
    pub fn config_dir(&self) -> PathBuf {
        self.folder.path().join("etc")
    }

    /// The state directory.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The run directory.
    pub fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// A subcommand of `warren` on the node, to be run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.lab.command_in_node(find_program("warren").unwrap());
        command.args(arguments).env("WARREN_CONFIG", self.config_dir()).stdin(Stdio::null());
        command
    }

    /// Runs a subcommand of `warren` on the node.
    pub fn warren(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The same, with something to read on its standard input.
    pub fn warren_with_input(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.command(arguments);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        // One that does not read may have ended already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// The same, for its output; fails the scenario if it fails.
    pub fn ask(&self, arguments: &[&str]) -> String {
        let output = self.warren(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "warren {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Submits a message as a user's mail program would, from the client host.
    pub fn submit(&self, login: &str, from: &str, to: &[&str], port: u16, message: &[u8]) -> Sent {
        self.submit_as(login, PASSWORD, from, to, port, message)
    }

    /// The same with a password of the scenario's choice.
    pub fn submit_as(&self, login: &str, password: &str, from: &str, to: &[&str], port: u16, message: &[u8]) -> Sent {
        let n = self.letters.fetch_add(1, Ordering::Relaxed);
        let letter = self.folder.path().join(format!("letter{n}"));
        let secret = self.folder.path().join(format!("secret{n}"));
        std::fs::write(&letter, message).unwrap();
        std::fs::write(&secret, format!("{password}\n")).unwrap();
        let mut command = self.lab.client_command(find_program("warren").unwrap());
        command.args(["send", "--server", &format!("203.0.113.10:{port}"), "--insecure"]);
        command.args(["--tls", if port == 465 { "implicit" } else { "starttls" }]);
        command.args(["--user", login, "--password-file"]).arg(&secret).args(["--from", from]);
        for recipient in to {
            command.args(["--to", recipient]);
        }
        let output = command.arg(&letter).stdin(Stdio::null()).output().unwrap();
        let _ = std::fs::remove_file(letter);
        let _ = std::fs::remove_file(secret);
        let text = [output.stdout, output.stderr].map(|t| String::from_utf8_lossy(&t).into_owned()).concat();
        Sent { accepted: output.status.success(), text }
    }

    /// A plain SMTP session from the client host with one of the node's ports.
    pub fn talk<T: Send>(
        &self,
        port: u16,
        script: impl FnOnce(&mut Dialogue) -> std::io::Result<T> + Send,
    ) -> std::io::Result<T> {
        let server = SocketAddr::from(([203, 0, 113, 10], port));
        crate::inside(&self.lab.namespace("client").unwrap(), || {
            let (mut dialogue, _) = Dialogue::open(server)?;
            script(&mut dialogue)
        })
    }

    /// Mail from outside to port 25; the replies to MAIL, each RCPT and the message.
    pub fn inject(&self, from: &str, to: &[&str], message: &[u8]) -> std::io::Result<Vec<String>> {
        self.talk(25, |smtp| {
            smtp.say("EHLO client.example")?;
            let replies = smtp.mail(from, to, message)?;
            smtp.say("QUIT")?;
            Ok(replies)
        })
    }

    /// Waits for a line of the node's log that contains this.
    pub fn wait_for_log(&self, text: &str) -> String {
        self.log.wait_for(text, PATIENCE)
    }

    /// The node's log so far.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// What the node said, once all its programs have ended.
    pub fn whole_log(&self) -> String {
        self.log.whole(PATIENCE)
    }

    /// Waits until the question is answered with something.
    pub fn wait_until<T>(&self, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            assert!(Instant::now() < end, "waited in vain for {what}; the node's log:\n{}", self.log());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Pid of `warren up`.
    pub fn pid(&self) -> u32 {
        self.up.id()
    }

    /// Pids of the node's programs with this name (`warren-proxy`, …); `maker` and what runs in containers (`warren-msa`, Postfix's
    /// `master`) too.
    pub fn pids(&self, program: &str) -> Vec<u32> {
        let all = leftovers::processes();
        let up = self.up.id();
        let children: Vec<u32> = all.iter().filter(|(_, p)| p.parent == up).map(|(pid, _)| *pid).collect();
        let name = |p: &leftovers::Process| {
            let mut words = p.command.split(' ');
            let first = words.next().unwrap_or_default().rsplit('/').next().unwrap_or_default().to_owned();
            if words.next() == Some("maker") { "maker".to_owned() } else { first }
        };
        let ours = |pid: u32, p: &leftovers::Process| match program {
            "warren-msa" | "warren-init" | "master" => p.cgroups.contains(&format!("/{}/", self.cgroup)),
            "maker" => children.contains(&p.parent),
            _ => children.contains(&pid),
        };
        all.iter().filter(|(pid, p)| name(p) == program && ours(*pid, p)).map(|(pid, _)| *pid).collect()
    }

    /// `kill -9`, of one program; returns when that process is gone.
    pub fn kill(&self, program: &str) {
        let pid = self.wait_until(program, || self.pids(program).first().copied());
        kill(pid, Signal::KILL);
        self.wait_until("its end", || (!self.pids(program).contains(&pid)).then_some(()));
    }

    /// The state of a tenant as `warren tenants` prints it.
    pub fn state_of(&self, tenant: &str) -> Option<String> {
        let table = self.ask(&["tenants"]);
        let row = table.lines().find(|l| l.split_whitespace().any(|w| w == tenant))?;
        ["asleep", "starting", "awake", "draining", "failed", "suspended"]
            .into_iter()
            .find(|s| row.contains(s))
            .map(str::to_owned)
    }

    /// SIGTERM; then nothing of the node may be left but its configuration, volumes and records.
    pub fn stop(mut self) {
        self.remember_namespaces();
        kill(self.up.id(), Signal::TERM);
        let status = self.wait_for_end();
        assert!(status.success(), "warren up ended with {status}:\n{}", self.log());
        // Ours, not the node's.
        drop(self.disk.take());
        let left = self.leftovers();
        assert!(left.is_empty(), "left behind:\n{left}\nthe node's log:\n{}", self.log());
    }

    /// `kill -9` of `warren up` and everything that it runs, at once; containers too if asked.
    pub fn crash(&mut self, containers: bool) {
        self.kill_all(containers);
    }

    /// Returns when `warren up` is dead, as a service manager would learn it. The others may still be dying, and hold what they
    /// have open until their last thread is gone: the next `warren up` must cope. Their pidfds tell when it is over.
    fn kill_all(&mut self, containers: bool) -> Vec<OwnedFd> {
        let mut pids = vec![self.up.id()];
        for program in
            ["warren-platform", "warren-proxy", "warren-resolver", "warren-receiver", "warren-launcher", "maker"]
        {
            pids.extend(self.pids(program));
        }
        if containers {
            pids.extend(self.pids("warren-msa"));
        }
        self.remember_namespaces();
        let killed = pids.iter().filter_map(|pid| pidfd_open(raw(*pid), PidfdFlags::empty()).ok()).collect();
        for pid in &pids {
            kill(*pid, Signal::KILL);
        }
        self.wait_for_end();
        killed
    }

    /// What a power cut and a boot leave: nothing runs, the run directory is empty, and of the state directory only what was synced is
    /// there, which the platform's journal is not.
    pub fn reboot(&mut self) {
        for process in self.kill_all(true) {
            let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
            assert!(poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&patience)).unwrap() > 0, "it does not die");
        }
        // Waiting slots too.
        self.wait_until("the end of everything", || {
            let group = [format!("/{}/", self.cgroup), format!("/{}\n", self.cgroup)];
            let ours = |p: &leftovers::Process| group.iter().any(|group| p.cgroups.contains(group));
            let left: Vec<u32> = leftovers::processes().iter().filter(|(_, p)| ours(p)).map(|(pid, _)| *pid).collect();
            left.iter().for_each(|pid| kill(*pid, Signal::KILL));
            left.is_empty().then_some(())
        });
        std::fs::remove_dir_all(self.run_dir()).unwrap();
        let _ = std::fs::remove_file(self.state_dir().join("platform/due.jsonl"));
        self.restart();
    }

    /// What is left of the node on the machine.
    pub fn leftovers(&self) -> String {
        let namespaces = self.namespaces.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        leftovers::of(self.folder.path(), &self.run_dir(), &self.cgroup, &namespaces)
    }

    fn remember_namespaces(&self) {
        let seen = leftovers::namespaces(&self.cgroup, self.up.id());
        self.namespaces.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(seen);
    }

    /// Waits for `warren up` to end.
    pub fn wait_for_end(&mut self) -> std::process::ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.up.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "warren up does not end:\n{}", self.log());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

impl Drop for Node<'_> {
    /// After a failed scenario: the node goes, its log is shown.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the node's log:\n{}", self.log());
        }
        if let Ok(None) = self.up.try_wait() {
            kill(self.up.id(), Signal::TERM);
            let end = Instant::now() + Duration::from_secs(30);
            while let Ok(None) = self.up.try_wait() {
                if Instant::now() > end {
                    let _ = self.up.kill();
                    let _ = self.up.wait();
                }
                std::thread::park_timeout(Duration::from_millis(20));
            }
        }
        drop(self.disk.take());
        if !self.leftovers().is_empty() {
            let _ = self.warren(&["down"]);
        }
    }
}

fn kill(pid: u32, signal: Signal) {
    let _ = kill_process(raw(pid), signal);
}

fn raw(pid: u32) -> Pid {
    i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid")
}

fn run_up(lab: &Lab, folder: &Path, log: &Arc<Log>) -> Child {
    // Also when this process is killed, or aborts: then nobody would stop the node.
    let mut command = lab.command_in_node("setpriv");
    command.args(["--pdeathsig", "TERM"]).arg(find_program("warren").unwrap());
    command.arg("up").arg("--config").arg(folder.join("etc"));
    let mut up = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (out, err) = (up.stdout.take().unwrap(), up.stderr.take().unwrap());
    log.collect(out);
    log.collect(err);
    up
}
