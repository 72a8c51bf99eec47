//! The largest message, and that its file in the queue has room for it.

use warren_launcher_api::Limits as ContainerLimits;

use crate::checker::Checker;
use crate::defaults;
use crate::node_file::{Value, size};

/// The largest message: at most `most`, and so that its file has room for it. What is not written follows the file's size.
pub(crate) fn message_size(
    check: &mut Checker,
    raw: &Value,
    default: u64,
    most: u64,
    container: &ContainerLimits,
) -> u64 {
    let fits = container.file_bytes.saturating_sub(defaults::FILE_BESIDES);
    let message = size(check, raw.as_ref(), default.min(fits), 64 << 10, most);
    if let Some(raw) = raw.as_ref().filter(|_| message > fits) {
        let besides = defaults::FILE_BESIDES >> 10;
        check.problem(
            raw.span(),
            format!(
                "message_size {:?} is too near the file_size of {}K, expected at most {}K: a message's file also holds what is noted about its recipients, \
                 {besides}K",
                raw.get_ref().0,
                container.file_bytes >> 10,
                fits >> 10,
            ),
        );
    }
    message
}
