//! Which files of a diffusers folder hold a component's weights (reference: `checkpoints.md` §1).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;

use crate::{Component, ConvertError, Source};

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// Parses a JSON file.
pub(crate) fn read_json(path: &Path) -> Result<Value, ConvertError> {
    let text = fs::read_to_string(path).map_err(ConvertError::io(path))?;
    serde_json::from_str(&text).map_err(|e| ConvertError::source(path, format!("not JSON ({e})")))
}

/// The component that a `config.json` describes.
pub(crate) fn component_of(config: &Value) -> Option<Component> {
    let class = config["_class_name"].as_str();
    let class = class.or_else(|| config["architectures"].get(0)?.as_str());
    // transformers leaves the class out of configs that it writes without weights.
    let class = class.or_else(|| config["model_type"].as_str());
    Some(match class? {
        "I2VGenXLUNet" => Component::Unet,
        "UNet3DConditionModel" => Component::Unet3d,
        "AutoencoderKL" => Component::Vae,
        "CLIPTextModel" | "CLIPTextModelWithProjection" | "clip_text_model" => {
            Component::TextEncoder
        }
        "CLIPVisionModel" | "CLIPVisionModelWithProjection" | "CLIPModel" | "clip_vision_model" => {
            Component::ImageEncoder
        }
        _ => return None,
    })
}

/// Opens the weights of a component folder: safetensors before pickles, and before either the plain file the
/// `variant` that was asked for. A folder that has nothing but one variant gives that one.
///
/// # Errors
/// If there are no weights, several variants to choose from, a missing shard, or a damaged file.
pub(crate) fn open_weights(
    folder: &Path,
    component: Component,
    variant: Option<&str>,
) -> Result<Vec<Source>, ConvertError> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).map_err(ConvertError::io(folder))? {
        let entry = entry.map_err(ConvertError::io(folder))?;
        names.insert(entry.file_name().to_string_lossy().into_owned());
    }
    let stems = [component.stem(), "pytorch_model"];
    let mut variants = vec![variant.map(str::to_owned), None];
    let found: BTreeSet<String> = names.iter().filter_map(|n| variant_of(n, &stems)).collect();
    if variant.is_none() && found.len() == 1 {
        variants.extend(found.iter().cloned().map(Some));
    }
    for ending in ["safetensors", "bin"] {
        for variant in &variants {
            let dot = variant
                .as_ref()
                .map(|v| format!(".{v}"))
                .unwrap_or_default();
            for stem in stems {
                let index = format!("{stem}.{ending}.index{dot}.json");
                if names.contains(&index) {
                    return open_shards(folder, &index);
                }
                let single = format!("{stem}{dot}.{ending}");
                if names.contains(&single) {
                    return Ok(vec![Source::open(&folder.join(single))?]);
                }
            }
        }
    }
    let reason = if found.len() > 1 {
        let found: Vec<String> = found.into_iter().collect();
        format!(
            "it has several variants ({}); choose one with --variant",
            found.join(", ")
        )
    } else {
        format!(
            "no weights in it; expected {}.safetensors, .bin or their sharded forms",
            stems[0]
        )
    };
    Err(ConvertError::source(folder, reason))
}

/// `V` of `stem.V.ending` and `stem.ending.index.V.json`.
fn variant_of(name: &str, stems: &[&str]) -> Option<String> {
    let rest = stems
        .iter()
        .find_map(|s| name.strip_prefix(s)?.strip_prefix('.'))?;
    ["safetensors", "bin"].iter().find_map(|ending| {
        let index = rest.strip_prefix(&format!("{ending}.index."));
        let variant = index
            .and_then(|rest| rest.strip_suffix(".json"))
            .or_else(|| rest.strip_suffix(&format!(".{ending}")))?;
        (!variant.is_empty() && !variant.contains('.')).then(|| variant.to_owned())
    })
}

fn open_shards(folder: &Path, index: &str) -> Result<Vec<Source>, ConvertError> {
    let path = folder.join(index);
    let bad = |reason: String| ConvertError::source(&path, reason);
    let map: ShardIndex = serde_json::from_value(read_json(&path)?)
        .map_err(|e| bad(format!("not a shard index ({e})")))?;
    let shards: BTreeSet<&String> = map.weight_map.values().collect();
    if let Some(name) = shards
        .iter()
        .find(|n| Path::new(n).file_name() != Some(n.as_ref()))
    {
        return Err(bad(format!("shard '{name}' lies outside the folder")));
    }
    let open = |name: &&String| {
        let file = folder.join(name);
        if !file.exists() {
            return Err(bad(format!(
                "its shard '{name}' is missing; download it again"
            )));
        }
        Source::open(&file)
    };
    let sources: Vec<Source> = shards.iter().map(open).collect::<Result<_, _>>()?;
    let count: usize = sources.iter().map(|s| s.tensors.len()).sum();
    let lost = |key: &&String| !sources.iter().any(|s| s.tensors.contains_key(key.as_str()));
    match map.weight_map.keys().find(lost) {
        // Wrapping prefixes are taken off the sources' names, so only the numbers can be compared then.
        Some(key) if count < map.weight_map.len() => {
            Err(bad(format!("no shard holds '{key}', which it promises")))
        }
        _ => Ok(sources),
    }
}

/// Small files (configs, vocabularies) directly in a folder.
pub(crate) fn small_files(folder: &Path) -> Result<Vec<PathBuf>, ConvertError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(ConvertError::io(folder))? {
        let path = entry.map_err(ConvertError::io(folder))?.path();
        let small = path
            .extension()
            .is_some_and(|e| e == "json" || e == "txt" || e == "model");
        if small && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
