//! Writing so that a file is complete or not there: everything goes to temporary names beside the targets, then all are
//! renamed.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use tempfile::{NamedTempFile, TempDir};

use super::{
    AnyError, Container, SaveOptions, Video, container::parent, gif, npy, png, safetensors, webp,
};
use crate::{Latents, PipelineError};

pub(super) fn save(
    video: &Video,
    path: &Path,
    container: Container,
    options: &SaveOptions,
) -> Result<Vec<PathBuf>, PipelineError> {
    options.check()?;
    if !(video.fps.is_finite() && video.fps > 0.0) {
        return Err(PipelineError::Option {
            name: "fps",
            problem: format!("must be more than 0, not {}", video.fps),
        });
    }
    let [videos, ..] = video.shape();
    container.check(path, videos)?;
    let paths = container.paths(path, videos);
    let staged = paths.iter().enumerate().map(|(index, path)| {
        stage(video, index, path, container, options).map_err(|e| failed(path, e))
    });
    let staged = staged.collect::<Result<Vec<_>, _>>()?;
    for (path, staged) in paths.iter().zip(staged) {
        staged.persist(path).map_err(|e| failed(path, e))?;
    }
    Ok(paths)
}

fn failed(path: &Path, e: AnyError) -> PipelineError {
    PipelineError::Output {
        path: path.display().to_string(),
        problem: format!("could not be written: {e}"),
    }
}

fn stage(
    video: &Video,
    index: usize,
    path: &Path,
    container: Container,
    options: &SaveOptions,
) -> Result<Staged, AnyError> {
    let [_, frames, ..] = video.shape();
    let file = |write: &dyn Fn(&mut dyn Write) -> Result<(), AnyError>| Staged::file(path, write);
    match container {
        Container::Gif => file(&|out| gif::write(video, index, options, out)),
        Container::AnimatedPng => file(&|out| png::write(video, index, 0..frames, options, out)),
        Container::WebP => file(&|out| webp::write(video, index, options, out)),
        #[cfg(feature = "mp4")]
        Container::Mp4 => file(&|out| super::mp4::write(video, index, options, out)),
        #[cfg(not(feature = "mp4"))]
        Container::Mp4 => Err("this needs the cargo feature mp4".into()),
        Container::Safetensors => file(&|out| safetensors::write(video, options, out)),
        Container::Npy => file(&|out| npy::write(video, out)),
        Container::Folder => {
            let folder = temporary().tempdir_in(parent(path))?;
            for i in 0..frames {
                let name = folder.path().join(format!("frame_{i:04}.png"));
                Staged::file(&name, |out| {
                    png::write(video, index, i..i + 1, options, out)
                })?
                .persist(&name)?;
            }
            Ok(Staged::Folder(folder))
        }
    }
}

fn temporary() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".i2vgen-");
    builder
}

/// Complete and on the disk, but not under its name. Dropping it deletes it.
enum Staged {
    File(NamedTempFile),
    Folder(TempDir),
}

impl Staged {
    fn file(
        path: &Path,
        write: impl FnOnce(&mut dyn Write) -> Result<(), AnyError>,
    ) -> Result<Self, AnyError> {
        let mut file = temporary().tempfile_in(parent(path))?;
        {
            let mut buffered = BufWriter::new(file.as_file_mut());
            write(&mut buffered)?;
            buffered.flush()?;
        }
        permit(file.path(), 0o644)?;
        file.as_file().sync_all()?;
        Ok(Self::File(file))
    }

    fn persist(self, path: &Path) -> Result<(), AnyError> {
        match self {
            Self::File(file) => {
                file.persist(path)?;
            }
            Self::Folder(folder) => {
                permit(folder.path(), 0o755)?;
                // An empty folder may be there already; anything in it makes this fail.
                if path.exists() {
                    std::fs::remove_dir(path)?;
                }
                std::fs::rename(folder.path(), path)?;
                // It has another name now, there is nothing left to clean up.
                let _ = folder.keep();
            }
        }
        // Makes the new name last. Not every file system can do that, and the file itself is safe.
        if let Ok(folder) = File::open(parent(path)) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

/// Temporary files are made for their owner only; outputs are for everyone the folder is for.
fn permit(path: &Path, mode: u32) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    #[cfg(not(unix))]
    let _ = (path, mode);
    Ok(())
}

impl Latents {
    /// Writes tensor `latents` to a safetensors file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), PipelineError> {
        let path = path.as_ref();
        let shape = self.shape.to_vec();
        Staged::file(path, |out| {
            safetensors::tensor("latents", &self.values, shape, None, out)
        })
        .and_then(|staged| staged.persist(path))
        .map_err(|e| failed(path, e))
    }
}
