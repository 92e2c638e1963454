//! A component file becomes a component folder.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use safetensors::Dtype;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{Component, ConvertError, Plan, Source, job::Job, write};

/// Counts up when a table changes what it produces.
pub const MAPPING_VERSION: u32 = 1;

/// How to convert.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Number format of the result; `None` keeps the source's.
    pub dtype: Option<Dtype>,
    /// Largest weight file in bytes.
    pub shard_size: Option<u64>,
    /// Whether the authors' doubled image features are folded into `conv_in`.
    pub fold_concat_gain: bool,
    /// Replace an existing output folder.
    pub force: bool,
}

/// Reads a component's config, the published one without a `folder`.
///
/// # Errors
/// If the folder has no such config or it is not JSON.
pub fn read_config(component: Component, folder: Option<&Path>) -> Result<Value, ConvertError> {
    let parse = |text: &str| {
        serde_json::from_str(text).map_err(|e| ConvertError::Config {
            component: component.folder().to_owned(),
            reason: e.to_string(),
        })
    };
    let Some(folder) = folder else {
        return parse(component.published_config());
    };
    let path = folder.join(component.folder()).join("config.json");
    parse(&std::fs::read_to_string(&path).map_err(ConvertError::io(&path))?)
}

/// Converts one planned component to the folder `output`: weights, `config.json` and the manifest `i2vgen.json`.
///
/// `progress` is told the bytes written. Either the complete folder appears or nothing.
///
/// # Errors
/// If the output exists (without `force`), a source is damaged, or writing fails.
pub fn convert_component(
    plan: &Plan,
    config: &Value,
    sources: &[Source],
    output: &Path,
    options: &Options,
    progress: &mut dyn FnMut(u64),
) -> Result<(), ConvertError> {
    let mut plan = plan.clone();
    if options.fold_concat_gain {
        plan.fold_concat_gain(config);
    }
    let paths: Vec<PathBuf> = sources.iter().map(|s| s.path.clone()).collect();
    let job = Job::begin(output, &paths, options.force)?;
    let hashes = std::thread::scope(|scope| {
        let hashes = scope.spawn(|| {
            paths
                .iter()
                .map(|p| sha256(p))
                .collect::<Result<Vec<_>, _>>()
        });
        write::write(
            &plan,
            job.folder(),
            options.dtype,
            options.shard_size,
            progress,
        )?;
        hashes
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    write::write_json(&job.folder().join("config.json"), config)?;
    let source = |(path, hash): (&PathBuf, String)| {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
        json!({ "file": name, "sha256": hash })
    };
    let sources: Vec<Value> = paths.iter().zip(hashes).map(source).collect();
    job.finish(&json!({
        "component": plan.component,
        "mapping_version": MAPPING_VERSION,
        "dtype": options.dtype.map_or("keep".to_owned(), |d| format!("{d:?}").to_lowercase()),
        "concat_gain": if options.fold_concat_gain { "fold" } else { "keep" },
        "tensors": plan.entries.len(),
        "parameters": plan.parameters(),
        "sources": sources,
    }))
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
