//! Reading checkpoints: PyTorch pickles (parsed as data, never executed) and safetensors behind one face.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use memmap2::{Mmap, UncheckedAdvice};
use pytorch_reader::{DType, PytorchReader};
use safetensors::{Dtype, SafeTensors};

use crate::{
    ConvertError,
    wrapped::{self, View},
};

/// What kind of file a checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    /// `torch.save`: zip archive, legacy stream or tar.
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
    Pickled(pytorch_reader::Tensor),
    Wrapped(View),
}

impl SourceTensor {
    /// The values, contiguous in row-major order.
    ///
    /// # Errors
    /// If the file is damaged or unreadable.
    pub fn read(&self) -> std::io::Result<Vec<u8>> {
        match &self.data {
            Data::Pickled(tensor) => tensor.read(),
            Data::Wrapped(view) => view.read(),
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
        let text = start.trim_ascii_start();
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
        // The header's length, whose upper half is zero, and the header. Its first byte may well be that of a pickle.
        if start.get(4..9) == Some(b"\0\0\0\0{") {
            return Self::open_safetensors(path, &file);
        }
        let pickle =
            start.starts_with(b"PK") || start[0] == 0x80 || start.get(257..262) == Some(b"ustar");
        let plain = |b: &u8| matches!(b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e);
        if !pickle && start.iter().all(plain) {
            return Err(bad("it is a text file, not a model"));
        }
        Self::open_pickle(path)
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
        let (header, metadata) =
            SafeTensors::read_metadata(&map).map_err(|e| damaged(e.to_string()))?;
        let data = 8 + header;
        if data + metadata.data_len() != map.len() {
            let lost = format!(
                "{} bytes expected, {} found",
                data + metadata.data_len(),
                map.len()
            );
            return Err(damaged(lost));
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
        Ok(Self {
            path: path.to_owned(),
            format: FileFormat::Safetensors,
            tensors: unwrapped(tensors),
            metadata: text.into_iter().collect(),
        })
    }

    fn open_pickle(path: &Path) -> Result<Self, ConvertError> {
        // Around a `state_dict`, training tools leave objects of classes that nobody needs here.
        let reader = PytorchReader::with_top_level_key(path, "state_dict")
            .ok()
            .filter(|reader| !reader.is_empty());
        let reader = match reader.map_or_else(|| PytorchReader::new(path), Ok) {
            Ok(reader) => reader,
            Err(e) => {
                let refused = |inner: String| {
                    let reason = format!("not a readable PyTorch file ({e}; {inner})");
                    ConvertError::source(path, reason)
                };
                let views = wrapped::open(path).map_err(refused)?;
                let tensor = |(name, view): (String, View)| {
                    let (dtype, shape) = (view.dtype(), view.shape().to_vec());
                    let data = Data::Wrapped(view);
                    (name, SourceTensor { dtype, shape, data })
                };
                return Self::pickled(path, views.into_iter().map(tensor).collect());
            }
        };
        let tensors: BTreeMap<_, _> = reader
            .into_tensors()
            .into_iter()
            .map(|(name, tensor)| {
                let tensor = SourceTensor {
                    dtype: dtype(tensor.dtype()),
                    shape: tensor.shape().to_vec(),
                    data: Data::Pickled(tensor),
                };
                (name, tensor)
            })
            .collect();
        Self::pickled(path, tensors)
    }

    fn pickled(path: &Path, tensors: BTreeMap<String, SourceTensor>) -> Result<Self, ConvertError> {
        if tensors.is_empty() {
            return Err(ConvertError::source(path, "it holds no tensors"));
        }
        Ok(Self {
            path: path.to_owned(),
            format: FileFormat::Pickle,
            tensors: unwrapped(tensors),
            metadata: BTreeMap::new(),
        })
    }
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

fn dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::BOOL,
    }
}
