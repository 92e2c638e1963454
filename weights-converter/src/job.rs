//! A folder that appears complete or not at all.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{ConvertError, write::write_json};

/// Present in a folder that is being written; loaders refuse it.
pub const INCOMPLETE: &str = ".incomplete";

/// What was done, written last.
pub(crate) const MANIFEST: &str = "i2vgen.json";

/// The folder under construction: `NAME.incomplete` beside the target. Dropped unfinished, it is removed.
#[derive(Debug)]
pub(crate) struct Job {
    target: PathBuf,
    folder: PathBuf,
    force: bool,
    /// Folders above it that were not there, the innermost first.
    parents: Vec<PathBuf>,
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
        let mut name = name.to_owned();
        name.push(".incomplete");
        let folder = target.with_file_name(name);
        let old = old(&folder);
        if old.exists() && !target.exists() {
            // A run with --force was killed between its two renames.
            fs::rename(&old, target).map_err(ConvertError::io(target))?;
        }
        if target.exists() && !force {
            return refuse(format!(
                "'{shown}' exists; choose another --output or add --force"
            ));
        }
        if target.exists() && !target.is_dir() {
            return refuse(format!("'{shown}' is a file; choose another --output"));
        }
        for used in [target, &folder].into_iter().filter(|path| path.exists()) {
            let real = used.canonicalize().map_err(ConvertError::io(used))?;
            let inside = |s: &&PathBuf| s.canonicalize().is_ok_and(|s| s.starts_with(&real));
            if let Some(source) = sources.iter().find(inside) {
                let source = source.display();
                return refuse(format!(
                    "--output '{shown}' would overwrite the source '{source}'"
                ));
            }
        }
        let ours = [INCOMPLETE, MANIFEST].map(|name| folder.join(name).exists());
        if !ours.contains(&true) && fs::read_dir(&folder).is_ok_and(|mut dir| dir.next().is_some())
        {
            let folder = folder.display();
            return refuse(format!(
                "'{folder}' is in the way; move it away or choose another --output"
            ));
        }
        let above = folder.ancestors().skip(1);
        let parents = above.take_while(|p| !p.as_os_str().is_empty() && !p.exists());
        let parents = parents.map(Path::to_owned).collect();
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
        if target.exists() && !force {
            // Another converter has just finished; its lock went with its folder's new name.
            let _ = fs::remove_dir_all(&folder);
            return refuse(format!(
                "'{shown}' exists; another converter has just written it"
            ));
        }
        if old.exists() {
            fs::remove_dir_all(&old).map_err(ConvertError::io(&old))?;
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
            force,
            parents,
            _lock: lock,
            done: false,
        })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes the manifest and gives the folder its name.
    pub(crate) fn finish(mut self, manifest: &Value) -> Result<(), ConvertError> {
        for entry in fs::read_dir(&self.folder).map_err(ConvertError::io(&self.folder))? {
            let path = entry.map_err(ConvertError::io(&self.folder))?.path();
            if path.is_dir() {
                sync(&path).map_err(ConvertError::io(&path))?;
            }
        }
        write_json(&self.folder.join(MANIFEST), manifest)?;
        self.publish().map_err(ConvertError::io(&self.target))?;
        self.done = true;
        Ok(())
    }

    fn publish(&self) -> std::io::Result<()> {
        fs::remove_file(self.folder.join(INCOMPLETE))?;
        sync(&self.folder)?;
        let old = old(&self.folder);
        if self.force && self.target.exists() {
            fs::rename(&self.target, &old)?;
        }
        fs::rename(&self.folder, &self.target)?;
        if let Some(parent) = self.target.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync(parent)?;
        }
        if old.exists() {
            fs::remove_dir_all(&old)?;
        }
        Ok(())
    }
}

/// Where the replaced folder waits while the new one takes its name.
fn old(folder: &Path) -> PathBuf {
    let mut old = folder.as_os_str().to_owned();
    old.push(".old");
    old.into()
}

/// Waits until a folder's list of names is on the disk. Systems that cannot open folders do it by themselves.
fn sync(folder: &Path) -> std::io::Result<()> {
    match cfg!(unix) {
        true => File::open(folder)?.sync_all(),
        false => Ok(()),
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.done {
            // Nothing to tell anyone: the error that brought us here is being reported.
            let _ = fs::remove_dir_all(&self.folder);
            for parent in &self.parents {
                let _ = fs::remove_dir(parent);
            }
        }
    }
}
