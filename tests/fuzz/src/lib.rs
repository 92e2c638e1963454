//! What the fuzz targets share: files that live in memory.

use std::{
    fs,
    path::{Path, PathBuf},
};

use i2vgen_weights_converter::Source;

/// Where the folders are: memory.
const MEMORY: &str = "/dev/shm";

/// How they are called, before the process's number.
const NAME: &str = "i2vgen-fuzz-";

/// A folder of this process in memory, made empty once. Those of processes that are gone are removed.
pub fn folder() -> PathBuf {
    let folder = Path::new(MEMORY).join(format!("{NAME}{}", std::process::id()));
    static MADE: std::sync::Once = std::sync::Once::new();
    MADE.call_once(|| {
        for entry in fs::read_dir(MEMORY).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let gone = |process: &str| !Path::new("/proc").join(process).exists();
            if name.strip_prefix(NAME).is_some_and(gone) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).expect("/dev/shm is writable");
    });
    folder
}

/// Writes a file into [`folder`].
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    fs::write(&path, bytes).expect("/dev/shm is writable");
    path
}

/// Tensors above this size are not read: a few bytes may rightly declare gigabytes (`expand`).
const LIMIT: usize = 64 << 20;

/// Opens a file as a checkpoint and reads every tensor, which must have the bytes that its shape asks for.
pub fn read(path: &Path) {
    let Ok(source) = Source::open(path) else {
        return;
    };
    let _ = source.component();
    for (name, tensor) in source.tensors.iter().take(64) {
        let bits = tensor.shape.iter().product::<usize>() * tensor.dtype.bitsize();
        if bits / 8 > LIMIT {
            continue;
        }
        if let Ok(bytes) = tensor.read() {
            assert_eq!(bytes.len(), bits / 8, "{name}");
        }
    }
}
