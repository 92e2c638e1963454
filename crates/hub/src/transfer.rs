use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::{
    HubError, HubOptions, Progress,
    cache::sync_folder,
    remote::{Metadata, Remote},
    retry::{Failure, Retries},
};

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

/// One file to bring into the cache.
pub(crate) struct Transfer<'a> {
    pub(crate) remote: &'a Remote,
    pub(crate) options: &'a HubOptions,
    pub(crate) commit: &'a str,
    pub(crate) name: &'a str,
    pub(crate) metadata: &'a Metadata,
}

impl Transfer<'_> {
    /// Downloads to `<blob>.incomplete`, continuing what is there, checks it, and only then gives it its name.
    pub(crate) fn run(
        &self,
        blob: &Path,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), HubError> {
        let mut partial = Partial::open(blob, self.metadata)?;
        progress(Progress::Bytes(partial.length));
        let mut retries = Retries::new(self.options);
        while let Err(failure) = self.attempt(&mut partial, progress) {
            if let Err(error) = retries.pause(failure, partial.length, progress) {
                partial.abandon(self.metadata);
                return Err(error);
            }
        }
        partial.finish(blob)
    }

    fn attempt(
        &self,
        partial: &mut Partial,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), Failure> {
        if partial.length < self.metadata.size {
            self.receive(partial, progress)?;
        }
        let got = partial.digest();
        match self.metadata.sha256() {
            Some(expected) if expected != got => {
                partial.clear()?;
                progress(Progress::Bytes(0));
                Err(Failure::passing(HubError::Checksum {
                    name: self.name.to_owned(),
                    expected: expected.to_owned(),
                    got,
                }))
            }
            _ => Ok(()),
        }
    }

    /// Fetches what is missing.
    fn receive(
        &self,
        partial: &mut Partial,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), Failure> {
        let size = self.metadata.size;
        let wrong_size = |got| {
            Failure::passing(HubError::Size {
                name: self.name.to_owned(),
                expected: size,
                got,
            })
        };
        let answer = self.remote.content(self.commit, self.name, partial.length);
        let content = match answer {
            Ok(content) => content,
            Err(failure) => {
                if matches!(failure.error, HubError::Status { status: 416, .. }) {
                    partial.clear()?;
                }
                return Err(failure);
            }
        };
        if let Some(total) = content.total.filter(|total| *total != size) {
            return Err(wrong_size(total));
        }
        if content.start != partial.length {
            partial.clear()?;
            progress(Progress::Bytes(0));
            if content.start != 0 {
                return Err(wrong_size(content.start));
            }
        }
        let mut reader = content.body.into_reader();
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    return Err(Failure::passing(HubError::Unreachable {
                        host: self.remote.host(),
                        reason: format!("after {} of {size} bytes: {e}", partial.length),
                    }));
                }
            };
            let length = partial.length + count as u64;
            if length > size {
                partial.clear()?;
                return Err(wrong_size(length));
            }
            partial.append(&buffer[..count])?;
            progress(Progress::Bytes(length));
        }
        if partial.length < size {
            return Err(wrong_size(partial.length));
        }
        Ok(())
    }
}

/// The beginning of a file, and the hash of it.
struct Partial {
    path: PathBuf,
    file: File,
    length: u64,
    hash: Sha256,
}

impl Partial {
    /// Continues `<blob>.incomplete` if its content can be checked in the end; else it begins anew.
    fn open(blob: &Path, metadata: &Metadata) -> Result<Self, HubError> {
        let mut path = blob.as_os_str().to_owned();
        path.push(".incomplete");
        let path = PathBuf::from(path);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| HubError::io(&path, e))?;
        let mut partial = Self {
            path,
            file,
            length: 0,
            hash: Sha256::new(),
        };
        let found = partial.file.metadata().map_err(|e| partial.error(e))?.len();
        if metadata.sha256().is_some() && found <= metadata.size {
            partial.hash_found().map_err(|e| partial.error(e))?;
        } else {
            partial.clear()?;
        }
        Ok(partial)
    }

    fn hash_found(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            match self.file.read(&mut buffer)? {
                0 => return Ok(()),
                count => {
                    self.hash.update(&buffer[..count]);
                    self.length += count as u64;
                }
            }
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(|e| self.error(e))?;
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn clear(&mut self) -> Result<(), HubError> {
        self.length = 0;
        self.hash = Sha256::new();
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(|e| self.error(e))
    }

    fn digest(&self) -> String {
        let digest = self.hash.clone().finalize();
        digest.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn finish(self, blob: &Path) -> Result<(), HubError> {
        self.file.sync_all().map_err(|e| self.error(e))?;
        // Windows does not rename open files.
        let Self { path, file, .. } = self;
        drop(file);
        fs::rename(&path, blob).map_err(|e| HubError::io(blob, e))?;
        sync_folder(blob);
        Ok(())
    }

    /// Leaves what the next pull can use, and nothing else.
    fn abandon(self, metadata: &Metadata) {
        let Self {
            path, file, length, ..
        } = self;
        drop(file);
        if length == 0 || metadata.sha256().is_none() {
            let _ = fs::remove_file(path);
        }
    }

    fn error(&self, source: io::Error) -> HubError {
        HubError::io(&self.path, source)
    }
}
