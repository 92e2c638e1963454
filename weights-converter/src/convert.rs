//! Planned components become a folder.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use safetensors::Dtype;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    Component, ConvertError, Lora, Plan, folder,
    job::{Job, MANIFEST},
    write,
};

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
    /// Folders that were read besides the weights.
    pub(crate) read: Vec<PathBuf>,
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
            read: Vec::new(),
        }
    }

    /// One component becomes a component folder.
    pub fn component(plan: Plan) -> Self {
        Self::new(vec![plan], false)
    }

    /// Keeps a folder that configs came from from being overwritten, as the weights are.
    pub fn protect(&mut self, folder: &Path) {
        self.read.push(folder.to_owned());
    }

    /// Doubles what the UNet sees of the image, as the authors' code does at run time.
    ///
    /// # Errors
    /// If no UNet of I2VGen-XL is among the components, or its weights are folded already.
    pub fn fold_concat_gain(&mut self) -> Result<(), ConvertError> {
        let refuse = |text: String| Err(ConvertError::Target(text));
        let mut unets = self.plans.iter_mut();
        let Some(unet) = unets.find(|p| p.component == Component::Unet) else {
            return refuse("--concat-gain fold needs the UNet, which is not converted here".into());
        };
        if is_folded(unet) {
            let file = unet.files[0].display();
            return refuse(format!(
                "'{file}' has the gain folded in already; leave out --concat-gain"
            ));
        }
        unet.fold_concat_gain();
        Ok(())
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
            self.fold_concat_gain()?;
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
        let sources = paths.iter().chain(&self.read).cloned().chain(copies);
        let sources: Vec<PathBuf> = sources.collect();
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
        let folded = options.fold_concat_gain || self.plans.iter().any(is_folded);
        json!({
            "mapping_version": MAPPING_VERSION,
            "dtype": options.dtype.map_or("keep".to_owned(), |d| format!("{d:?}").to_lowercase()),
            "concat_gain": if folded { "fold" } else { "keep" },
            "components": self.plans.iter().map(part).collect::<Map<_, _>>(),
            "tensors": self.plans.iter().map(|p| p.entries.len()).sum::<usize>(),
            "parameters": self.plans.iter().map(Plan::parameters).sum::<usize>(),
            "loras": self.loras.iter().map(lora).collect::<Vec<_>>(),
            "sources": sources,
        })
    }
}

/// Whether an earlier conversion folded the gain into these weights: the manifest above them says so.
fn is_folded(plan: &Plan) -> bool {
    let mut files = plan
        .files
        .iter()
        .filter_map(|f| std::path::absolute(f).ok());
    let says = |dir: &Path| {
        let manifest = folder::read_json(&dir.join(MANIFEST));
        manifest.is_ok_and(|json| json["concat_gain"] == "fold")
    };
    // The component's own folder, or the pipeline's.
    let above = |file: PathBuf| file.ancestors().skip(1).take(2).any(says);
    plan.component == Component::Unet && files.any(above)
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
