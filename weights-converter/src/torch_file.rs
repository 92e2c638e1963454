//! What `torch.save` wrote: a zip archive (since PyTorch 1.6) or a legacy stream.
//!
//! `pytorch-reader` reads the values. Before it sees a file, [`pickle`] has gone through the pickle as data: it bounds what a
//! hostile one can cost, refuses unknown classes among the wanted tensors, and knows which part of which storage a tensor is, so
//! that checksums are compared where the reader cannot. What the reader refuses only for its surroundings (Lightning's checkpoints
//! use classes as dictionary keys, and keep objects that hold tensors) is read as [`View`]s of the archive.

mod archive;
mod pickle;
mod tree;
mod view;

use std::{collections::BTreeMap, fs::File, path::Path, sync::Arc};

use memmap2::Mmap;
use pytorch_reader::{DType, PytorchReader};
use safetensors::Dtype;

use self::{
    archive::{Archive, Storage},
    pickle::{Pickle, Tensor},
    view::View,
};

/// How a legacy stream begins: its magic number, after some opcodes that depend on the protocol.
const LEGACY: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// One tensor, not yet read.
#[derive(Clone, Debug)]
pub(crate) enum TorchTensor {
    /// Read by `pytorch-reader`; the storage is checked before, if the reader does not see all of it.
    Whole(pytorch_reader::Tensor, Option<Arc<Storage>>),
    /// Read here.
    View(View),
}

impl TorchTensor {
    pub(crate) fn dtype(&self) -> Dtype {
        match self {
            Self::Whole(tensor, _) => dtype(tensor.dtype()),
            Self::View(view) => view.dtype(),
        }
    }

    pub(crate) fn shape(&self) -> &[usize] {
        match self {
            Self::Whole(tensor, _) => tensor.shape(),
            Self::View(view) => view.shape(),
        }
    }

    /// The values, contiguous in row-major order.
    pub(crate) fn read(&self) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Whole(tensor, storage) => {
                if let Some(storage) = storage {
                    storage.check()?;
                }
                tensor.read()
            }
            Self::View(view) => view.read(),
        }
    }
}

/// The tensors of a file: those under the top-level `state_dict` if there are any, else all.
pub(crate) fn open(path: &Path, start: &[u8]) -> Result<BTreeMap<String, TorchTensor>, String> {
    if start.starts_with(b"PK") {
        open_archive(path)
    } else if start.get(257..262) == Some(b"ustar") {
        // Its tables would have to be read into memory, and its sizes may be lies.
        Err("it was saved by a PyTorch before 0.1.10; load and save it with a later one".into())
    } else if start.windows(LEGACY.len()).take(64).any(|w| w == LEGACY) {
        open_stream(path)
    } else {
        Err("not a readable PyTorch file (neither an archive nor a stream of torch.save)".into())
    }
}

fn open_archive(path: &Path) -> Result<BTreeMap<String, TorchTensor>, String> {
    let archive = Archive::open(path)?;
    let (pickle, _) = Pickle::parse(&archive.pickle()?)?;
    let Some((key, index)) = tree::tensors(&pickle)? else {
        // A whole module: only the reader knows where its tensors are.
        let tensors = read(path, None)?;
        for storage in archive.storages()? {
            storage.check().map_err(|e| e.to_string())?;
        }
        return Ok(tensors);
    };
    drop(pickle);
    let mut storages: BTreeMap<String, Arc<Storage>> = BTreeMap::new();
    let mut views = BTreeMap::new();
    for (name, tensor) in index {
        let storage = match storages.get(&*tensor.storage) {
            Some(storage) => storage.clone(),
            None => {
                let found = archive.storage(&tensor.storage);
                let storage = Arc::new(found.map_err(|e| format!("storage of '{name}': {e}"))?);
                storages.insert(tensor.storage.to_string(), storage.clone());
                storage
            }
        };
        let view = View::new(storage, tensor).map_err(|e| format!("tensor '{name}' {e}"))?;
        views.insert(name, view);
    }
    let Ok(read) = read(path, key) else {
        let view = |(name, view)| (name, TorchTensor::View(view));
        return Ok(views.into_iter().map(view).collect());
    };
    let mut tensors = BTreeMap::new();
    for (name, mut tensor) in read {
        let view = views.get(&name);
        agree(&name, &tensor, view.map(|v| (v.dtype(), v.shape())))?;
        if let (TorchTensor::Whole(_, check), Some(view)) = (&mut tensor, view)
            && !view.is_whole()
        {
            *check = Some(view.storage().clone());
        }
        tensors.insert(name, tensor);
    }
    complete(&tensors, views.len())?;
    Ok(tensors)
}

fn open_stream(path: &Path) -> Result<BTreeMap<String, TorchTensor>, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    // SAFETY: weights are not modified while a program uses them; the same assumption as in every
    // memory-mapping loader.
    let map = unsafe { Mmap::map(&file) }.map_err(|e| e.to_string())?;
    let mut rest: &[u8] = &map;
    // The magic number, the protocol's version, the writer's byte order and sizes.
    for _ in 0..3 {
        let (_, length) = Pickle::parse(rest)?;
        rest = &rest[length..];
    }
    let (pickle, length) = Pickle::parse(rest)?;
    // The names of the storages, whose values follow.
    Pickle::parse(&rest[length..])?;
    let Some((key, index)) = tree::tensors(&pickle)? else {
        return read(path, None);
    };
    let tensors = read(path, key)?;
    let index: BTreeMap<String, Tensor> = index.into_iter().collect();
    for (name, tensor) in &tensors {
        let seen = index.get(name).map(|t| (t.dtype, t.shape.as_slice()));
        agree(name, tensor, seen)?;
    }
    complete(&tensors, index.len())?;
    Ok(tensors)
}

fn read(path: &Path, key: Option<&str>) -> Result<BTreeMap<String, TorchTensor>, String> {
    let reader = match key {
        Some(key) => PytorchReader::with_top_level_key(path, key),
        None => PytorchReader::new(path),
    };
    let reader = reader.map_err(|e| format!("not a readable PyTorch file ({e})"))?;
    let tensor = |(name, tensor)| (name, TorchTensor::Whole(tensor, None));
    Ok(reader.into_tensors().into_iter().map(tensor).collect())
}

/// Two parsers that see different things in one pickle are being played against each other.
fn agree(name: &str, tensor: &TorchTensor, seen: Option<(Dtype, &[usize])>) -> Result<(), String> {
    if seen == Some((tensor.dtype(), tensor.shape())) {
        return Ok(());
    }
    Err(format!("what its pickle says of '{name}' is ambiguous"))
}

fn complete(tensors: &BTreeMap<String, TorchTensor>, count: usize) -> Result<(), String> {
    if tensors.len() == count {
        return Ok(());
    }
    Err("what tensors its pickle holds is ambiguous".to_owned())
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
