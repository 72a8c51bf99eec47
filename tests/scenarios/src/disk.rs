//! Disks that fail: one that is small enough to be filled, and one whose syncs go wrong under a running program.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a debugger may take to come and to go.
const PATIENCE: Duration = Duration::from_secs(30);

/// How large a file system is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Its size.
    pub mib: u64,
    /// Files and directories that it has room for; a few more, as it rounds.
    pub inodes: u32,
}

/// A file system of its own, in a file, for as long as this lives.
#[derive(Debug)]
pub struct Disk {
    at: PathBuf,
    _image: tempfile::NamedTempFile,
}

impl Disk {
    /// Makes one, and mounts it there.
    pub fn mount(at: &Path, size: Size) -> Disk {
        assert!(Path::new("/dev/loop-control").exists(), "no loop devices here: modprobe loop");
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(size.mib << 20).unwrap();
        let inodes = size.inodes.to_string();
        // Nothing is kept for root, and space is taken when it is written.
        let options = ["-q", "-F", "-m", "0", "-O", "^has_journal", "-N", &inodes];
        run(Command::new("mkfs.ext4").args(options).arg(image.path()));
        fs::create_dir_all(at).unwrap();
        run(Command::new("mount").args(["-o", "loop"]).arg(image.path()).arg(at));
        Disk { at: at.to_owned(), _image: image }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Also under a failed scenario, whose containers may be there still: then it goes with them.
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes empty files there until there is room for no more; how many.
pub fn fill_with_files(folder: &Path) -> usize {
    fs::create_dir(folder).unwrap();
    for n in 0.. {
        match File::create(folder.join(n.to_string())) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => return n,
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!("there is an end to every disk");
}

/// Writes a file until there is room for no more of it.
pub fn fill_with_bytes(path: &Path) {
    let mut file = File::create(path).unwrap();
    for size in [1 << 20, 4096, 1] {
        let piece = vec![0xa5; size];
        // Whatever fits of the last piece is written.
        while file.write_all(&piece).is_ok() {}
    }
    file.sync_all().unwrap();
}

/// Programs whose syncs fail with EIO for as long as this lives: strace answers in the kernel's place.
#[derive(Debug)]
pub struct Failing {
    strace: Child,
    pids: Vec<u32>,
}

impl Failing {
    /// From when this returns `calls` (`fsync,fdatasync`) of these processes fail, in all their threads, and of those that they start.
    pub fn of(pids: &[u32], calls: &str) -> Failing {
        let mut strace = Command::new("strace");
        strace.args(["-qq", "-f", "-o", "/dev/null"]);
        for pid in pids {
            strace.args(["-p", &pid.to_string()]);
        }
        strace.arg(format!("--trace={calls}")).arg(format!("--inject={calls}:error=EIO"));
        let strace =
            strace.stdin(Stdio::null()).spawn().unwrap_or_else(|e| panic!("strace: {e}: run deploy/prepare --lab"));
        let failing = Failing { strace, pids: pids.to_vec() };
        failing.wait(|tracer| tracer == failing.strace.id());
        failing
    }

    /// Waits until this holds of who traces each of their threads. Of several some may have ended by themselves.
    fn wait(&self, holds: impl Fn(u32) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            let there: Vec<Vec<u32>> = self.pids.iter().filter_map(|pid| tracers(*pid)).collect();
            if !there.is_empty() && there.iter().flatten().all(|tracer| holds(*tracer)) {
                return;
            }
            assert!(Instant::now() < end, "processes {:?} are not traced as they should be: {there:?}", self.pids);
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// From when this returns nothing fails any more.
    pub fn end(mut self) {
        self.detach();
        self.wait(|tracer| tracer == 0);
    }

    fn detach(&mut self) {
        if let Ok(None) = self.strace.try_wait() {
            // It lets go in order.
            let pid = i32::try_from(self.strace.id()).ok().and_then(Pid::from_raw).expect("a pid");
            let _ = kill_process(pid, Signal::TERM);
            let _ = self.strace.wait();
        }
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        self.detach();
    }
}

/// Who traces each thread of a process: 0 is nobody. `None`: it is gone.
fn tracers(pid: u32) -> Option<Vec<u32>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let status = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    let tracer = |status: String| status.lines().find_map(|line| line.strip_prefix("TracerPid:")?.trim().parse().ok());
    Some(status.filter_map(tracer).collect())
}
