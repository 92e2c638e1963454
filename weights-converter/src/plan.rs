//! What a conversion will do, known and checked before anything is written.

use std::{collections::BTreeMap, path::PathBuf};

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
    /// Its `config.json`, old spellings replaced.
    pub config: Value,
    /// The files it comes from.
    pub files: Vec<PathBuf>,
    /// Its tensors.
    pub entries: Vec<Entry>,
}

/// How the tensors of a checkpoint differ from what a config asks for.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Differences {
    /// Tensors that are not there.
    pub missing: Vec<String>,
    /// Tensors that belong to another model.
    pub foreign: Vec<String>,
    /// Tensors with other sizes, described.
    pub shapes: Vec<String>,
}

impl Differences {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.foreign.is_empty() && self.shapes.is_empty()
    }
}

impl std::fmt::Display for Differences {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lists = [
            (&self.missing, "missing"),
            (&self.foreign, "foreign"),
            (&self.shapes, "of another shape"),
        ];
        let mut separator = "";
        for (list, what) in lists {
            if !list.is_empty() {
                let more = if list.len() > 5 { ", …" } else { "" };
                let first = list[..list.len().min(5)].join(", ");
                write!(f, "{separator}{} {what} ({first}{more})", list.len())?;
                separator = "; ";
            }
        }
        Ok(())
    }
}

impl Source {
    /// The components whose tensors this file holds, told from the names.
    pub fn components(&self) -> Vec<Component> {
        if self.is_lora() {
            return Vec::new();
        }
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

impl Source {
    /// The one component that this file holds.
    ///
    /// # Errors
    /// If it holds none or several.
    pub fn component(&self) -> Result<Component, ConvertError> {
        let found = self.components();
        let reason = match found.as_slice() {
            [one] => return Ok(*one),
            [] if self.is_lora() => {
                "it is a LoRA; convert the model and merge it with --lora FILE".to_owned()
            }
            [] => {
                let keys: Vec<&str> = self.tensors.keys().take(3).map(String::as_str).collect();
                let keys = keys.join(", ");
                format!("it holds no component of this model; its tensors are called {keys} …")
            }
            several => {
                let names: Vec<&str> = several.iter().map(|c| c.name()).collect();
                format!("it holds {}; choose one with --component", names.join(", "))
            }
        };
        Err(ConvertError::source(&self.path, reason))
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
        let (plan, differences) = Self::compare(component, sources, config)?;
        if !differences.is_empty() {
            return Err(ConvertError::Mismatch {
                path: plan.files.first().cloned().unwrap_or_default(),
                component: component.name().to_owned(),
                reason: differences.to_string(),
            });
        }
        Ok(plan)
    }

    /// Like [`Plan::new`], but differences are no error: the plan then holds what fits.
    ///
    /// # Errors
    /// If two tensors have the same place, one is not a float, or the config is unusable.
    pub fn compare(
        component: Component,
        sources: &[Source],
        config: &Value,
    ) -> Result<(Self, Differences), ConvertError> {
        let tensors = subtree(component, sources);
        let mut config = modern(component, config);
        if component == Component::Unet3d
            && tensors.keys().any(|key| key.starts_with("input_blocks."))
        {
            mark_second_stage(&mut config);
        }
        let config = &config;
        let files: Vec<PathBuf> = sources.iter().map(|s| s.path.clone()).collect();
        let fail = |reason: String| ConvertError::Mismatch {
            path: files.first().cloned().unwrap_or_default(),
            component: component.name().to_owned(),
            reason,
        };
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
        let plan = Self {
            component,
            config: config.clone(),
            files,
            entries: plan,
        };
        let differences = Differences {
            missing,
            foreign,
            shapes,
        };
        Ok((plan, differences))
    }

    /// Doubles what `conv_in` sees of the image, as the authors' code does at run time.
    pub fn fold_concat_gain(&mut self) {
        let from = self.config["in_channels"].as_u64().unwrap_or(4) as usize;
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

/// The config with today's names: the UNet's `num_attention_heads` of diffusers 0.26 means channels per head, and is
/// ignored by later versions (reference: `unet.md` §1).
fn modern(component: Component, config: &Value) -> Value {
    let mut config = config.clone();
    let unet = matches!(component, Component::Unet | Component::Unet3d);
    if unet && config["attention_head_dim"].is_null() && !config["num_attention_heads"].is_null() {
        config["attention_head_dim"] = config["num_attention_heads"].take();
    }
    config
}

/// What the authors' second stages (MS-Vid2Vid-XL, sr600) do to sizes and diffusers' class does not (reference: `refine.md` §3).
/// The keys are i2vgen-unet3d's; a checkpoint cannot tell.
fn mark_second_stage(config: &mut Value) {
    if config["upsample_crop_rows"].is_null() {
        config["downsample_padding"] = serde_json::json!([2, 1]);
        config["upsample_crop_rows"] = 1.into();
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
