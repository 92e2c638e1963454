//! LoRA files, merged while converting or by the pipeline (reference: `checkpoints.md` §4): `W + strength · scale · up · down`.

mod config;
mod delta;
mod keys;
mod modules;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use self::{
    config::AdapterConfig,
    keys::{Part, parse},
    modules::{Modules, meant_for},
};
pub use self::{delta::Delta, modules::LoraTarget};
use crate::{Component, ConvertError, Plan, Source, SourceTensor};

/// A LoRA file, opened and sorted by layer.
#[derive(Clone, Debug)]
pub struct Lora {
    path: PathBuf,
    strength: f32,
    layers: BTreeMap<String, Layer>,
    config: AdapterConfig,
    unknown: Vec<String>,
}

#[derive(Clone, Debug, Default)]
struct Layer {
    down: Option<SourceTensor>,
    up: Option<SourceTensor>,
    alpha: Option<f32>,
    keys: Vec<String>,
}

/// Which weights a LoRA changes, and how.
#[derive(Clone, Debug)]
pub struct LoraFit {
    /// What is added, and to which weight of which target (two indices).
    pub deltas: Vec<(usize, usize, Delta)>,
    /// Keys that fit nowhere.
    pub unknown: Vec<String>,
}

/// What a merge did.
#[derive(Debug)]
pub struct Merged {
    /// Weights that were changed.
    pub merged: usize,
    /// Keys that fit nowhere.
    pub skipped: Vec<String>,
}

impl Lora {
    /// Splits `FILE[:STRENGTH]`. What follows the last colon is a strength if it is a number; otherwise all is the name.
    ///
    /// # Errors
    /// If the strength is not finite, or there is neither such a file nor such a number.
    pub fn parse_argument(text: &str) -> Result<(PathBuf, f32), String> {
        let Some((file, strength)) = text.rsplit_once(':') else {
            return Ok((text.into(), 1.0));
        };
        match strength.parse::<f32>() {
            Ok(strength) if strength.is_finite() => Ok((file.into(), strength)),
            Err(_) if Path::new(text).exists() => Ok((text.into(), 1.0)),
            _ => Err(format!("'{strength}' is not a strength; write FILE:0.8")),
        }
    }

    /// Opens a LoRA in diffusers' (old or new), PEFT's or kohya's layout. PEFT's settings are read from the header or from
    /// `adapter_config.json` beside the file.
    ///
    /// # Errors
    /// If it is no weight file, a layer lacks one of its halves, or it needs what cannot be merged (DoRA, LoHa, LoKr, Tucker).
    pub fn open(path: &Path, strength: f32) -> Result<Self, ConvertError> {
        let bad = |reason: String| ConvertError::source(path, reason);
        let source = Source::open(path)?;
        let config = AdapterConfig::find(&source)?;
        let mut layers: BTreeMap<String, Layer> = BTreeMap::new();
        let mut unknown = Vec::new();
        for (key, tensor) in source.tensors {
            let Some((module, part)) = parse(&key) else {
                unknown.push(key);
                continue;
            };
            let layer = layers.entry(module).or_default();
            let twice = match part {
                Part::Down => layer.down.replace(tensor).is_some(),
                Part::Up => layer.up.replace(tensor).is_some(),
                Part::Alpha => layer.alpha.replace(scalar(path, &key, &tensor)?).is_some(),
                Part::Unsupported(what) => {
                    return Err(bad(format!(
                        "'{key}' belongs to {what}, which cannot be merged"
                    )));
                }
            };
            if twice {
                return Err(bad(format!(
                    "'{key}' is there twice, under different names"
                )));
            }
            layer.keys.push(key);
        }
        if let Some((module, layer)) = layers
            .iter()
            .find(|(_, l)| l.down.is_none() || l.up.is_none())
        {
            let lost = if layer.down.is_none() { "down" } else { "up" };
            return Err(bad(format!(
                "layer '{module}' has no {lost} matrix; download it again"
            )));
        }
        if layers.is_empty() {
            return Err(bad(
                "it is not a LoRA: no key ends in lora_A, lora_down or lora.down".into(),
            ));
        }
        Ok(Self {
            path: path.to_owned(),
            strength,
            layers,
            config,
            unknown,
        })
    }

    /// What it adds to which weights at this strength, which need not be its own.
    ///
    /// # Errors
    /// If a matrix has other sizes than the weight.
    pub fn fit(&self, targets: &[LoraTarget], strength: f32) -> Result<LoraFit, ConvertError> {
        let modules = Modules::of(targets);
        let mut unknown = self.unknown.clone();
        let mut deltas = Vec::new();
        for (module, layer) in &self.layers {
            let places = modules.find(module);
            let (Some(down), Some(up), false) = (&layer.down, &layer.up, places.is_empty()) else {
                unknown.extend(layer.keys.iter().cloned());
                continue;
            };
            let rank = down.shape.first().copied().unwrap_or(0);
            let scale = match layer.alpha {
                Some(alpha) => alpha / rank as f32,
                None => self.config.scale(module, rank),
            };
            for place in places {
                let (name, shape) = &targets[place.target].weights[place.weight];
                let delta = Delta {
                    name: module.clone(),
                    down: down.clone(),
                    up: up.clone(),
                    rows: place.rows,
                    scale: scale * strength,
                };
                delta
                    .check(name, shape)
                    .map_err(|reason| ConvertError::source(&self.path, reason))?;
                deltas.push((place.target, place.weight, delta));
            }
        }
        Ok(LoraFit { deltas, unknown })
    }

    /// Adds it to the weights of UNet and text encoder. With `allow_unknown`, keys that fit nowhere are only returned.
    ///
    /// # Errors
    /// If a key fits nowhere, a matrix has other sizes than the weight, or nothing fits at all.
    pub fn merge_into(
        &self,
        plans: &mut [Plan],
        allow_unknown: bool,
    ) -> Result<Merged, ConvertError> {
        let targets: Vec<LoraTarget> = plans.iter().map(LoraTarget::from).collect();
        let LoraFit { deltas, unknown } = self.fit(&targets, self.strength)?;
        if deltas.is_empty() {
            return Err(self.stranger());
        }
        if !allow_unknown {
            self.refuse(&unknown)?;
        }
        let merged = deltas.len();
        for (plan, entry, delta) in deltas {
            // Adding zero could still change a byte: -0 + 0 is +0.
            if self.strength != 0.0 {
                plans[plan].entries[entry].deltas.push(delta);
            }
        }
        Ok(Merged {
            merged,
            skipped: unknown,
        })
    }

    /// The error of a file of which nothing fits.
    pub fn stranger(&self) -> ConvertError {
        ConvertError::source(&self.path, "none of its layers is in this model")
    }

    /// Keys that fit nowhere are an error.
    ///
    /// # Errors
    /// If there are any.
    pub fn refuse(&self, unknown: &[String]) -> Result<(), ConvertError> {
        if unknown.is_empty() {
            return Ok(());
        }
        let (count, first) = (unknown.len(), unknown[..unknown.len().min(5)].join(", "));
        let reason = format!(
            "{count} of its keys fit nowhere ({first}); leave them out with --allow-unknown"
        );
        Err(ConvertError::source(&self.path, reason))
    }

    /// The component that a key of a LoRA file is meant for, told from the name alone: the text encoder or else the UNet.
    pub fn component_of(key: &str) -> Component {
        parse(key).map_or_else(|| meant_for(key), |(module, _)| meant_for(&module))
    }

    /// Whether any of its layers is meant for this component, told from the names alone.
    pub fn is_meant_for(&self, component: Component) -> bool {
        self.layers.keys().any(|m| meant_for(m) == component)
    }

    /// Number of layers.
    pub(crate) fn layers(&self) -> usize {
        self.layers.len()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How strongly it is added; 1 is as trained.
    pub fn strength(&self) -> f32 {
        self.strength
    }

    /// Changes how strongly it is added; may be negative. Not finite is an error when it is added.
    pub fn set_strength(&mut self, strength: f32) {
        self.strength = strength;
    }
}

impl Source {
    /// Whether it holds what is added to a model's weights (also in ways that cannot be merged) instead of weights.
    pub(crate) fn is_lora(&self) -> bool {
        let is_part = |key: &String| parse(key).is_some_and(|(_, part)| part != Part::Alpha);
        self.tensors.keys().any(is_part)
    }
}

fn scalar(path: &Path, key: &str, tensor: &SourceTensor) -> Result<f32, ConvertError> {
    let bad = |reason: &str| ConvertError::source(path, format!("'{key}' {reason}"));
    let count: usize = tensor.shape.iter().product();
    if count != 1 || crate::number::size(tensor.dtype).is_none() {
        return Err(bad("is not a number"));
    }
    let bytes = tensor.read().map_err(|e| bad(&e.to_string()))?;
    let value = crate::number::widen(&bytes, tensor.dtype).first().copied();
    value
        .filter(|v| v.is_finite())
        .ok_or_else(|| bad("is not finite"))
}
