use std::{
    fs::File,
    ops::{Deref, Range},
    path::{Path, PathBuf},
};

use memmap2::{Mmap, UncheckedAdvice};
use serde::de::DeserializeOwned;

use crate::CheckpointError;

/// A model folder on disk, or one embedded in the program.
#[derive(Clone, Debug)]
pub struct Folder(Source);

#[derive(Clone, Debug)]
enum Source {
    Disk(PathBuf),
    /// All files of the whole embedded tree, and the path of this folder in it (empty, or ending with `/`).
    Embedded(&'static [(&'static str, &'static [u8])], String),
}

/// The content of a file, memory-mapped or embedded.
#[derive(Debug)]
pub enum Blob {
    /// A file on disk.
    Mapped(Mmap),
    /// Bytes inside the program.
    Static(&'static [u8]),
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
        }
    }
}

impl Blob {
    /// Tells the system that this part is not needed any more, so that it stops counting as our memory.
    pub fn forget(&self, range: Range<usize>) {
        if let Self::Mapped(map) = self {
            // Whole pages inside the range only: its edges hold the neighbours' bytes.
            const PAGE: usize = 4096;
            let (start, end) = (range.start.div_ceil(PAGE) * PAGE, range.end / PAGE * PAGE);
            if end > start {
                // SAFETY: the map is read-only and file-backed, so dropped pages are read again on the next access.
                let _ = unsafe {
                    map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start)
                };
            }
        }
    }
}

impl Folder {
    /// Opens an existing folder.
    ///
    /// # Errors
    /// If `path` does not exist or is not a folder.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        match std::fs::metadata(path) {
            Ok(meta) if meta.is_dir() && path.join(".incomplete").exists() => {
                Err(CheckpointError::Incomplete(path.to_owned()))
            }
            Ok(meta) if meta.is_dir() => Ok(Self(Source::Disk(path.to_owned()))),
            Ok(_) => Err(CheckpointError::NotAFolder(path.to_owned())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Err(CheckpointError::FolderNotFound(path.to_owned()))
            }
            Err(source) => Err(CheckpointError::Io {
                path: path.display().to_string(),
                source,
            }),
        }
    }

    /// A folder made of files inside the program: relative paths with `/`, and their contents.
    pub fn embedded(files: &'static [(&'static str, &'static [u8])]) -> Self {
        Self(Source::Embedded(files, String::new()))
    }

    /// The folder `name` inside this one.
    ///
    /// # Errors
    /// If there is none.
    pub fn subfolder(&self, name: &str) -> Result<Self, CheckpointError> {
        match &self.0 {
            Source::Disk(path) if path.join(name).is_dir() => {
                Ok(Self(Source::Disk(path.join(name))))
            }
            Source::Embedded(files, prefix)
                if files
                    .iter()
                    .any(|(f, _)| f.starts_with(&format!("{prefix}{name}/"))) =>
            {
                Ok(Self(Source::Embedded(files, format!("{prefix}{name}/"))))
            }
            _ => Err(CheckpointError::FileNotFound(self.display(name))),
        }
    }

    /// Whether the folder has a file of this name.
    pub fn contains(&self, name: &str) -> bool {
        match &self.0 {
            Source::Disk(path) => path.join(name).is_file(),
            Source::Embedded(files, prefix) => files
                .iter()
                .any(|(f, _)| f.strip_prefix(prefix.as_str()) == Some(name)),
        }
    }

    /// Names of the files directly in this folder, sorted.
    pub fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = match &self.0 {
            Source::Disk(path) => std::fs::read_dir(path)
                .into_iter()
                .flatten()
                .flatten()
                .filter(|e| e.path().is_file())
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .collect(),
            Source::Embedded(files, prefix) => files
                .iter()
                .filter_map(|(f, _)| f.strip_prefix(prefix.as_str()))
                .filter(|f| !f.contains('/'))
                .map(str::to_owned)
                .collect(),
        };
        names.sort();
        names
    }

    /// The content of a file, memory-mapped if it is on disk.
    ///
    /// # Errors
    /// If the file is missing or unreadable.
    pub fn read(&self, name: &str) -> Result<Blob, CheckpointError> {
        match &self.0 {
            Source::Disk(path) => {
                let path = path.join(name);
                let display = || path.display().to_string();
                if !path.exists() {
                    return Err(CheckpointError::FileNotFound(display()));
                }
                let io = |source| CheckpointError::Io {
                    path: display(),
                    source,
                };
                let file = File::open(&path).map_err(io)?;
                if file.metadata().map_err(io)?.len() == 0 {
                    // An empty map is an error on some systems; an empty file is for the parser to refuse.
                    return Ok(Blob::Static(&[]));
                }
                // SAFETY: weights are not modified while a program uses them; the same assumption as in every
                // memory-mapping loader.
                unsafe { Mmap::map(&file) }.map(Blob::Mapped).map_err(io)
            }
            Source::Embedded(files, prefix) => files
                .iter()
                .find(|(f, _)| f.strip_prefix(prefix.as_str()) == Some(name))
                .map(|(_, bytes)| Blob::Static(bytes))
                .ok_or_else(|| CheckpointError::FileNotFound(self.display(name))),
        }
    }

    /// Parses a JSON file.
    ///
    /// # Errors
    /// If the file is missing, is not JSON or does not describe a `T`.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<T, CheckpointError> {
        let bytes = self.read(name)?;
        serde_json::from_slice(&bytes).map_err(|e| CheckpointError::Json {
            path: self.display(name),
            reason: e.to_string(),
        })
    }

    /// The path of a file of this folder, for messages.
    pub fn display(&self, name: &str) -> String {
        match &self.0 {
            Source::Disk(path) => path.join(name).display().to_string(),
            Source::Embedded(_, prefix) => format!("embedded:{prefix}{name}"),
        }
    }

    /// The path on disk, unless the folder is embedded.
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            Source::Disk(path) => Some(path),
            Source::Embedded(..) => None,
        }
    }
}
