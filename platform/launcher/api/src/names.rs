//! Names that reach file systems, cgroups and logs: valid by construction.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest name, as for a DNS label.
const MAX_NAME: usize = 63;

/// A name that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not a name: write 1 to 63 of a-z, 0-9 and -, beginning with a letter or digit")]
pub struct NameError {
    /// The beginning of what was found.
    pub found: String,
}

fn checked(text: &str) -> Result<Arc<str>, NameError> {
    let mut bytes = text.bytes();
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let valid =
        text.len() <= MAX_NAME && bytes.next().is_some_and(plain) && bytes.all(|byte| plain(byte) || byte == b'-');
    if valid { Ok(text.into()) } else { Err(NameError { found: text.chars().take(80).collect() }) }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "Cow<'_, str>", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes a name.
            pub fn new(text: &str) -> Result<$name, NameError> {
                checked(text).map($name)
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<$name, NameError> {
                $name::new(text)
            }
        }

        impl TryFrom<Cow<'_, str>> for $name {
            type Error = NameError;
            fn try_from(text: Cow<'_, str>) -> Result<$name, NameError> {
                $name::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.as_str().to_owned()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// A tenant's name, `[a-z0-9][a-z0-9-]{0,62}`.
    TenantName
}
name! {
    /// The name of an image directory, `[a-z0-9][a-z0-9-]{0,62}`.
    ImageName
}

/// One cell and its container. Never used again while the node's run directory exists, so a late message about an old cell
/// cannot meet a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CellId(pub u64);

impl fmt::Display for CellId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_mean_something_else_are_refused() {
        for bad in ["", "-a", "A", "a.b", "..", "a/b", "a b", "a\0", "a\n", "ä", "a_b", &"a".repeat(64)] {
            assert!(TenantName::new(bad).is_err(), "{bad:?}");
            assert!(serde_json::from_value::<TenantName>(serde_json::json!(bad)).is_err(), "{bad:?}");
        }
        for good in ["a", "0", "acme", "a-", "acme-2", &"a".repeat(63)] {
            assert_eq!(TenantName::new(good).unwrap().as_str(), good);
            assert_eq!(serde_json::to_string(&ImageName::new(good).unwrap()).unwrap(), format!("{good:?}"));
        }
    }
}
