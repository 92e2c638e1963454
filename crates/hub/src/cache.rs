use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
};

use hf_hub::{Cache, CacheRepo, Repo};
use serde::de::DeserializeOwned;

use crate::{HubError, names};

/// Of a JSON file that is read into memory; a weight index has some hundred KB.
const MOST_JSON: u64 = 64 << 20;

/// One model's part of the cache: `models--owner--name/{blobs,refs,snapshots}`, as every Hugging Face library lays it out.
pub(crate) struct RepoCache {
    root: PathBuf,
    repo: Repo,
}

impl RepoCache {
    pub(crate) fn new(root: &Path, id: &str) -> Self {
        Self {
            root: root.to_owned(),
            repo: Repo::model(id.to_owned()),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn layout(&self) -> CacheRepo {
        Cache::new(self.root.clone()).repo(self.repo.clone())
    }

    fn folder(&self) -> PathBuf {
        self.root.join(self.repo.folder_name())
    }

    /// The folder with a commit's files.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.layout().pointer_path(commit)
    }

    /// Where a content lies.
    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.layout().blob_path(etag)
    }

    /// The commit that a revision was when it was last pulled.
    pub(crate) fn commit(&self, revision: &str) -> Option<String> {
        if names::is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.folder().join("refs").join(revision)).ok()?;
        let commit = text.trim();
        names::is_commit(commit).then(|| commit.to_owned())
    }

    /// Remembers which commit a revision is.
    pub(crate) fn set_commit(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.folder().join("refs").join(revision);
        let thread = std::thread::current().id();
        let temporary = format!("ref.{}.{thread:?}.tmp", std::process::id());
        let temporary = self.folder().join(temporary);
        make_parent(&path)?;
        fs::write(&temporary, commit).map_err(|e| HubError::io(&temporary, e))?;
        fs::rename(&temporary, &path).map_err(|e| HubError::io(&path, e))
    }

    /// Whether a commit's file is here, with this size if it is known.
    pub(crate) fn has(&self, commit: &str, name: &str, size: Option<u64>) -> bool {
        has_size(&self.snapshot(commit).join(name), size)
    }

    /// Paths of a commit's files that are here.
    pub(crate) fn files(&self, commit: &str) -> BTreeSet<String> {
        let mut files = BTreeSet::new();
        let mut folders = vec![(self.snapshot(commit), String::new())];
        while let Some((folder, prefix)) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                // A link to a lost blob is neither.
                match fs::metadata(entry.path()) {
                    Ok(meta) if meta.is_dir() => folders.push((entry.path(), name + "/")),
                    Ok(_) => drop(files.insert(name)),
                    Err(_) => {}
                }
            }
        }
        files
    }

    pub(crate) fn read_json<T: DeserializeOwned>(
        &self,
        commit: &str,
        name: &str,
    ) -> Result<T, HubError> {
        let path = self.snapshot(commit).join(name);
        let json = |reason: String| HubError::Json {
            path: path.display().to_string(),
            reason,
        };
        let size = fs::metadata(&path)
            .map_err(|e| HubError::io(&path, e))?
            .len();
        if size > MOST_JSON {
            return Err(json(format!("it has {size} bytes")));
        }
        let bytes = fs::read(&path).map_err(|e| HubError::io(&path, e))?;
        serde_json::from_slice(&bytes).map_err(|e| json(e.to_string()))
    }

    /// Keeps other processes (of any Hugging Face library) from downloading the same content; released when dropped.
    /// `waiting` is called if another one has it.
    pub(crate) fn lock(&self, etag: &str, waiting: impl FnOnce()) -> Result<File, HubError> {
        let folder = self.root.join(".locks").join(self.repo.folder_name());
        let path = folder.join(format!("{etag}.lock"));
        make_parent(&path)?;
        let error = |e| HubError::io(&path, e);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(error)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                waiting();
                file.lock().map_err(error)?;
            }
            // Some network file systems know no locks.
            Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(e)) => return Err(error(e)),
        }
        Ok(file)
    }

    /// Whether the content is here. One of a wrong size is removed.
    pub(crate) fn has_blob(&self, etag: &str, size: u64) -> Result<bool, HubError> {
        let path = self.blob(etag);
        make_parent(&path)?;
        if has_size(&path, Some(size)) {
            return Ok(true);
        }
        remove(&path)?;
        Ok(false)
    }

    /// Makes a content appear under its name in a commit's folder.
    pub(crate) fn link(&self, commit: &str, name: &str, etag: &str) -> Result<(), HubError> {
        let pointer = self.snapshot(commit).join(name);
        make_parent(&pointer)?;
        remove(&pointer)?;
        // From `snapshots/<commit>/<name>` up to where `blobs` is.
        let up = "../".repeat(2 + name.matches('/').count());
        let relative = PathBuf::from(format!("{up}blobs/{etag}"));
        place(&WAYS, &self.blob(etag), &relative, &pointer)
            .map_err(|e| HubError::io(&pointer, e))?;
        sync_folder(&pointer);
        Ok(())
    }
}

/// A way to make `pointer` show the content of `blob`, whose path from there is `relative`.
type Way = fn(blob: &Path, relative: &Path, pointer: &Path) -> io::Result<()>;

/// A link; where the system has none (or only for administrators), a second name; else a copy.
const WAYS: [Way; 3] = [
    |_, relative, pointer| symlink(relative, pointer),
    |blob, _, pointer| fs::hard_link(blob, pointer),
    |blob, _, pointer| {
        let mut temporary = pointer.as_os_str().to_owned();
        temporary.push(".incomplete");
        fs::copy(blob, &temporary)?;
        fs::rename(&temporary, pointer)
    },
];

fn place(ways: &[Way], blob: &Path, relative: &Path, pointer: &Path) -> io::Result<()> {
    let mut result = Err(io::ErrorKind::Unsupported.into());
    for way in ways {
        result = way(blob, relative, pointer);
        // Another process may have been faster.
        if result.is_ok() || pointer.is_file() {
            return Ok(());
        }
    }
    result
}

#[cfg(unix)]
use std::os::unix::fs::symlink;
#[cfg(windows)]
use std::os::windows::fs::symlink_file as symlink;
#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn has_size(path: &Path, size: Option<u64>) -> bool {
    fs::metadata(path).is_ok_and(|m| m.is_file() && size.is_none_or(|size| m.len() == size))
}

fn make_parent(path: &Path) -> Result<(), HubError> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent).map_err(|e| HubError::io(parent, e)),
        None => Ok(()),
    }
}

fn remove(path: &Path) -> Result<(), HubError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(HubError::io(path, e)),
        _ => Ok(()),
    }
}

/// Makes a new name in `path`'s folder outlive a power cut, where the system can.
pub(crate) fn sync_folder(path: &Path) {
    if cfg!(unix)
        && let Some(folder) = path.parent()
    {
        let _ = File::open(folder).and_then(|f| f.sync_all());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_shows_the_content() {
        for skipped in 0..WAYS.len() {
            let folder = tempfile::tempdir().unwrap();
            let (blob, pointer) = (folder.path().join("blob"), folder.path().join("name"));
            fs::write(&blob, "content").unwrap();
            place(&WAYS[skipped..], &blob, Path::new("blob"), &pointer).unwrap();
            assert_eq!(fs::read_to_string(&pointer).unwrap(), "content");
            assert_eq!(pointer.is_symlink(), skipped == 0);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        }
    }

    #[test]
    fn the_next_way_is_tried() {
        let folder = tempfile::tempdir().unwrap();
        let (blob, pointer) = (folder.path().join("blob"), folder.path().join("name"));
        fs::write(&blob, "content").unwrap();
        let fails: Way = |_, _, _| Err(io::ErrorKind::PermissionDenied.into());
        assert!(place(&[fails], &blob, Path::new("blob"), &pointer).is_err());
        place(&[fails, fails, WAYS[2]], &blob, Path::new("blob"), &pointer).unwrap();
        assert_eq!(fs::read_to_string(&pointer).unwrap(), "content");
    }

    #[test]
    fn a_lock_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(folder.path(), "a/b");
        let held = cache.lock("e", || unreachable!()).unwrap();
        let (told, hears) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| cache.lock("e", move || told.send(()).unwrap()).map(drop));
            hears.recv().unwrap();
            assert!(!second.is_finished());
            drop(held);
            second.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_ref_that_is_no_commit_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(folder.path(), "a/b");
        let commit = "0123456789abcdef0123456789abcdef01234567";
        cache.set_commit("refs/pr/1", commit).unwrap();
        assert_eq!(cache.commit("refs/pr/1").as_deref(), Some(commit));
        fs::write(folder.path().join("models--a--b/refs/refs/pr/1"), "../../x").unwrap();
        assert_eq!(cache.commit("refs/pr/1"), None);
    }
}
