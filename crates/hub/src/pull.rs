use std::{collections::BTreeSet, path::PathBuf};

use crate::{
    HubError, HubOptions, Progress,
    cache::RepoCache,
    names,
    needed::{MODEL_INDEX, ModelIndex, Needed, Problem},
    remote::{Listing, Remote},
    retry::retry,
    transfer::Transfer,
};

/// Makes sure that everything a pipeline needs of the model `id` (`owner/name`) is in the cache, and returns the folder,
/// which is a diffusers model folder. Downloads what is missing and nothing else; continues an earlier pull that was
/// interrupted.
///
/// If the server is out of reach and the cache is complete, the cached folder is returned after
/// [`Progress::Offline`].
///
/// # Errors
/// If the model does not exist or lacks files, access is denied, the network or the server fails for longer than the retries
/// last, what arrives is not what was published, or the disk is full. In offline mode: if the cache is not complete.
pub fn pull(
    id: &str,
    options: &HubOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf, HubError> {
    names::check(id, options.revision(), options.variant.as_deref())?;
    let cache = RepoCache::new(options.cache_dir().ok_or(HubError::NoHome)?, id);
    let cached = cached(id, &cache, options);
    if options.offline {
        return cached;
    }
    let remote = Remote::new(id, options)?;
    // Who has everything need not wait for a server that is down.
    let retries = if cached.is_ok() { 0 } else { options.retries };
    let patience = HubOptions {
        retries,
        ..options.clone()
    };
    let listing = match (retry(&patience, progress, || remote.listing()), cached) {
        (Ok(listing), _) => listing,
        (Err(reason), Ok(folder)) if reason.is_outage() => {
            progress(Progress::Offline { reason: &reason });
            return Ok(folder);
        }
        (Err(error), _) => return Err(error),
    };
    Pull {
        id,
        options,
        cache,
        remote,
        listing,
    }
    .run(progress)
}

/// The folder in the cache, if everything is there.
fn cached(id: &str, cache: &RepoCache, options: &HubOptions) -> Result<PathBuf, HubError> {
    let offline = |missing: String| HubError::Offline {
        id: id.to_owned(),
        cache: cache.root().display().to_string(),
        missing,
    };
    let revision = options.revision();
    let commit = cache
        .commit(revision)
        .ok_or_else(|| offline(format!("revision '{revision}'")))?;
    let files = cache.files(&commit);
    if !files.contains(MODEL_INDEX) {
        return Err(offline(MODEL_INDEX.to_owned()));
    }
    needed(cache, &commit, &files, options, &|problem| match problem {
        Problem::Missing(name) => offline(name),
        Problem::Unsafe(name) => HubError::UnsafePath(name),
    })?;
    Ok(cache.snapshot(&commit))
}

/// Chooses among `files`; `model_index.json` is there, and so are the shard indexes if they are chosen.
fn needed(
    cache: &RepoCache,
    commit: &str,
    files: &BTreeSet<String>,
    options: &HubOptions,
    problem: &dyn Fn(Problem) -> HubError,
) -> Result<Needed, HubError> {
    let index: ModelIndex = cache.read_json(commit, MODEL_INDEX)?;
    let mut needed = Needed::new(&index, files, options.variant.as_deref()).map_err(problem)?;
    for index in needed.indexes.clone() {
        let shards = cache.read_json(commit, &index)?;
        needed.add_shards(&index, &shards, files).map_err(problem)?;
    }
    Ok(needed)
}

struct Pull<'a> {
    id: &'a str,
    options: &'a HubOptions,
    cache: RepoCache,
    remote: Remote,
    listing: Listing,
}

impl Pull<'_> {
    fn run(&self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<PathBuf, HubError> {
        let commit = &self.listing.commit;
        let needed = self.needed(progress)?;
        let wanted: Vec<&String> = needed.files.iter().filter(|f| !self.has(f)).collect();
        let count = wanted.len();
        if count > 0 {
            let bytes = wanted.iter().filter_map(|f| self.size(f)).sum();
            progress(Progress::Start { count, bytes });
        }
        for (i, name) in wanted.into_iter().enumerate() {
            self.fetch(name, (i + 1, count), progress)?;
        }
        // Last, so that offline mode never finds a revision that is only half here.
        let revision = self.options.revision();
        if !names::is_commit(revision) {
            self.cache.set_commit(revision, commit)?;
        }
        Ok(self.cache.snapshot(commit))
    }

    /// Fetches what says which files are needed.
    fn needed(&self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Needed, HubError> {
        let mut quiet = |event: Progress<'_>| {
            if matches!(event, Progress::Retry { .. } | Progress::Waiting { .. }) {
                progress(event);
            }
        };
        let commit = &self.listing.commit;
        let files: BTreeSet<String> = self.listing.files.keys().cloned().collect();
        let problem = |problem: Problem| match problem {
            Problem::Missing(name) => HubError::MissingFile {
                id: self.id.to_owned(),
                name,
            },
            Problem::Unsafe(name) => HubError::UnsafePath(name),
        };
        if !files.contains(MODEL_INDEX) {
            return Err(problem(Problem::Missing(MODEL_INDEX.to_owned())));
        }
        self.fetch(MODEL_INDEX, (1, 1), &mut quiet)?;
        let index: ModelIndex = self.cache.read_json(commit, MODEL_INDEX)?;
        let plan = Needed::new(&index, &files, self.options.variant.as_deref()).map_err(problem)?;
        for index in &plan.indexes {
            self.fetch(index, (1, 1), &mut quiet)?;
        }
        needed(&self.cache, commit, &files, self.options, &problem)
    }

    fn size(&self, name: &str) -> Option<u64> {
        self.listing.files.get(name).copied().flatten()
    }

    fn has(&self, name: &str) -> bool {
        self.cache.has(&self.listing.commit, name, self.size(name))
    }

    /// Brings one file into the snapshot folder, unless it is there.
    fn fetch(
        &self,
        name: &str,
        (index, count): (usize, usize),
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), HubError> {
        if self.has(name) {
            return Ok(());
        }
        let commit = &self.listing.commit;
        let metadata = retry(self.options, progress, || {
            self.remote.metadata(commit, name, self.size(name))
        })?;
        progress(Progress::File {
            name,
            index,
            count,
            bytes: metadata.size,
        });
        let etag = &metadata.etag;
        // Whoever waited for another process may find the file here.
        let lock = self
            .cache
            .lock(etag, || progress(Progress::Waiting { name }))?;
        if self.has(name) {
            progress(Progress::Bytes(metadata.size));
            return Ok(());
        }
        if !self.cache.has_blob(etag, metadata.size)? {
            let transfer = Transfer {
                remote: &self.remote,
                options: self.options,
                commit,
                name,
                metadata: &metadata,
            };
            transfer.run(&self.cache.blob(etag), progress)?;
        }
        self.cache.link(commit, name, etag)?;
        drop(lock);
        progress(Progress::Bytes(metadata.size));
        Ok(())
    }
}
