//! The `state_dict` of a training checkpoint, whatever else lies around it.
//!
//! `pytorch-reader` refuses a file as soon as it meets something it cannot represent, wherever that is: Lightning's checkpoints use
//! classes as dictionary keys, and keep objects that hold tensors. For such files (zip archives as `torch.save` writes them) this
//! module reads the pickle as data, keeps what the `state_dict` needs, and lets the rest be.

mod pickle;

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::Read,
    ops::Range,
    path::Path,
    sync::Arc,
};

use memmap2::Mmap;
use safetensors::Dtype;

use self::pickle::{Pickle, Tensor};

/// As in `pytorch-reader`.
const MAX_PICKLE: u64 = 100 << 20;
const MAX_TENSOR: usize = 10 << 30;

/// A tensor as a view into a storage of the archive.
#[derive(Clone, Debug)]
pub(crate) struct View {
    map: Arc<Mmap>,
    storage: Range<usize>,
    crc: u32,
    element: usize,
    tensor: Tensor,
}

impl View {
    pub(crate) fn dtype(&self) -> Dtype {
        self.tensor.dtype
    }

    pub(crate) fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    /// The values, contiguous in row-major order.
    pub(crate) fn read(&self) -> std::io::Result<Vec<u8>> {
        let storage = &self.map[self.storage.clone()];
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(storage);
        if hasher.finalize() != self.crc {
            return Err(std::io::Error::other("its checksum does not match"));
        }
        let (shape, stride) = (&self.tensor.shape, &self.tensor.stride);
        let count: usize = shape.iter().product();
        let mut out = Vec::with_capacity(count * self.element);
        if count > 0 {
            // The innermost axes that lie in one piece are copied at once.
            let mut run = 1;
            let mut outer = shape.len();
            while outer > 0 && (stride[outer - 1] == run || shape[outer - 1] == 1) {
                outer -= 1;
                run *= shape[outer];
            }
            let mut index = vec![0; outer];
            for _ in 0..count / run {
                let at: usize = index.iter().zip(stride).map(|(i, s)| i * s).sum();
                let at = (self.tensor.offset + at) * self.element;
                out.extend_from_slice(&storage[at..at + run * self.element]);
                for axis in (0..outer).rev() {
                    index[axis] += 1;
                    if index[axis] < shape[axis] {
                        break;
                    }
                    index[axis] = 0;
                }
            }
        }
        crate::source::forget(&self.map, self.storage.clone());
        Ok(out)
    }
}

/// The tensors of the top-level `state_dict`. An error says what is wrong inside it.
pub(crate) fn open(path: &Path) -> Result<BTreeMap<String, View>, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let file = File::open(path).map_err(|e| text(&e))?;
    // SAFETY: weights are not modified while a program uses them; the same assumption as in every
    // memory-mapping loader.
    let map = Arc::new(unsafe { Mmap::map(&file) }.map_err(|e| text(&e))?);
    let mut archive = zip::ZipArchive::new(&file).map_err(|e| text(&e))?;
    let mut names = archive.file_names().filter_map(Result::ok);
    let name = names.find(|n| n.ends_with("/data.pkl") || n == "data.pkl");
    let name = name.ok_or("no data.pkl in it")?.into_owned();
    drop(names);
    let root = name.trim_end_matches("data.pkl").to_owned();
    let mut bytes = Vec::new();
    let pickle = archive.by_name(&name).map_err(|e| text(&e))?;
    let read = pickle.take(MAX_PICKLE + 1).read_to_end(&mut bytes);
    if read.map_err(|e| text(&e))? as u64 > MAX_PICKLE {
        return Err("its data.pkl is too large".into());
    }
    if let Ok(mut order) = archive.by_name(&format!("{root}byteorder")) {
        let mut word = String::new();
        let _ = order.by_ref().take(16).read_to_string(&mut word);
        if word != "little" {
            return Err("it is big-endian".into());
        }
    }
    let tensors = Pickle::parse(&bytes)?.state_dict()?;
    let mut storages: HashMap<String, (Range<usize>, u32)> = HashMap::new();
    let mut views = BTreeMap::new();
    for (key, tensor) in tensors {
        if !storages.contains_key(&tensor.storage) {
            let entry = archive.by_name(&format!("{root}data/{}", tensor.storage));
            let entry = entry.map_err(|e| format!("storage of '{key}': {e}"))?;
            let start = entry.data_start().and_then(|n| usize::try_from(n).ok());
            let length = usize::try_from(entry.size()).ok();
            let end = start
                .zip(length)
                .and_then(|(start, length)| start.checked_add(length));
            let range = start.zip(end).filter(|(_, end)| *end <= map.len());
            let (Some((start, end)), true) =
                (range, entry.compression() == zip::CompressionMethod::Stored)
            else {
                return Err(format!(
                    "storage of '{key}' is compressed or beyond the end of the file"
                ));
            };
            storages.insert(tensor.storage.clone(), (start..end, entry.crc32()));
        }
        let (storage, crc) = storages[&tensor.storage].clone();
        let element = tensor.dtype.bitsize() / 8;
        let fits = tensor.extent().and_then(|n| n.checked_mul(element));
        let size = tensor
            .shape
            .iter()
            .try_fold(element, |n, d| n.checked_mul(*d));
        if fits.is_none_or(|n| n > storage.len()) || size.is_none_or(|n| n > MAX_TENSOR) {
            return Err(format!("tensor '{key}' reaches beyond its storage"));
        }
        let map = map.clone();
        views.insert(
            key,
            View {
                map,
                storage,
                crc,
                element,
                tensor,
            },
        );
    }
    Ok(views)
}
