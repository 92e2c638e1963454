//! A folder that appears complete or not at all.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{ConvertError, write::write_json};

/// Present in a folder that is being written; loaders refuse it.
pub const INCOMPLETE: &str = ".incomplete";

/// The folder under construction: `NAME.incomplete` beside the target. Dropped unfinished, it is removed.
#[derive(Debug)]
pub(crate) struct Job {
    target: PathBuf,
    folder: PathBuf,
    _lock: File,
    done: bool,
}

impl Job {
    /// Starts a folder. What an earlier, killed run left is thrown away.
    pub(crate) fn begin(
        target: &Path,
        sources: &[PathBuf],
        force: bool,
    ) -> Result<Self, ConvertError> {
        let refuse = |text: String| Err(ConvertError::Target(text));
        let shown = target.display();
        let Some(name) = target.file_name() else {
            return refuse(format!("--output '{shown}' is not the name of a folder"));
        };
        if target.exists() {
            if !force {
                return refuse(format!(
                    "'{shown}' exists; choose another --output or add --force"
                ));
            }
            let real = target.canonicalize().map_err(ConvertError::io(target))?;
            let inside = |s: &&PathBuf| s.canonicalize().is_ok_and(|s| s.starts_with(&real));
            if let Some(source) = sources.iter().find(inside) {
                let source = source.display();
                return refuse(format!(
                    "--output '{shown}' would overwrite the source '{source}'"
                ));
            }
        }
        let mut name = name.to_owned();
        name.push(".incomplete");
        let folder = target.with_file_name(name);
        fs::create_dir_all(&folder).map_err(ConvertError::io(&folder))?;
        let marker = folder.join(INCOMPLETE);
        let lock = File::create(&marker).map_err(ConvertError::io(&marker))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return refuse(format!(
                    "another converter is writing '{shown}'; wait for it"
                ));
            }
            Err(TryLockError::Error(e)) => return Err(ConvertError::io(&marker)(e)),
        }
        for entry in fs::read_dir(&folder).map_err(ConvertError::io(&folder))? {
            let path = entry.map_err(ConvertError::io(&folder))?.path();
            if path != marker {
                let gone = if path.is_dir() {
                    fs::remove_dir_all(&path)
                } else {
                    fs::remove_file(&path)
                };
                gone.map_err(ConvertError::io(&path))?;
            }
        }
        Ok(Self {
            target: target.to_owned(),
            folder,
            _lock: lock,
            done: false,
        })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes the manifest and gives the folder its name.
    pub(crate) fn finish(mut self, manifest: &Value) -> Result<(), ConvertError> {
        write_json(&self.folder.join("i2vgen.json"), manifest)?;
        let io = ConvertError::io(&self.target);
        let rename = || {
            fs::remove_file(self.folder.join(INCOMPLETE))?;
            File::open(&self.folder)?.sync_all()?;
            let mut old = self.folder.clone().into_os_string();
            old.push(".old");
            if self.target.exists() {
                fs::rename(&self.target, &old)?;
            }
            fs::rename(&self.folder, &self.target)?;
            if Path::new(&old).exists() {
                fs::remove_dir_all(&old)?;
            }
            Ok(())
        };
        rename().map_err(io)?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.done {
            // Nothing to tell anyone: the error that brought us here is being reported.
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}
