//! The zip archive that `torch.save` writes: `NAME/data.pkl`, `NAME/data/KEY` for every storage, `NAME/byteorder`.

use std::{
    borrow::Cow,
    fmt,
    fs::File,
    io::{self, Read},
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use memmap2::Mmap;
use zip::{CompressionMethod, ZipArchive, ZipReadOptions, read::ZipFile};

/// As in `pytorch-reader`. The largest of this model's checkpoints have one of a megabyte.
const MAX_PICKLE: u64 = 100 << 20;

/// Bytes whose checksum is computed before their pages are given back.
const GRAIN: usize = 8 << 20;

pub(crate) struct Archive {
    map: Arc<Mmap>,
    zip: Arc<Mutex<ZipArchive<File>>>,
    root: String,
}

impl Archive {
    /// Opens an archive that says one thing only: every name once, no byte in two entries, one pickle.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let damaged = |e: &dyn fmt::Display| format!("damaged archive ({e}); download it again");
        let file = File::open(path).map_err(|e| e.to_string())?;
        // SAFETY: weights are not modified while a program uses them; the same assumption as in every
        // memory-mapping loader.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| e.to_string())?;
        let mut zip = ZipArchive::new(file).map_err(|e| damaged(&e))?;
        if zip.has_duplicate_names() {
            return Err(damaged(&"two entries have one name"));
        }
        if zip.has_overlapping_entries().map_err(|e| damaged(&e))? {
            return Err(damaged(&"entries overlap"));
        }
        let names = zip.file_names().filter_map(Result::ok);
        let mut roots = names
            .filter_map(|name| Some(name.strip_suffix("data.pkl")?.to_owned()))
            .filter(|root| root.is_empty() || root.ends_with('/'));
        let root = roots
            .next()
            .ok_or("it is an archive, but not one of PyTorch: it has no data.pkl")?;
        if roots.next().is_some() {
            return Err(damaged(&"two data.pkl"));
        }
        drop(roots);
        let archive = Self {
            map: Arc::new(map),
            zip: Arc::new(Mutex::new(zip)),
            root,
        };
        let order = archive.small("byteorder", 16).map_err(|e| damaged(&e))?;
        match order.as_deref().map(<[u8]>::trim_ascii) {
            None | Some(b"little") => {}
            Some(b"big") => {
                let reason = "it was saved on a big-endian machine; load and save it on another";
                return Err(reason.into());
            }
            Some(_) => return Err(damaged(&"unknown byte order")),
        }
        Ok(archive)
    }

    /// The content of `data.pkl`.
    pub(crate) fn pickle(&self) -> Result<Vec<u8>, String> {
        match self.small("data.pkl", MAX_PICKLE) {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err("it has no data.pkl".into()),
            Err(e) => Err(format!("its data.pkl cannot be read: {e}")),
        }
    }

    /// An entry of at most `limit` bytes.
    fn small(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, String> {
        let mut zip = self.zip.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = zip.index_for_name(&format!("{}{name}", self.root)) else {
            return Ok(None);
        };
        let entry = open(&mut zip, index).map_err(|e| e.to_string())?;
        let size = entry.size();
        if size > limit {
            return Err(format!("it is too large ({size} bytes)"));
        }
        let mut bytes = Vec::new();
        // One byte more than there should be, which also makes the checksum be compared.
        let read = entry.take(size + 1).read_to_end(&mut bytes);
        match read {
            Ok(read) if read as u64 == size => Ok(Some(bytes)),
            Ok(_) => Err("its size is not what the archive says".into()),
            Err(e) => Err(e.to_string()),
        }
    }

    /// The storage that a tensor refers to.
    pub(crate) fn storage(&self, key: &str) -> Result<Storage, String> {
        let zip = self.zip.lock().unwrap_or_else(PoisonError::into_inner);
        let index = zip.index_for_name(&format!("{}data/{key}", self.root));
        drop(zip);
        self.storage_at(index.ok_or("it is not in the archive")?)
    }

    /// All storages.
    pub(crate) fn storages(&self) -> Result<Vec<Storage>, String> {
        let zip = self.zip.lock().unwrap_or_else(PoisonError::into_inner);
        let prefix = format!("{}data/", self.root);
        let wanted = |(_, name): &(usize, &[u8])| name.starts_with(prefix.as_bytes());
        let indices = zip.file_names_raw().enumerate().filter(wanted);
        let indices: Vec<usize> = indices.map(|(index, _)| index).collect();
        drop(zip);
        indices.into_iter().map(|i| self.storage_at(i)).collect()
    }

    fn storage_at(&self, index: usize) -> Result<Storage, String> {
        let mut zip = self.zip.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = zip.by_index_raw(index).map_err(|e| e.to_string())?;
        let size = usize::try_from(entry.size()).map_err(|_| "it is too large")?;
        let stored = entry.compression() == CompressionMethod::Stored;
        if stored && entry.compressed_size() != entry.size() {
            return Err("its size is not what the archive says".into());
        }
        let start = entry.data_start().and_then(|n| usize::try_from(n).ok());
        let range = start
            .and_then(|start| Some(start..start.checked_add(size)?))
            .filter(|range| stored && range.end <= self.map.len());
        if stored && range.is_none() {
            return Err("it reaches beyond the end of the file".into());
        }
        let crc = entry.crc32();
        drop(entry);
        Ok(Storage {
            map: self.map.clone(),
            zip: self.zip.clone(),
            index,
            size,
            range,
            crc,
            sound: OnceLock::new(),
        })
    }
}

/// Opens an entry for reading. A checksum of 0 is none: `torch.serialization.set_crc32_options(False)` writes that.
fn open(zip: &mut ZipArchive<File>, index: usize) -> zip::result::ZipResult<ZipFile<'_, File>> {
    let none = zip.by_index_raw(index)?.crc32() == 0;
    zip.by_index_with_options(index, ZipReadOptions::new().ignore_crc32(none))
}

/// The values of one or several tensors in an archive.
pub(crate) struct Storage {
    map: Arc<Mmap>,
    zip: Arc<Mutex<ZipArchive<File>>>,
    index: usize,
    size: usize,
    /// Where it lies in the file, unless it is compressed.
    range: Option<Range<usize>>,
    crc: u32,
    sound: OnceLock<bool>,
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage")
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

impl Storage {
    /// Bytes in it.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// At most so many of its first bytes, once its checksum is right.
    pub(crate) fn start(&self, length: usize) -> io::Result<Cow<'_, [u8]>> {
        self.check()?;
        if let Some(range) = self.range.clone() {
            let end = range.end.min(range.start.saturating_add(length));
            return Ok(Cow::Borrowed(&self.map[range.start..end]));
        }
        let mut zip = self.zip.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = open(&mut zip, self.index)?;
        let mut bytes = Vec::new();
        entry.take(length as u64).read_to_end(&mut bytes)?;
        Ok(Cow::Owned(bytes))
    }

    /// Its pages need not count as our memory any more.
    pub(crate) fn forget(&self) {
        if let Some(range) = &self.range {
            crate::source::forget(&self.map, range.clone());
        }
    }

    /// Compares the checksum, once.
    pub(crate) fn check(&self) -> io::Result<()> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "its checksum does not match");
        let sound = self.sound.get_or_init(|| self.crc == 0 || self.is_sound());
        sound.then_some(()).ok_or_else(wrong)
    }

    fn is_sound(&self) -> bool {
        let Some(range) = self.range.clone() else {
            let mut zip = self.zip.lock().unwrap_or_else(PoisonError::into_inner);
            let Ok(mut entry) = zip.by_index(self.index) else {
                return false;
            };
            // The end of a compressed entry compares its checksum.
            let read = io::copy(&mut entry, &mut io::sink());
            return read.is_ok_and(|n| n == self.size as u64);
        };
        let mut hasher = crc32fast::Hasher::new();
        for start in range.clone().step_by(GRAIN) {
            let part = start..range.end.min(start + GRAIN);
            hasher.update(&self.map[part.clone()]);
            crate::source::forget(&self.map, part);
        }
        hasher.finalize() == self.crc
    }
}
