//! Results that appear all at once: complete files under temporary names, then the sidecar, then the files' own names. So a
//! video never lies there without its sidecar, nor with that of an earlier one.

use std::path::{Path, PathBuf};

use i2vgen_checkpoint::write_json;
use i2vgen_kernels::device_failed;
use i2vgen_pipeline::PipelineError;
use serde_json::Value;
use tempfile::TempDir;

/// Files that are complete but not yet under their names. Dropping it deletes them.
#[derive(Default)]
pub(crate) struct Staging {
    /// Temporary name and final one.
    files: Vec<(PathBuf, PathBuf)>,
    folders: Vec<TempDir>,
}

impl Staging {
    /// Calls `write` with a path in a hidden folder beside `target` that has the same name. It returns what it has written.
    pub(crate) fn add(
        &mut self,
        target: &Path,
        write: impl FnOnce(&Path) -> Result<Vec<PathBuf>, PipelineError>,
    ) -> Result<(), PipelineError> {
        let parent = target.parent().filter(|p| !p.as_os_str().is_empty());
        let folder = tempfile::Builder::new()
            .prefix(".i2vgen-")
            .tempdir_in(parent.unwrap_or(Path::new(".")))
            .map_err(|e| failed(target, e))?;
        let name = target.file_name().unwrap_or_default();
        for staged in write(&folder.path().join(name))? {
            let name = staged.file_name().unwrap_or_default();
            self.files
                .push((staged.clone(), target.with_file_name(name)));
        }
        self.folders.push(folder);
        Ok(())
    }

    /// Final names, and the lengths of those that are files.
    pub(crate) fn outputs(&self) -> Vec<(PathBuf, Option<u64>)> {
        let length = |path: &Path| {
            let metadata = path.metadata().ok().filter(|m| m.is_file());
            metadata.map(|m| m.len())
        };
        let files = self.files.iter();
        files
            .map(|(s, target)| (target.clone(), length(s)))
            .collect()
    }

    /// Writes the sidecar and gives all files their names. If the first cannot have its, the sidecar is as before.
    ///
    /// Not if the device has failed meanwhile: then the caller is told so, and this says `Cancelled`.
    pub(crate) fn commit(self, sidecar: &Path, record: &Value) -> Result<(), PipelineError> {
        if device_failed() {
            return Err(PipelineError::Cancelled);
        }
        let before = std::fs::read(sidecar).ok();
        write_json(sidecar, record)?;
        for (index, (staged, target)) in self.files.iter().enumerate() {
            // An empty folder may be there already; a folder with anything in it makes this fail.
            let renamed = match target.is_dir() && staged.is_dir() {
                true => std::fs::remove_dir(target).and_then(|()| std::fs::rename(staged, target)),
                false => std::fs::rename(staged, target),
            };
            if let Err(e) = renamed {
                if index == 0 {
                    // The first error is the one to tell.
                    let _ = match &before {
                        Some(bytes) => std::fs::write(sidecar, bytes),
                        None => std::fs::remove_file(sidecar),
                    };
                }
                return Err(failed(target, e));
            }
        }
        Ok(())
    }
}

fn failed(path: &Path, e: std::io::Error) -> PipelineError {
    PipelineError::Output {
        path: path.display().to_string(),
        problem: format!("could not be written: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn staged(target: &Path) -> Staging {
        let mut staging = Staging::default();
        let write = |path: &Path| {
            std::fs::write(path, "new").expect("written");
            Ok(vec![path.to_owned()])
        };
        staging.add(target, write).expect("staged");
        staging
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).expect("readable");
        let name = |e: std::io::Result<std::fs::DirEntry>| e.expect("entry").file_name();
        let mut names: Vec<_> = entries
            .map(|e| name(e).to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn both_are_there_in_the_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let staging = staged(&at("v.gif"));
        assert_eq!(staging.outputs(), [(at("v.gif"), Some(3))]);
        staging
            .commit(&at("v.gif.json"), &json!({}))
            .expect("written");
        assert_eq!(names(folder.path()), ["v.gif", "v.gif.json"]);
    }

    #[test]
    fn no_video_without_its_sidecar() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("v.gif.json/full")).expect("made");
        std::fs::write(at("v.gif"), "old").expect("written");
        assert!(
            staged(&at("v.gif"))
                .commit(&at("v.gif.json"), &json!({}))
                .is_err()
        );
        assert_eq!(std::fs::read(at("v.gif")).expect("there"), b"old");
        assert_eq!(names(folder.path()), ["v.gif", "v.gif.json"]);
    }

    #[test]
    fn no_sidecar_of_a_video_that_did_not_come() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("v.gif/full")).expect("made");
        assert!(
            staged(&at("v.gif"))
                .commit(&at("v.gif.json"), &json!({}))
                .is_err()
        );
        assert_eq!(names(folder.path()), ["v.gif"]);
        std::fs::write(at("v.gif.json"), "old").expect("written");
        assert!(
            staged(&at("v.gif"))
                .commit(&at("v.gif.json"), &json!({}))
                .is_err()
        );
        assert_eq!(std::fs::read(at("v.gif.json")).expect("there"), b"old");
    }
}
