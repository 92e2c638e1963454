use std::{io, path::Path};

/// What can go wrong while downloading a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A name, revision or variant that cannot be one.
    #[error("'{value}' is not a valid {what}; {hint}")]
    Invalid {
        /// What it should be.
        what: &'static str,
        /// What was given.
        value: String,
        /// What a valid one looks like.
        hint: &'static str,
    },
    /// Something that cannot be sent as an access token. It is not shown: it may be one, with something beside it.
    #[error(
        "the access token has characters that none has, such as spaces; set HF_TOKEN (or the file 'token' in HF_HOME) to the token alone"
    )]
    Token,
    /// No place for the cache.
    #[error("there is no home folder to keep models in; set HF_HOME to a folder")]
    NoHome,
    /// Downloads are switched off and the cache lacks something.
    #[error(
        "'{id}' is not complete in '{cache}' ({missing} is missing) and downloads are off; \
         unset HF_HUB_OFFLINE (--offline) once to download it"
    )]
    Offline {
        /// The model.
        id: String,
        /// The cache folder.
        cache: String,
        /// The first thing that is not there.
        missing: String,
    },
    /// No connection, or it broke.
    #[error(
        "no connection to {host} ({reason}); check the network and try again: finished parts are kept"
    )]
    Unreachable {
        /// The server.
        host: String,
        /// What the system says.
        reason: String,
    },
    /// 401 or 403.
    #[error(
        "no access to '{id}' ({status}): the name is wrong, or the model is private or gated; \
         accept its terms on its page and set HF_TOKEN"
    )]
    Denied {
        /// The model.
        id: String,
        /// The HTTP status.
        status: u16,
    },
    /// There is no such model or revision.
    #[error(
        "there is no model '{id}' with revision '{revision}' on {host}, and no folder of that name here; check the name"
    )]
    NotFound {
        /// The model.
        id: String,
        /// The revision.
        revision: String,
        /// The server.
        host: String,
    },
    /// The repository lacks a file that the model needs.
    #[error(
        "'{id}' has no {name}, so it is no complete diffusers model; choose another model or revision"
    )]
    MissingFile {
        /// The model.
        id: String,
        /// Path of the file, or what it is.
        name: String,
    },
    /// Another HTTP status.
    #[error("{host} answers {status} for {what}; try again later")]
    Status {
        /// The server.
        host: String,
        /// The HTTP status.
        status: u16,
        /// What was asked for.
        what: String,
    },
    /// An answer that no such server should give.
    #[error("the answer of {host} is unusable: {reason}; check HF_ENDPOINT")]
    BadAnswer {
        /// The server.
        host: String,
        /// What is wrong.
        reason: String,
    },
    /// A name in the server's answer that would leave the model's folder.
    #[error("the server names a file '{0}', which is no safe path; do not use this model")]
    UnsafePath(String),
    /// More or less bytes than announced.
    #[error("'{name}' should have {expected} bytes, but the server sends {got}; try again later")]
    Size {
        /// The file.
        name: String,
        /// Announced.
        expected: u64,
        /// Received, or promised for the transfer.
        got: u64,
    },
    /// The content is not the one that was published. The bad file is removed.
    #[error(
        "'{name}' arrived damaged: its sha256 is {got}, not {expected}; try again, or another network"
    )]
    Checksum {
        /// The file.
        name: String,
        /// Published.
        expected: String,
        /// Computed.
        got: String,
    },
    /// No space left.
    #[error(
        "the disk is full while writing '{0}'; free some space (or set HF_HOME to another disk) and try again"
    )]
    DiskFull(String),
    /// Reading or writing failed.
    #[error("cannot access '{path}': {source}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A downloaded JSON file does not parse or lacks fields.
    #[error("'{path}' is not a valid model description: {reason}; remove it and try again")]
    Json {
        /// The file.
        path: String,
        /// What the parser says.
        reason: String,
    },
}

impl HubError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.display().to_string();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull(path),
            _ => Self::Io { path, source },
        }
    }

    /// Whether the server is at fault or out of reach, so that the cache may be used instead.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_says_so() {
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            let error = HubError::io(Path::new("/a/b"), kind.into());
            assert!(error.to_string().contains("disk is full"), "{error}");
        }
        let error = HubError::io(Path::new("/a/b"), io::ErrorKind::PermissionDenied.into());
        assert!(error.to_string().contains("cannot access '/a/b'"));
    }
}
