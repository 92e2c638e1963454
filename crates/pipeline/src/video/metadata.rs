use std::path::{Path, PathBuf};

use super::{
    Advice, AnyError, Container, gif, png,
    read::{broken, in_file},
    safetensors, webp,
};
use crate::PipelineError;

/// What [`SaveOptions::metadata`](super::SaveOptions::metadata) has put inside a file; `None` if it holds nothing such.
///
/// | format | place |
/// |---|---|
/// | `.gif` | comment extension |
/// | `.png`, folder | `iTXt` chunk `parameters` (of every picture) |
/// | `.webp` | XMP chunk, `dc:description` |
/// | `.mp4` | `moov/udta/meta`, key `comment` |
/// | `.safetensors` | `__metadata__`, key `i2vgen` |
/// | `.npy` | none |
///
/// # Errors
/// If the file is missing or broken.
pub fn read_metadata(path: impl AsRef<Path>) -> Result<Option<String>, PipelineError> {
    let path = path.as_ref();
    in_file(path, |container| {
        let file = match container {
            Container::Folder => pictures(path)?.into_iter().next(),
            _ => Some(path.to_owned()),
        };
        let Some(file) = file else {
            return Err(Advice::error("holds no PNGs; give a folder of frames"));
        };
        let bytes = std::fs::read(file).map_err(|e| format!("cannot be read: {e}"))?;
        match container {
            Container::Gif => gif::comment(&bytes),
            Container::AnimatedPng | Container::Folder => png::parameters(&bytes),
            Container::WebP => webp::description(&bytes),
            #[cfg(feature = "mp4")]
            Container::Mp4 => super::mp4::comment(&bytes),
            #[cfg(not(feature = "mp4"))]
            Container::Mp4 => Err(Advice::error("needs the cargo feature mp4")),
            Container::Safetensors => safetensors::parameters(&bytes),
            Container::Npy => Ok(None),
        }
        .map_err(broken)
    })
}

/// The PNGs of a folder, in the order of their numbers: a longer name is a later one.
pub(super) fn pictures(folder: &Path) -> Result<Vec<PathBuf>, AnyError> {
    let unreadable = |e| format!("cannot be read: {e}");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let hidden = file
            .file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if !hidden
            && file
                .extension()
                .is_some_and(|e| e.eq_ignore_ascii_case("png"))
        {
            files.push(file);
        }
    }
    files.sort_by_key(|file| (file.as_os_str().len(), file.clone()));
    Ok(files)
}
