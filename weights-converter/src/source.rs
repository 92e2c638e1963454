//! Reading checkpoints: PyTorch pickles (parsed as data, never executed) and safetensors behind one face.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use memmap2::{Mmap, UncheckedAdvice};
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::{
    ConvertError,
    torch_file::{self, TorchTensor},
};

/// Bytes of a tensor's name.
pub(crate) const MAX_NAME: usize = 1024;

/// What kind of file a checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    /// `torch.save`: zip archive or legacy stream.
    Pickle,
    /// safetensors.
    Safetensors,
}

/// One tensor of a checkpoint, not yet read.
#[derive(Clone, Debug)]
pub struct SourceTensor {
    /// Number format in the file.
    pub dtype: Dtype,
    /// Shape in the file.
    pub shape: Vec<usize>,
    data: Data,
}

#[derive(Clone, Debug)]
enum Data {
    Mapped(Arc<Mmap>, Range<usize>),
    Pickled(TorchTensor),
}

impl SourceTensor {
    /// The values, contiguous in row-major order.
    ///
    /// # Errors
    /// If the file is damaged or unreadable.
    pub fn read(&self) -> std::io::Result<Vec<u8>> {
        match &self.data {
            Data::Pickled(tensor) => tensor.read(),
            Data::Mapped(map, range) => {
                let bytes = map[range.clone()].to_vec();
                forget(map, range.clone());
                Ok(bytes)
            }
        }
    }
}

/// Pages that were copied need not count as our memory. Whole pages inside the range only.
pub(crate) fn forget(map: &Mmap, range: Range<usize>) {
    const PAGE: usize = 4096;
    let (start, end) = (range.start.div_ceil(PAGE) * PAGE, range.end / PAGE * PAGE);
    if end > start {
        // SAFETY: the map is read-only and file-backed; dropped pages are read again when touched.
        let _ =
            unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
    }
}

/// A checkpoint file, opened and checked but not read.
#[derive(Debug)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: FileFormat,
    /// Its tensors by name. A wrapping `state_dict` and a data-parallel `module.` are taken off.
    pub tensors: BTreeMap<String, SourceTensor>,
    /// The free text of a safetensors header.
    pub metadata: BTreeMap<String, String>,
}

impl Source {
    /// Opens a `.pth`, `.pt`, `.ckpt`, `.bin` or `.safetensors` file; the format is told from the content.
    ///
    /// # Errors
    /// If the file is not a checkpoint (the message says what it is instead), or is damaged.
    pub fn open(path: &Path) -> Result<Self, ConvertError> {
        let bad = |reason: &str| ConvertError::source(path, reason);
        let meta = std::fs::metadata(path).map_err(ConvertError::io(path))?;
        if meta.is_dir() {
            return Err(bad(
                "it is a folder; use `convert folder` or name a file in it",
            ));
        }
        if meta.len() == 0 {
            return Err(bad("it is empty; download it again"));
        }
        let mut start = Vec::new();
        let file = File::open(path).map_err(ConvertError::io(path))?;
        let head = (&file).take(512).read_to_end(&mut start);
        head.map_err(ConvertError::io(path))?;
        // The header's length, whose upper half is zero, and the header. Its first byte may well be that of a pickle.
        if start.get(4..9) == Some(b"\0\0\0\0{") {
            return Self::open_safetensors(path, &file);
        }
        if start.starts_with(&crate::burnpack::MAGIC.to_le_bytes()) {
            return Err(bad("it is a burnpack; take the safetensors beside it"));
        }
        let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&start);
        let text = text.trim_ascii_start();
        if text.starts_with(b"version https://git-lfs") {
            return Err(bad(
                "it is a git-lfs pointer; fetch the file itself with `git lfs pull`",
            ));
        }
        if text.starts_with(b"<") {
            return Err(bad(
                "it is a web page (HTML), not a model; download the file itself",
            ));
        }
        if is_text(&start) {
            return Err(bad("it is a text file, not a model"));
        }
        if start.get(8) == Some(&b'{') && !start.starts_with(b"PK") && start[0] != 0x80 {
            return Self::open_safetensors(path, &file);
        }
        let found = torch_file::open(path, &start).map_err(|reason| bad(&reason))?;
        let tensor = |(name, tensor): (String, TorchTensor)| {
            let tensor = SourceTensor {
                dtype: tensor.dtype(),
                shape: tensor.shape().to_vec(),
                data: Data::Pickled(tensor),
            };
            (name, tensor)
        };
        let tensors = found.into_iter().map(tensor).collect();
        Self::new(path, FileFormat::Pickle, tensors, BTreeMap::new())
    }

    fn open_safetensors(path: &Path, file: &File) -> Result<Self, ConvertError> {
        // SAFETY: weights are not modified while a program uses them; the same assumption as in every
        // memory-mapping loader.
        let map = unsafe { Mmap::map(file) }.map_err(ConvertError::io(path))?;
        let damaged = |reason: String| {
            ConvertError::source(
                path,
                format!("damaged safetensors ({reason}); download it again"),
            )
        };
        let read = SafeTensors::read_metadata(&map).map_err(|e| match e {
            SafeTensorError::MetadataIncompleteBuffer | SafeTensorError::InvalidHeaderLength => {
                damaged("its length is not what its header says".to_owned())
            }
            other => damaged(other.to_string()),
        });
        let (header, metadata) = read?;
        let data = 8 + header;
        let names: Names =
            serde_json::from_slice(&map[8..data]).map_err(|e| damaged(e.to_string()))?;
        if let Some(name) = names.twice {
            return Err(damaged(format!("two of its tensors are called {name:?}")));
        }
        let map = Arc::new(map);
        let mut tensors = BTreeMap::new();
        for (name, info) in metadata.tensors() {
            let range = data + info.data_offsets.0..data + info.data_offsets.1;
            let tensor = SourceTensor {
                dtype: info.dtype,
                shape: info.shape.clone(),
                data: Data::Mapped(map.clone(), range),
            };
            tensors.insert(name, tensor);
        }
        let text = metadata.metadata().clone().unwrap_or_default();
        let text = text.into_iter().collect();
        Self::new(path, FileFormat::Safetensors, tensors, text)
    }

    fn new(
        path: &Path,
        format: FileFormat,
        tensors: BTreeMap<String, SourceTensor>,
        metadata: BTreeMap<String, String>,
    ) -> Result<Self, ConvertError> {
        if tensors.is_empty() {
            return Err(ConvertError::source(path, "it holds no tensors"));
        }
        // Names end up on terminals.
        let odd = |key: &String| key.len() > MAX_NAME || key.contains(char::is_control);
        if tensors.keys().any(odd) {
            let reason = "damaged (unprintable names); download it again";
            return Err(ConvertError::source(path, reason));
        }
        Ok(Self {
            path: path.to_owned(),
            format,
            tensors: unwrapped(tensors),
            metadata,
        })
    }
}

/// A JSON object of which only the names matter: a parser keeps the last of two entries that have the same.
struct Names {
    twice: Option<String>,
}

impl<'de> serde::Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(NamesVisitor)
    }
}

struct NamesVisitor;

impl<'de> Visitor<'de> for NamesVisitor {
    type Value = Names;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
        let mut names = BTreeSet::new();
        let mut twice = None;
        while let Some((name, _)) = map.next_entry::<String, IgnoredAny>()? {
            if let Some(name) = names.replace(name) {
                twice = Some(name);
            }
        }
        Ok(Names { twice })
    }
}

/// Whether a file that begins like this is written for people.
fn is_text(start: &[u8]) -> bool {
    let text = match str::from_utf8(start) {
        Ok(text) => text,
        // A letter that is cut off at the end.
        Err(e) if e.error_len().is_none() => {
            str::from_utf8(&start[..e.valid_up_to()]).unwrap_or("")
        }
        Err(_) => return false,
    };
    let odd = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\x0c');
    !text.is_empty() && !text.contains(odd)
}

/// Takes off wrappers that all tensors share.
fn unwrapped(mut tensors: BTreeMap<String, SourceTensor>) -> BTreeMap<String, SourceTensor> {
    for wrapper in ["state_dict.", "module."] {
        if tensors.keys().all(|key| key.starts_with(wrapper)) {
            tensors = tensors
                .into_iter()
                .map(|(key, tensor)| (key[wrapper.len()..].to_owned(), tensor))
                .collect();
        }
    }
    tensors
}
