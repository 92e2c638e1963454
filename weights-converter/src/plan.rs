//! What a conversion will do, known and checked before anything is written.

use std::collections::BTreeMap;

use safetensors::Dtype;
use serde_json::Value;

use crate::{
    Component, ConvertError, Source, SourceTensor,
    lora::Delta,
    mapping::{Mapped, Transform, diffusers, ldm_vae, open_clip, vgen_unet},
};

/// One tensor of the result and where it comes from.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name in the result.
    pub target: String,
    /// Shape in the result.
    pub shape: Vec<usize>,
    /// Name in the source.
    pub source: String,
    /// How it changes.
    pub transform: Transform,
    pub(crate) tensor: SourceTensor,
    /// What LoRA files add to the values, in the result's shape.
    pub(crate) deltas: Vec<Delta>,
}

impl Entry {
    /// Number format in the source.
    pub fn source_dtype(&self) -> Dtype {
        self.tensor.dtype
    }
}

/// All tensors of one component, sorted by name.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The component.
    pub component: Component,
    /// Its tensors.
    pub entries: Vec<Entry>,
}

impl Source {
    /// The components whose tensors this file holds, told from the names.
    pub fn components(&self) -> Vec<Component> {
        let has = |part: &str| self.tensors.keys().any(|key| key.contains(part));
        let starts = |part: &str| self.tensors.keys().any(|key| key.starts_with(part));
        // Both UNets have frame convolutions, which no image model has.
        let video = has("temopral_conv.") || has("temp_convs.");
        let image = has("local_image_concat.") || has("image_latents_proj_in.");
        let ldm = starts(ldm_vae::PREFIX) || starts("encoder.down.");
        let text = has("token_embedding.weight");
        let vision = starts("visual.conv1") || has("patch_embedding.weight");
        let found = [
            (Component::Unet, video && image),
            (Component::Unet3d, video && !image),
            (Component::Vae, ldm || starts("encoder.down_blocks.")),
            (Component::TextEncoder, text),
            (Component::ImageEncoder, vision),
        ];
        found
            .into_iter()
            .filter_map(|(c, yes)| yes.then_some(c))
            .collect()
    }
}

impl Plan {
    /// Maps the tensors of one component, possibly in several shards, and checks them against its config.
    ///
    /// # Errors
    /// If a tensor is missing, foreign, of another shape, or not a float.
    pub fn new(
        component: Component,
        sources: &[Source],
        config: &Value,
    ) -> Result<Self, ConvertError> {
        let path = sources.first().map(|s| s.path.clone()).unwrap_or_default();
        let fail = |reason: String| ConvertError::Mismatch {
            path: path.clone(),
            component: component.folder().to_owned(),
            reason,
        };
        let tensors = subtree(component, sources);
        let map = mapper(component, &tensors, config);
        let mut entries = BTreeMap::new();
        let mut foreign = Vec::new();
        for (source, tensor) in tensors {
            let targets = match map(source) {
                Mapped::To(targets) => targets,
                Mapped::Ignored => continue,
                Mapped::Foreign => {
                    foreign.push(source.to_owned());
                    continue;
                }
            };
            for (target, transform) in targets {
                // Only weights that are not linear in the source either are stored with extra axes.
                let shape = transform.shape(&tensor.shape);
                let shape = shape.unwrap_or_else(|| tensor.shape.clone());
                let entry = Entry {
                    target: target.clone(),
                    shape,
                    source: source.to_owned(),
                    transform,
                    tensor: tensor.clone(),
                    deltas: Vec::new(),
                };
                if let Some(other) = entries.insert(target.clone(), entry) {
                    let both = format!("'{}' and '{source}' both give '{target}'", other.source);
                    return Err(fail(both));
                }
            }
        }
        let (mut missing, mut shapes) = (Vec::new(), Vec::new());
        let mut plan = Vec::new();
        for (key, shape) in component.layout(config)? {
            match entries.remove(&key) {
                None => missing.push(key),
                Some(entry) if entry.shape != shape => {
                    shapes.push(format!(
                        "{} {:?} instead of {shape:?}",
                        entry.source, entry.tensor.shape
                    ));
                }
                Some(entry) => plan.push(entry),
            }
        }
        foreign.extend(entries.into_values().map(|entry| entry.source));
        let problems: Vec<String> = [
            ("missing", missing),
            ("foreign", foreign),
            ("of another shape", shapes),
        ]
        .into_iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(what, list)| {
            let more = if list.len() > 5 { ", …" } else { "" };
            format!(
                "{} {what} ({}{more})",
                list.len(),
                list[..list.len().min(5)].join(", ")
            )
        })
        .collect();
        if !problems.is_empty() {
            return Err(fail(problems.join("; ")));
        }
        if let Some(entry) = plan
            .iter()
            .find(|e| crate::number::size(e.tensor.dtype).is_none())
        {
            return Err(fail(format!(
                "'{}' has dtype {:?}",
                entry.source, entry.tensor.dtype
            )));
        }
        plan.sort_by(|a, b| a.target.cmp(&b.target));
        Ok(Self {
            component,
            entries: plan,
        })
    }

    /// Doubles what `conv_in` sees of the image, as the authors' code does at run time.
    pub fn fold_concat_gain(&mut self, config: &Value) {
        let from = config["in_channels"].as_u64().unwrap_or(4) as usize;
        for entry in &mut self.entries {
            if self.component == Component::Unet && entry.target == "conv_in.weight" {
                entry.transform = Transform::DoubleInputs { from };
            }
        }
    }

    /// Number of values.
    pub fn parameters(&self) -> usize {
        self.entries
            .iter()
            .map(|e| e.shape.iter().product::<usize>())
            .sum()
    }
}

/// The component's tensors, without the prefix under which they lie in a larger checkpoint.
fn subtree(component: Component, sources: &[Source]) -> BTreeMap<&str, &SourceTensor> {
    let prefixes: &[&str] = match component {
        Component::Unet | Component::Unet3d => &["model.diffusion_model."],
        Component::Vae => &[ldm_vae::PREFIX],
        Component::TextEncoder => &["cond_stage_model.model."],
        Component::ImageEncoder => &[],
    };
    let all = || sources.iter().flat_map(|s| &s.tensors);
    let prefix = prefixes
        .iter()
        .find(|p| all().any(|(key, _)| key.starts_with(**p)));
    let prefix = prefix.copied().unwrap_or("");
    all()
        .filter_map(|(key, tensor)| Some((key.strip_prefix(prefix)?, tensor)))
        .collect()
}

fn mapper(
    component: Component,
    tensors: &BTreeMap<&str, &SourceTensor>,
    config: &Value,
) -> Box<dyn Fn(&str) -> Mapped> {
    let starts = |part: &str| tensors.keys().any(|key| key.starts_with(part));
    match component {
        Component::Unet | Component::Unet3d if starts("input_blocks.") => {
            let layers = config["layers_per_block"].as_u64().unwrap_or(2) as usize;
            Box::new(move |key| vgen_unet::map(key, layers.min(64)))
        }
        Component::Unet | Component::Unet3d => Box::new(diffusers::map_unet),
        Component::Vae if starts("encoder.down.") => {
            let blocks = config["block_out_channels"].as_array().map_or(4, Vec::len);
            Box::new(move |key| ldm_vae::map(key, blocks))
        }
        Component::Vae => Box::new(diffusers::map_vae),
        Component::TextEncoder if starts("transformer.resblocks.") => Box::new(open_clip::map_text),
        Component::TextEncoder => Box::new(diffusers::map_text),
        Component::ImageEncoder if starts("visual.") => Box::new(open_clip::map_vision),
        Component::ImageEncoder => Box::new(diffusers::map_vision),
    }
}
