//! Planned components become a folder.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use safetensors::Dtype;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{Component, ConvertError, Lora, Plan, folder, job::Job, write};

/// Counts up when a table changes what it produces.
pub const MAPPING_VERSION: u32 = 1;

/// How to convert.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Number format of the result; `None` keeps the source's.
    pub dtype: Option<Dtype>,
    /// Largest weight file in bytes.
    pub shard_size: Option<u64>,
    /// Additionally write burn's own format.
    pub burnpack: bool,
    /// Whether the authors' doubled image features are folded into `conv_in`.
    pub fold_concat_gain: bool,
    /// Replace an existing output folder.
    pub force: bool,
}

/// What will be in the new folder. Made by [`Conversion::component`], [`Conversion::trio`] or [`Conversion::folder`].
#[derive(Debug)]
pub struct Conversion {
    /// The components with weights.
    pub plans: Vec<Plan>,
    /// Other files: path in the folder, and content.
    pub(crate) files: Vec<(PathBuf, Content)>,
    /// Whether each component has a folder of its own, as in a pipeline.
    pub(crate) pipeline: bool,
    loras: Vec<(PathBuf, f32)>,
}

/// Where a small file comes from.
#[derive(Debug)]
pub(crate) enum Content {
    Bytes(Vec<u8>),
    File(PathBuf),
}

/// Reads a component's config: `DIR/COMPONENT/config.json` of a pipeline folder, `DIR/config.json` of a component folder,
/// the published one without a folder.
///
/// # Errors
/// If the folder has no such config or it is not JSON.
pub fn read_config(component: Component, folder: Option<&Path>) -> Result<Value, ConvertError> {
    let Some(folder) = folder else {
        let text = component.published_config();
        return serde_json::from_str(text).map_err(|e| ConvertError::Config {
            component: component.folder().to_owned(),
            reason: e.to_string(),
        });
    };
    let path = folder.join(component.folder()).join("config.json");
    let own = folder.join("config.json");
    if !path.exists() && own.exists() {
        let config = folder::read_json(&own)?;
        if folder::component_of(&config) == Some(component) {
            return Ok(config);
        }
    }
    folder::read_json(&path)
}

impl Conversion {
    pub(crate) fn new(plans: Vec<Plan>, pipeline: bool) -> Self {
        Self {
            plans,
            files: Vec::new(),
            pipeline,
            loras: Vec::new(),
        }
    }

    /// One component becomes a component folder.
    pub fn component(plan: Plan) -> Self {
        Self::new(vec![plan], false)
    }

    /// Adds a LoRA to the weights. Returns the keys that fit nowhere, which are an error without `allow_unknown`.
    ///
    /// # Errors
    /// See [`Lora::merge_into`].
    pub fn merge(&mut self, lora: &Lora, allow_unknown: bool) -> Result<Vec<String>, ConvertError> {
        let merged = lora.merge_into(&mut self.plans, allow_unknown)?;
        self.loras.push((lora.path().to_owned(), lora.strength()));
        Ok(merged.skipped)
    }

    /// Bytes of weights that will be written.
    pub fn bytes(&self, options: &Options) -> u64 {
        self.plans.iter().map(|p| write::bytes(p, options)).sum()
    }

    /// Writes the folder `output`: weights, configs, and last the manifest `i2vgen.json`, which is returned.
    ///
    /// `progress` is told the bytes written. Either the complete folder appears or nothing.
    ///
    /// # Errors
    /// If the output exists (without `force`), a source is damaged, or writing fails.
    pub fn write(
        mut self,
        output: &Path,
        options: &Options,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Value, ConvertError> {
        if options.fold_concat_gain {
            self.plans.iter_mut().for_each(Plan::fold_concat_gain);
        }
        let mut paths: Vec<PathBuf> = Vec::new();
        let weights = self.plans.iter().flat_map(|p| &p.files);
        for path in weights.chain(self.loras.iter().map(|(path, _)| path)) {
            if !paths.contains(path) {
                paths.push(path.clone());
            }
        }
        let copies = self.files.iter().filter_map(|(_, content)| match content {
            Content::File(path) => Some(path.clone()),
            Content::Bytes(_) => None,
        });
        let sources: Vec<PathBuf> = paths.iter().cloned().chain(copies).collect();
        let job = Job::begin(output, &sources, options.force)?;
        let hashes: Result<Vec<String>, ConvertError> = std::thread::scope(|scope| {
            let hash = || paths.iter().map(|p| sha256(p)).collect::<Result<_, _>>();
            let hashes = scope.spawn(hash);
            self.write_into(job.folder(), options, progress)?;
            hashes
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let manifest = self.manifest(options, &paths, &hashes?);
        job.finish(&manifest)?;
        Ok(manifest)
    }

    fn write_into(
        &self,
        folder: &Path,
        options: &Options,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), ConvertError> {
        for plan in &self.plans {
            let part = match self.pipeline {
                true => folder.join(plan.component.folder()),
                false => folder.to_owned(),
            };
            std::fs::create_dir_all(&part).map_err(ConvertError::io(&part))?;
            write::write_json(&part.join("config.json"), &plan.config)?;
            write::write(plan, &part, options, progress)?;
        }
        for (name, content) in &self.files {
            let path = folder.join(name);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(ConvertError::io(parent))?;
            }
            match content {
                Content::Bytes(bytes) => write::write_bytes(&path, bytes)?,
                Content::File(source) => {
                    let bytes = std::fs::read(source).map_err(ConvertError::io(source))?;
                    write::write_bytes(&path, &bytes)?;
                }
            }
        }
        Ok(())
    }

    fn manifest(&self, options: &Options, paths: &[PathBuf], hashes: &[String]) -> Value {
        let name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned());
        let sources = paths.iter().zip(hashes);
        let sources: Vec<Value> = sources
            .map(|(path, hash)| json!({ "file": name(path), "sha256": hash }))
            .collect();
        let part = |plan: &Plan| {
            let value = json!({ "tensors": plan.entries.len(), "parameters": plan.parameters() });
            (plan.component.name().to_owned(), value)
        };
        let lora =
            |(path, strength): &(PathBuf, f32)| json!({ "file": name(path), "strength": strength });
        json!({
            "mapping_version": MAPPING_VERSION,
            "dtype": options.dtype.map_or("keep".to_owned(), |d| format!("{d:?}").to_lowercase()),
            "concat_gain": if options.fold_concat_gain { "fold" } else { "keep" },
            "components": self.plans.iter().map(part).collect::<Map<_, _>>(),
            "tensors": self.plans.iter().map(|p| p.entries.len()).sum::<usize>(),
            "parameters": self.plans.iter().map(Plan::parameters).sum::<usize>(),
            "loras": self.loras.iter().map(lora).collect::<Vec<_>>(),
            "sources": sources,
        })
    }
}

fn sha256(path: &Path) -> Result<String, ConvertError> {
    let mut file = File::open(path).map_err(ConvertError::io(path))?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(ConvertError::io(path))? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}
