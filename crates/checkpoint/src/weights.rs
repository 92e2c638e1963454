use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::{Blob, CheckpointError, Folder};

/// How a library names its weight files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stem {
    /// `diffusion_pytorch_model` (UNet, VAE).
    Diffusers,
    /// `model` (CLIP towers).
    Transformers,
}

impl Stem {
    fn name(self) -> &'static str {
        match self {
            Self::Diffusers => "diffusion_pytorch_model",
            Self::Transformers => "model",
        }
    }

    fn pickle(self) -> &'static str {
        match self {
            Self::Diffusers => "diffusion_pytorch_model",
            Self::Transformers => "pytorch_model",
        }
    }
}

/// Where one tensor lies.
#[derive(Clone, Debug)]
pub struct TensorEntry {
    /// Its format on disk.
    pub dtype: Dtype,
    /// Its shape on disk.
    pub shape: Vec<usize>,
    pub(crate) file: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// All weight files of one component, opened and checked but not read.
#[derive(Debug)]
pub struct Weights {
    source: String,
    pub(crate) files: Vec<(String, Arc<Blob>)>,
    pub(crate) tensors: BTreeMap<String, TensorEntry>,
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Opens the weights of a component folder.
    ///
    /// `variant` names a flavour such as `fp16`: `model.fp16.safetensors`, falling back to the plain file. Without it the
    /// plain file is preferred, and a folder that has only one variant gives that one.
    ///
    /// # Errors
    /// If there is no weight file, a shard is missing, or a header is damaged.
    pub fn open(
        folder: &Folder,
        stem: Stem,
        variant: Option<&str>,
    ) -> Result<Self, CheckpointError> {
        let mut variants: Vec<Option<String>> = vec![variant.map(str::to_owned), None];
        if variant.is_none() {
            // `stem.V.safetensors` or `stem.safetensors.index.V.json`
            variants.extend(folder.files().iter().filter_map(|file| {
                let rest = file.strip_prefix(stem.name())?.strip_prefix('.')?;
                let v = rest.strip_suffix(".safetensors").or_else(|| {
                    rest.strip_prefix("safetensors.index.")?
                        .strip_suffix(".json")
                })?;
                (!v.contains("-of-") && v != "safetensors").then(|| Some(v.to_owned()))
            }));
        }
        for variant in variants {
            let dot = variant.map(|v| format!(".{v}")).unwrap_or_default();
            let index = format!("{}.safetensors.index{dot}.json", stem.name());
            if folder.contains(&index) {
                return Self::open_shards(folder, &index);
            }
            let single = format!("{}{dot}.safetensors", stem.name());
            if folder.contains(&single) {
                return Self::open_files(folder, vec![single]);
            }
        }
        let pickle = folder
            .files()
            .into_iter()
            .find(|f| f.starts_with(stem.pickle()) && f.contains(".bin"));
        Err(match pickle {
            Some(file) => CheckpointError::Pickle(folder.display(&file)),
            None => CheckpointError::NoWeights {
                folder: folder.display(""),
                expected: format!("{}.safetensors", stem.name()),
            },
        })
    }

    /// Whether all tensors are in f16 or bf16.
    pub fn is_half(&self) -> bool {
        let mut tensors = self.tensors.values();
        tensors.all(|tensor| matches!(tensor.dtype, Dtype::F16 | Dtype::BF16))
    }

    fn open_shards(folder: &Folder, index: &str) -> Result<Self, CheckpointError> {
        let map: ShardIndex = folder.read_json(index)?;
        let names: BTreeSet<&String> = map.weight_map.values().collect();
        if let Some(name) = names
            .iter()
            .find(|n| n.contains(['/', '\\']) || n.contains(".."))
        {
            return Err(CheckpointError::Json {
                path: folder.display(index),
                reason: format!("shard '{name}' lies outside the folder"),
            });
        }
        let weights = Self::open_files(folder, names.into_iter().cloned().collect())?;
        for (tensor, file) in &map.weight_map {
            if !weights.tensors.contains_key(tensor) {
                return Err(CheckpointError::Damaged {
                    path: folder.display(file),
                    reason: format!("tensor '{tensor}', which the index promises, is not in it"),
                });
            }
        }
        Ok(weights)
    }

    fn open_files(folder: &Folder, names: Vec<String>) -> Result<Self, CheckpointError> {
        let source = folder.display(&names[0]);
        let mut files = Vec::new();
        let mut tensors = BTreeMap::new();
        for name in names {
            let path = folder.display(&name);
            let damaged = |reason: String| CheckpointError::Damaged {
                path: path.clone(),
                reason,
            };
            let blob = folder.read(&name)?;
            let (header, metadata) =
                SafeTensors::read_metadata(&blob).map_err(|e| damaged(explain(&blob, &e)))?;
            let data = 8 + header;
            if data + metadata.data_len() != blob.len() {
                return Err(damaged(format!(
                    "its header promises {} bytes of tensors, but it has {} (truncated?)",
                    metadata.data_len(),
                    blob.len().saturating_sub(data)
                )));
            }
            for (name, info) in metadata.tensors() {
                let entry = TensorEntry {
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                    file: files.len(),
                    start: data + info.data_offsets.0,
                    end: data + info.data_offsets.1,
                };
                if tensors.insert(name.clone(), entry).is_some() {
                    return Err(damaged(format!("tensor '{name}' is also in another shard")));
                }
            }
            files.push((path, Arc::new(blob)));
        }
        Ok(Self {
            source,
            files,
            tensors,
        })
    }

    /// Names, formats and shapes of all tensors.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorEntry)> {
        self.tensors
            .iter()
            .map(|(name, entry)| (name.as_str(), entry))
    }

    /// The (first) file, for messages.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Bytes of all files together.
    pub fn size(&self) -> usize {
        self.files.iter().map(|(_, blob)| blob.len()).sum()
    }

    /// The whole content of the files, in order, e.g. to hash them.
    pub fn contents(&self) -> impl Iterator<Item = &[u8]> {
        self.files.iter().map(|(_, blob)| &***blob)
    }

    /// Reads one tensor as f32 values in row-major order.
    ///
    /// # Errors
    /// If there is no such tensor or it is not a float.
    pub fn read(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let entry = self
            .tensors
            .get(name)
            .ok_or_else(|| CheckpointError::Damaged {
                path: self.source.clone(),
                reason: format!("it has no tensor '{name}'"),
            })?;
        let (path, blob) = &self.files[entry.file];
        if crate::dtype::float_size(entry.dtype).is_none() {
            return Err(CheckpointError::Dtype {
                path: path.clone(),
                tensor: name.to_owned(),
                dtype: format!("{:?}", entry.dtype),
            });
        }
        let bytes = &blob[entry.start..entry.end];
        let data = crate::dtype::convert(bytes, entry.dtype, burn::tensor::DType::F32, 1, 1);
        Ok(bytemuck::pod_collect_to_vec(&data))
    }
}

/// A reason that helps: people save web pages and pickles under the name of a weight file.
fn explain(bytes: &[u8], error: &safetensors::SafeTensorError) -> String {
    let start = &bytes[..bytes.len().min(64)];
    if bytes.is_empty() {
        "it is empty".into()
    } else if start.starts_with(b"PK\x03\x04") || start.starts_with(b"\x80\x02") {
        "it is a PyTorch pickle; convert it first with cargo xtask convert".into()
    } else if start.trim_ascii_start().starts_with(b"<") {
        "it is a web page, not a model".into()
    } else if start.starts_with(b"version https://git-lfs") {
        "it is a git-lfs pointer; fetch the real file with git lfs pull".into()
    } else {
        error.to_string()
    }
}
