//! How fast one cell is served: evenly, and no faster than a mail system needs. The platform hears its control channel the same way.

pub(crate) use warren_daemon::Pace;
