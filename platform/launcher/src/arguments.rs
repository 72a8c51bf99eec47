//! The command line. Read by hand: the launcher links as little as it can.

use std::ffi::OsString;
use std::path::PathBuf;

use warren_launcher_api::ImageName;

/// What `--help` prints.
pub const USAGE: &str = "\
usage: warren-launcher --state DIR --run DIR --images DIR [options]
       warren-launcher check --state DIR --images DIR [--cgroup NAME]
       warren-launcher bundle --images DIR [--image NAME]

  --state DIR         volumes of tenants (on ext4, xfs or btrfs)
  --run DIR           state of running containers, launcher.sock
  --images DIR        images, one directory each
  --cgroup NAME       control group below our own that holds the containers [warren]
  --slots N           containers kept ready [4]
  --image NAME        image to keep them ready for [msa]
  --platform-uid U    user who may wake and stop tenants (root always may)
  --proxy-uid U       user who may hold exit doors
  --resolver-uid U    user who may hold resolver doors
  --grace-ms MS       time between SIGTERM and SIGKILL when the launcher ends [5000]";

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// The launcher.
    Run(Options),
    /// The maker, started by the launcher only.
    Maker,
    /// The watcher, started by the launcher only.
    Watcher,
    /// Say what is wrong with this machine, and go.
    Check(Options),
    /// Print what a container is, for any OCI runtime, and go.
    Bundle(Options),
    /// Print [`USAGE`].
    Help,
}

/// The options, with their defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `--state`
    pub state: PathBuf,
    /// `--run`
    pub run: PathBuf,
    /// `--images`
    pub images: PathBuf,
    /// `--cgroup`
    pub cgroup: String,
    /// `--slots`
    pub slots: usize,
    /// `--image`
    pub image: ImageName,
    /// `--platform-uid`
    pub platform_uid: u32,
    /// `--proxy-uid`
    pub proxy_uid: u32,
    /// `--resolver-uid`
    pub resolver_uid: u32,
    /// `--grace-ms`
    pub grace_ms: u32,
}

/// Most slots that one may ask for: each holds a process and about a MiB.
const MAX_SLOTS: usize = 1000;

/// Reads the arguments after the program's name.
pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Command, String> {
    let mut arguments = arguments.map(|argument| {
        argument.into_string().map_err(|argument| format!("{} is not valid text", argument.to_string_lossy()))
    });
    let (mut check, mut bundle, mut state, mut run, mut images) = (false, false, None, None, None);
    let mut options = Options {
        state: PathBuf::new(),
        run: PathBuf::new(),
        images: PathBuf::new(),
        cgroup: "warren".to_owned(),
        slots: 4,
        image: ImageName::new("msa").map_err(|error| error.to_string())?,
        platform_uid: 0,
        proxy_uid: 0,
        resolver_uid: 0,
        grace_ms: 5000,
    };
    let mut first = true;
    while let Some(name) = arguments.next().transpose()? {
        match name.as_str() {
            "maker" if first => return Ok(Command::Maker),
            "watcher" if first => return Ok(Command::Watcher),
            "check" if first => check = true,
            "bundle" if first => bundle = true,
            "--help" | "-h" => return Ok(Command::Help),
            name => {
                let value = arguments.next().transpose()?.ok_or_else(|| format!("{name} wants a value\n{USAGE}"))?;
                match name {
                    "--state" => state = Some(absolute(&value)?),
                    "--run" => run = Some(absolute(&value)?),
                    "--images" => images = Some(absolute(&value)?),
                    "--cgroup" => options.cgroup = cgroup(&value)?,
                    "--slots" => options.slots = number(name, &value, MAX_SLOTS as u32)? as usize,
                    "--image" => options.image = ImageName::new(&value).map_err(|error| error.to_string())?,
                    "--platform-uid" => options.platform_uid = number(name, &value, u32::MAX)?,
                    "--proxy-uid" => options.proxy_uid = number(name, &value, u32::MAX)?,
                    "--resolver-uid" => options.resolver_uid = number(name, &value, u32::MAX)?,
                    "--grace-ms" => options.grace_ms = number(name, &value, 600_000)?,
                    _ => return Err(format!("unknown option {name}\n{USAGE}")),
                }
            }
        }
        first = false;
    }
    options.images = images.ok_or_else(|| format!("--images is missing\n{USAGE}"))?;
    if bundle {
        return Ok(Command::Bundle(options));
    }
    options.state = state.ok_or_else(|| format!("--state is missing\n{USAGE}"))?;
    if check {
        return Ok(Command::Check(options));
    }
    options.run = run.ok_or_else(|| format!("--run is missing\n{USAGE}"))?;
    Ok(Command::Run(options))
}

/// The launcher's directory changes with the mount namespaces it visits, so paths must not depend on it.
fn absolute(value: &str) -> Result<PathBuf, String> {
    std::path::absolute(value).map_err(|error| format!("{value}: {error}"))
}

fn cgroup(value: &str) -> Result<String, String> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if value.is_empty() || value.len() > 100 || value.starts_with('.') || !value.bytes().all(valid) {
        return Err(format!("--cgroup {value:?}: a name of letters, digits, - and _ is wanted"));
    }
    Ok(value.to_owned())
}

fn number(name: &str, value: &str, most: u32) -> Result<u32, String> {
    value
        .parse()
        .ok()
        .filter(|number| *number <= most)
        .ok_or_else(|| format!("{name} {value:?}: a number up to {most} is wanted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn defaults_and_values() {
        let Command::Run(options) = parsed("--state /s --run /r --images /i --slots 9 --proxy-uid 7").unwrap() else {
            panic!("not a run");
        };
        assert_eq!((options.slots, options.proxy_uid, options.platform_uid), (9, 7, 0));
        assert_eq!((options.cgroup.as_str(), options.image.as_str()), ("warren", "msa"));
        assert!(matches!(parsed("check --state /s --images /i").unwrap(), Command::Check(_)));
        assert_eq!(parsed("maker").unwrap(), Command::Maker);
        assert!(matches!(parsed("bundle --images /i").unwrap(), Command::Bundle(_)));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, expected) in [
            ("--run /r --images /i", "--state is missing"),
            ("--state /s --images /i", "--run is missing"),
            ("--state", "wants a value"),
            ("--slots many", "number up to 1000"),
            ("--cgroup ../x", "--cgroup"),
            ("--cgroup a/b", "--cgroup"),
            ("--speed 9", "unknown option"),
        ] {
            let error = parsed(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
