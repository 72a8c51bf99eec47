//! Keeping one program running.
//!
//! A keeper is a task: it spawns the program, hears its READY=1, passes its output on, and when it dies starts it again
//! after a wait that grows with every quick death. It ends only by an order to stop.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use warren_daemon::{Backoff, Escaped};

use super::crew::Program;
use super::{leftovers, priority};

/// Waits before restarts: soon, since clients are waiting; at most ten seconds, since whatever is broken may be mended
/// at any time.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A program that ran this long was well: its next death counts as its first.
const LIVED_WELL: Duration = Duration::from_secs(60);

/// How long a program may take to drain. Past it, it is killed: what it had not acknowledged, its peer still has.
const DRAIN: Duration = Duration::from_secs(30);

/// Longest line of output that is passed on in one piece.
const LINE_MAX: u64 = 16 * 1024;

/// Descriptors that a program inherits begin here.
const FIRST_SOCKET: i32 = 3;

/// What a keeper reports.
#[derive(Debug)]
pub enum News {
    /// The program reported READY=1.
    Ready { pid: u32 },
    /// It died without being asked to.
    Died { how: String },
}

/// What a keeper is told. Later ones include earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    /// Keep it running; the number grows with every reload.
    Run(u64),
    /// End it in order.
    Stop,
    /// End it now.
    Kill,
}

/// The handle of a keeper.
pub struct Keeper {
    pub name: &'static str,
    orders: watch::Sender<Order>,
    task: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts the program, and keeps it.
    pub fn start(program: Arc<Program>, news: mpsc::Sender<News>) -> Self {
        let (orders, heard) = watch::channel(Order::Run(0));
        Self { name: program.name, orders, task: Some(tokio::spawn(keep(program, heard, news))) }
    }

    /// Has the program read its configuration again.
    pub fn reload(&self) {
        self.orders.send_modify(|order| {
            if let Order::Run(count) = order {
                *count += 1;
            }
        });
    }

    /// Ends the program at once.
    pub fn kill(&self) {
        self.orders.send_replace(Order::Kill);
    }

    /// Ends the program in order. May be called again after being dropped in the middle.
    pub async fn stop(&mut self) {
        self.orders.send_modify(|order| *order = (*order).max(Order::Stop));
        if let Some(task) = &mut self.task {
            // A keeper that panicked has dropped its child, which ends with it.
            let _ = task.await;
            self.task = None;
        }
    }
}

async fn keep(program: Arc<Program>, mut orders: watch::Receiver<Order>, news: mpsc::Sender<News>) {
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    loop {
        let began = Instant::now();
        let how = match Life::begin(&program) {
            Err(error) => format!("cannot be run: {error}"),
            Ok(life) => match life.live(&mut orders, &news).await {
                Some(status) => format!("it ended ({status})"),
                None => return,
            },
        };
        if began.elapsed() >= LIVED_WELL {
            backoff.succeeded();
        }
        let wait = backoff.failed();
        // Nobody listens after the start: then the line below is the news.
        let starting = news.send(News::Died { how: how.clone() }).await.is_ok();
        if !starting {
            say(program.name, &format!("{how}; starting it again in {:.1} s", wait.as_secs_f32()));
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            Ok(_) = orders.wait_for(|order| *order >= Order::Stop) => return,
        }
    }
}

/// One run of a program.
struct Life<'a> {
    program: &'a Program,
    child: Child,
    notify: UnixDatagram,
    output: Vec<JoinHandle<()>>,
}

impl<'a> Life<'a> {
    fn begin(program: &'a Program) -> io::Result<Self> {
        let notify_path = program.run.join("notify").join(program.name);
        let notify = notify_socket(program, &notify_path)?;
        let mut command = command(program, &notify_path)?;
        let mut child = priority::start_with(program.nice, || command.spawn())?;
        let mut output = Vec::new();
        if let Some(out) = child.stdout.take() {
            output.push(tokio::spawn(pass_on(program.name, out)));
        }
        if let Some(err) = child.stderr.take() {
            output.push(tokio::spawn(pass_on(program.name, err)));
        }
        if let Some(pid) = child.id()
            && let Err(error) = leftovers::note(&program.run, program.name, pid)
        {
            say(program.name, &format!("its pid file cannot be written: {error}"));
        }
        Ok(Self { program, child, notify, output })
    }

    /// Until it dies (how), or is ended by an order (`None`).
    async fn live(mut self, orders: &mut watch::Receiver<Order>, news: &mpsc::Sender<News>) -> Option<ExitStatus> {
        let mut word = [0; 512];
        let mut reloads = match *orders.borrow() {
            Order::Run(count) => count,
            Order::Stop | Order::Kill => 0,
        };
        let died = loop {
            tokio::select! {
                status = self.child.wait() => break status.ok(),
                Ok(length) = self.notify.recv(&mut word) => {
                    if word[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1")
                        && let Some(pid) = self.child.id()
                        // Nobody listens after the start: then it is a restart that succeeded.
                        && news.try_send(News::Ready { pid }).is_err()
                    {
                        say(self.program.name, &format!("ready again, process {pid}"));
                    }
                }
                order = changed(orders, reloads) => {
                    match order {
                        Order::Run(count) => {
                            reloads = count;
                            if self.program.reloads {
                                self.signal(Signal::HUP);
                            }
                        }
                        Order::Stop | Order::Kill => {
                            self.end(orders).await;
                            self.close().await;
                            return None;
                        }
                    }
                }
            }
        };
        self.close().await;
        Some(died.unwrap_or_default())
    }

    /// SIGTERM; SIGKILL past the time for draining, or when patience is over.
    async fn end(&mut self, orders: &mut watch::Receiver<Order>) {
        self.signal(Signal::TERM);
        tokio::select! {
            _ = self.child.wait() => return,
            () = tokio::time::sleep(DRAIN) => say(self.program.name, &format!("not done after {} s, killing it", DRAIN.as_secs())),
            Ok(_) = orders.wait_for(|order| *order == Order::Kill) => {}
        }
        self.signal(Signal::KILL);
        // Reaps it; a process that even SIGKILL does not end is stuck in the kernel.
        let _ = tokio::time::timeout(DRAIN, self.child.wait()).await;
    }

    /// What is left of a run: the rest of its output, its pid file.
    async fn close(self) {
        for output in self.output {
            // Processes that outlive it (the launcher's containers) may hold the other end.
            let _ = tokio::time::timeout(Duration::from_millis(200), output).await;
        }
        let _ = fs::remove_file(leftovers::pid_file(&self.program.run, self.program.name));
        let _ = fs::remove_file(self.program.run.join("notify").join(self.program.name));
    }

    /// Signals the child, which is not reaped while it has an id.
    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        if let Some(pid) = pid
            && let Err(error) = kill_process(pid, signal)
        {
            say(self.program.name, &format!("cannot be signalled: {error}"));
        }
    }
}

/// The next order that is not the one in force. Whoever lost the handle wants an end.
async fn changed(orders: &mut watch::Receiver<Order>, reloads: u64) -> Order {
    orders.wait_for(|order| *order != Order::Run(reloads)).await.map_or(Order::Stop, |order| *order)
}

/// Where a program reports readiness; nobody but its user (and root) can write there.
fn notify_socket(program: &Program, path: &PathBuf) -> io::Result<UnixDatagram> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixDatagram::bind(path)?;
    chown(path, Some(program.owner.uid), Some(program.owner.gid))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(socket)
}

fn command(program: &Program, notify: &PathBuf) -> io::Result<Command> {
    let mut command = std::process::Command::new(&program.executable);
    command
        .args(&program.arguments)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // The operator's environment is not the programs' business, but for what makes them talk more.
    command.env_clear().env("NOTIFY_SOCKET", notify).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    for name in [warren_daemon::log::FILTER_VARIABLE, "RUST_BACKTRACE"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    if program.owner.uid != 0 {
        // Setting a user also drops root's supplementary groups.
        command.uid(program.owner.uid).gid(program.owner.gid);
        command.env(warren_daemon::SUPERVISOR_VARIABLE, std::process::id().to_string());
    }
    // A Ctrl-C at the terminal is for the supervisor, which stops programs in order.
    command.process_group(0);
    if !program.sockets.is_empty() {
        let names: Vec<&str> = program.sockets.iter().map(|(name, _)| *name).collect();
        command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        let mapping = |(child_fd, (_, socket)): (i32, &(&str, std::os::fd::OwnedFd))| {
            Ok(FdMapping { parent_fd: socket.try_clone()?, child_fd })
        };
        let mappings = (FIRST_SOCKET..).zip(&program.sockets).map(mapping).collect::<io::Result<Vec<_>>>()?;
        command.fd_mappings(mappings).map_err(io::Error::other)?;
    }
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    Ok(command)
}

/// Passes a program's output on, line by line, under its name.
async fn pass_on(name: &'static str, output: impl AsyncRead + Unpin) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut output).take(LINE_MAX).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let line = String::from_utf8_lossy(&line);
                // The name stands there already.
                let said = line.strip_prefix(name).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&line);
                say(name, said.trim_end());
            }
        }
    }
}

/// A line on stderr under a program's name; in colour at a terminal. What the line says is escaped.
fn say(name: &str, line: &str) {
    let mut err = io::stderr().lock();
    let written = if err.is_terminal() {
        writeln!(err, "\x1b[36m{name}\x1b[0m: {}", Escaped(line))
    } else {
        writeln!(err, "{name}: {}", Escaped(line))
    };
    // Nobody is left to tell when stderr is gone.
    let _ = written;
}
