//! A command that is understood is written as one line, which is understood as the same command.
use warren_smtp::Command;

pub fn run(line: &[u8]) {
    let Ok(command) = Command::parse(line) else { return };
    let written = command.to_string();
    assert!(!written.contains(['\r', '\n', '\0']), "{written:?}");
    assert_eq!(Command::parse(written.as_bytes()), Ok(command), "{written:?}");
}
