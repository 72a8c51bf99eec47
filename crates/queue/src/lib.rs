//! warren-queue.
