//! `warren passwd --stdin`: a password hash for the `[accounts]` of a tenant.

use std::io::{self, BufRead, IsTerminal};

use anyhow::{Context, bail};
use argon2::{Algorithm, Argon2, Params, Version};
use password_hash::PasswordHasher;

use crate::tell;

#[derive(clap::Args)]
pub struct Arguments {
    /// Read the password from standard input (its first line)
    #[arg(long, required = true)]
    stdin: bool,
}

/// OWASP's first choice for Argon2id (2023): 19 MiB, two passes, one lane. Some 20 ms on a small machine: what a guess
/// costs an attacker, and what a login costs the front door, which checks a bounded number at a time.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Longest password. A front door takes no longer ones, whose hashing would be work for nothing.
const LONGEST: u64 = 1_024;

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    debug_assert!(arguments.stdin, "the only way in");
    if io::stdin().is_terminal() {
        eprintln!("warren: type the password and press Enter; it is shown as you type");
    }
    tell::line(&hash(&first_line(io::stdin().lock())?)?)
}

/// The password on a line of its own.
pub fn first_line(input: impl BufRead) -> anyhow::Result<String> {
    let mut line = String::new();
    input.take(LONGEST + 2).read_line(&mut line).context("reading the password")?;
    let password = line.trim_end_matches(['\r', '\n']);
    match password.len() {
        0 => bail!("no password on standard input"),
        length if length as u64 > LONGEST => bail!("the password is longer than {LONGEST} bytes"),
        _ if password.contains('\0') => bail!("the password has a NUL in it, which SASL PLAIN cannot carry"),
        _ => Ok(password.into()),
    }
}

/// The hash that belongs into a tenant's file.
pub fn hash(password: &str) -> anyhow::Result<String> {
    let parameters = Params::new(MEMORY_KIB, PASSES, LANES, None).context("argon2 parameters")?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters);
    let hash = argon2.hash_password(password.as_bytes()).context("hashing the password")?;
    Ok(hash.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use password_hash::PasswordVerifier;

    #[test]
    fn the_hash_verifies_and_is_salted() {
        let (one, two) = (hash("correct horse").unwrap(), hash("correct horse").unwrap());
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$") && one != two);
        let parsed = password_hash::phc::PasswordHash::new(&one).unwrap();
        Argon2::default().verify_password(b"correct horse", &parsed).unwrap();
        assert!(Argon2::default().verify_password(b"wrong", &parsed).is_err());
    }

    #[test]
    fn only_the_first_line_counts() {
        assert_eq!(first_line(&b"pass word \r\nrest"[..]).unwrap(), "pass word ");
        assert_eq!(first_line(&b"\n"[..]).unwrap_err().to_string(), "no password on standard input");
        let long = vec![b'x'; 5_000];
        assert_eq!(first_line(&long[..]).unwrap_err().to_string(), "the password is longer than 1024 bytes");
    }
}
