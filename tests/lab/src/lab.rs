//! The owner's side: start a lab, reach into it, let it go.

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::config::LabConfig;
use crate::mailbox::Mailbox;
use crate::persona::{LogEntry, list_path};
use crate::world::{HOME, Ready, Report, key_path};

/// How long the last process of a lab may take to go.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// A running lab. It ends when this is dropped, or when this process ends in whatever way.
#[derive(Debug)]
pub struct Lab {
    child: Child,
    /// Never written: its end is the signal.
    lifeline: Option<ChildStdin>,
    ready: Ready,
}

/// Why there is no lab.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A program of this workspace is not where it should be.
    #[error("{name} is neither in WARREN_BIN_DIR nor beside this program: run `cargo build -p {package}`")]
    NotBuilt {
        /// The program.
        name: String,
        /// The package that builds it.
        package: String,
    },
    /// The lab's process could not be started.
    #[error("starting {program}: {source}")]
    Start {
        /// What was run.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The lab said why it could not be built.
    #[error("{0}")]
    Failed(String),
    /// The lab said nothing.
    #[error("the lab said nothing within {0:?}")]
    Silent(Duration),
}

/// Finds a program of this workspace: in `WARREN_BIN_DIR`, beside this program, or one directory up (tests live in
/// `deps/`).
pub fn find_program(name: &str) -> Result<PathBuf, LabError> {
    let mut places = Vec::new();
    if let Some(dir) = std::env::var_os("WARREN_BIN_DIR") {
        places.push(PathBuf::from(dir));
    } else if let Ok(own) = std::env::current_exe() {
        places.extend(own.ancestors().skip(1).take(2).map(Path::to_owned));
    }
    let found = places.into_iter().map(|dir| dir.join(name)).find(|path| path.is_file());
    let package = match name {
        "warren" => "warren-platform",
        "warren-resolver" => "warren-proxy",
        _ => name,
    };
    found.ok_or_else(|| LabError::NotBuilt { name: name.to_owned(), package: package.to_owned() })
}

impl Lab {
    /// Starts the default lab and returns when every host answers.
    pub fn start() -> Result<Self, LabError> {
        Self::start_with(&LabConfig::default())
    }

    /// Starts a lab and returns when every host answers.
    pub fn start_with(config: &LabConfig) -> Result<Self, LabError> {
        use std::os::unix::process::CommandExt;
        let program = find_program("warren-lab")?;
        let config_json = serde_json::to_string(config).map_err(|e| LabError::Failed(e.to_string()))?;
        let mut child = Command::new(&program)
            .args(["serve", "--config", &config_json])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A terminal's Ctrl-C is for the owner, who may still want the lab while it stops.
            .process_group(0)
            .spawn()
            .map_err(|source| LabError::Start { program, source })?;
        let lifeline = child.stdin.take();
        let stdout = child.stdout.take().expect("it was asked for");
        let ready = Ready { pid: 0, namespaces: Default::default(), authority: String::new() };
        let mut lab = Lab { child, lifeline, ready };
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            // One line, then the reader is dropped: the lab says nothing more.
            let read = BufReader::new(stdout).read_line(&mut line);
            let _ = sender.send(read.map(|_| line));
        });
        let patience = config.start_deadline + Duration::from_secs(10);
        let line = match receiver.recv_timeout(patience) {
            Ok(Ok(line)) => line,
            Ok(Err(e)) => return Err(LabError::Failed(e.to_string())),
            Err(_) => return Err(LabError::Silent(patience)),
        };
        match serde_json::from_str(&line) {
            Ok(Report::Ready(ready)) => lab.ready = ready,
            Ok(Report::Failed(why)) => return Err(LabError::Failed(why)),
            Err(_) => return Err(LabError::Failed("the lab ended without a report".into())),
        }
        Ok(lab)
    }

    /// Pid 1 of the lab, as this process counts.
    pub fn pid(&self) -> u32 {
        self.ready.pid
    }

    /// Pid of the process that this one started; it waits for the lab.
    pub fn outer_pid(&self) -> u32 {
        self.child.id()
    }

    /// A host's network namespace, as a path that `nsenter --net=` takes.
    pub fn namespace(&self, host: &str) -> Option<PathBuf> {
        self.ready.namespaces.get(host).map(|fd| format!("/proc/{}/fd/{fd}", self.ready.pid).into())
    }

    /// Hosts that have a namespace.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.ready.namespaces.keys().map(String::as_str)
    }

    /// The node's network namespace.
    pub fn node_ns(&self) -> PathBuf {
        self.namespace("node").expect("every lab has a node")
    }

    /// A command that runs on the node's network, and in this process's own mount and pid namespaces.
    pub fn command_in_node(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        enter(&self.node_ns(), program.as_ref())
    }

    /// A command that runs on the network of somebody else's machine, 198.51.100.200.
    pub fn client_command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        enter(&self.namespace("client").expect("every lab has a client"), program.as_ref())
    }

    /// A user's mailbox at one of the lab's domains.
    pub fn mailbox(&self, domain: &str, user: &str) -> Mailbox {
        Mailbox::new(&self.home().join("mail"), domain, user)
    }

    /// Everything that happened at a persona, in order.
    pub fn persona_log(&self, name: &str) -> std::io::Result<Vec<LogEntry>> {
        let log = std::fs::read_to_string(self.home().join("log").join(name))?;
        // A last line without its end is still being written.
        let whole = log.rsplit_once('\n').map(|(whole, _)| whole).unwrap_or_default();
        Ok(whole.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Says who is on the list of this name from now on; personas ask it by [`When::Listed`](crate::When::Listed).
    pub fn set_list(&self, name: &str, addresses: &[IpAddr]) -> std::io::Result<()> {
        let list = list_path(&self.home(), name);
        let lines: String = addresses.iter().map(|address| format!("{address}\n")).collect();
        // In one step: who asks meanwhile finds the old list or the new one.
        let fresh = list.with_extension("new");
        std::fs::write(&fresh, lines)?;
        std::fs::rename(fresh, list)
    }

    /// What a real MX program wrote about itself.
    pub fn host_log(&self, name: &str) -> std::io::Result<String> {
        let mut log = String::from_utf8_lossy(&std::fs::read(self.home().join("log").join(name))?).into_owned();
        // Exim writes files of its own.
        let exim = self.home().join("hosts").join(name).join("upper/var/log/exim4");
        for part in ["mainlog", "rejectlog", "paniclog"] {
            if let Ok(text) = std::fs::read(exim.join(part)) {
                log.push_str(&String::from_utf8_lossy(&text));
            }
        }
        Ok(log)
    }

    /// Certificate of the lab's authority, PEM: trust it and the certificates of all hosts verify.
    pub fn authority_pem(&self) -> &str {
        &self.ready.authority
    }

    /// The TLSA record that speaks for a persona's key: `3 1 1` and the digest.
    pub fn tlsa(&self, persona: &str) -> std::io::Result<String> {
        std::fs::read_to_string(key_path(&self.home(), persona))
    }

    fn home(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{HOME}", self.ready.pid))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        let end = Instant::now() + GONE_WITHIN;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() > end {
                // Its pid 1 dies with it, and the rest with that.
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }
}

fn enter(namespace: &Path, program: &std::ffi::OsStr) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.display())).arg("--").arg(program);
    command
}
