//! warren-bench.
