use std::time::Duration;

use crate::HubError;

/// What a download tells while it goes on.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// Everything that is not in the cache yet; not sent if nothing is missing.
    Start {
        /// Files to download.
        count: usize,
        /// Their bytes together, as far as the server says.
        bytes: u64,
    },
    /// A file begins.
    File {
        /// Its path in the model folder.
        name: &'a str,
        /// From 1 to `count`.
        index: usize,
        /// Files to download.
        count: usize,
        /// Its size.
        bytes: u64,
    },
    /// So many bytes of the current file are here. More than 0 at once if it is resumed; less than before if it must
    /// begin again.
    Bytes(u64),
    /// Another process is downloading this file; it is waited for.
    Waiting {
        /// Its path in the model folder.
        name: &'a str,
    },
    /// Something failed and is tried again after `wait`.
    Retry {
        /// What happened.
        reason: &'a HubError,
        /// Attempts that remain after the next one.
        left: u32,
        /// How long the pause is.
        wait: Duration,
    },
    /// The server cannot be reached, so the model is taken from the cache as it is.
    Offline {
        /// What happened.
        reason: &'a HubError,
    },
}
