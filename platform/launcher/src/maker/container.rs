//! The one call into libcontainer.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::rc::Rc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use oci_spec::runtime::Spec;
use warren_launcher_api::CellId;

use super::cell::Cell;
use super::{bundle, dev_null};
use crate::image::Image;
use crate::layout;

/// Loads the filter as the last act before exec. libcontainer would compile it anew in each container, and load it before
/// the wait for the start, so that it had to allow libcontainer's own calls.
#[derive(Clone)]
struct ConfineAndExec {
    filter: Rc<Vec<libc::sock_filter>>,
}

impl Executor for ConfineAndExec {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let arguments = arguments(spec).ok_or(ExecutorError::InvalidArg)?;
        let program = arguments.first().ok_or(ExecutorError::InvalidArg)?;
        let error = crate::sys::confine_and_exec(&self.filter, program, &arguments);
        Err(ExecutorError::Other(format!("exec {program:?}: {error}")))
    }

    /// The last thing that happens ahead of need: after it, init waits to be started.
    fn setup_envs(&self, envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        crate::sys::replace_environment(envs);
        crate::sys::close_proc_handles().map_err(|error| ExecutorSetEnvsError::Other(format!("close /proc: {error}")))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let program = arguments(spec).and_then(|arguments| arguments.into_iter().next());
        match program {
            Some(program) if program.as_bytes().starts_with(b"/") => Ok(()),
            _ => Err(ExecutorValidationError::ArgValidationError("args must begin with an absolute path".into())),
        }
    }
}

fn arguments(spec: &Spec) -> Option<Vec<CString>> {
    let arguments = spec.process().as_ref()?.args().as_ref()?;
    arguments.iter().map(|argument| CString::new(argument.as_str()).ok()).collect()
}

/// Creates the container of `cell`, up to the point where only its start is missing; answers its init's pid. The entrances are in
/// place as descriptors from 3 on.
pub fn create(
    run: &Path,
    id: CellId,
    image: &Image,
    cell: &Cell,
    filter: Rc<Vec<libc::sock_filter>>,
) -> io::Result<i32> {
    let name = layout::container_name(id);
    let bundle = layout::bundles(run).join(&name);
    fs::create_dir(&bundle)?;
    let config = bundle::config(image, cell.user.as_raw_fd(), cell.net.as_raw_fd());
    fs::write(bundle.join("config.json"), serde_json::to_vec(&config)?)?;
    let builder = ContainerBuilder::new(name, SyscallType::default())
        .with_root_path(layout::containers(run))
        .map_err(io::Error::other)?
        .with_executor(ConfineAndExec { filter })
        .with_preserved_fds(cell.entrances.len() as i32)
        .with_stdin(dev_null()?)
        .with_stdout(dev_null()?)
        .with_stderr(dev_null()?);
    let container = builder
        .as_init(&bundle)
        .with_systemd(false)
        .with_detach(true)
        .build()
        .map_err(|error| io::Error::other(chain(&error)))?;
    let pid = container.pid().ok_or_else(|| io::Error::other("libcontainer gave no pid"))?;
    Ok(pid.as_raw())
}

/// An error with all its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
