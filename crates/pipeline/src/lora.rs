//! LoRA at run time: what runs is a merged copy of a module, `W + Σ strength · scale · up · down`; the module itself is never
//! changed (reference: `checkpoints.md` §4).

mod merge;

use std::collections::BTreeMap;

use burn::tensor::backend::Backend;
use i2vgen_checkpoint::parameters;
use i2vgen_clip_encoders::{CLIPTextConfig, CLIPTextModel};
use i2vgen_unet3d::{I2VGenXLUNet, I2VGenXLUNetConfig};
pub use i2vgen_weights_converter::Lora;
use i2vgen_weights_converter::{Component, Delta, LoraTarget};

use self::merge::merge;
use crate::PipelineError;

/// LoRA files that are added to the UNet and the text encoder, in this order.
///
/// To change strengths or take a file out, merge into the base module again: nothing is reloaded.
///
/// ```no_run
/// # use burn::backend::Flex;
/// use i2vgen_pipeline::{Lora, Loras};
/// use i2vgen_unet3d::I2VGenXLUNet;
///
/// let base = I2VGenXLUNet::<Flex>::from_pretrained("models/i2vgen-xl/unet", &Default::default())?;
/// let mut loras = Loras::from(vec![
///     Lora::open("ink.safetensors".as_ref(), 0.8)?,
///     Lora::open("pan_left.safetensors".as_ref(), 0.5)?,
/// ]);
/// let (both, _) = loras.merge_unet(base.clone())?; // the clone shares what no file changes
/// loras.files.pop();
/// let (ink_only, _) = loras.merge_unet(base.clone())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Loras {
    /// The files, each with its own strength, which may be negative; 1 is as trained.
    pub files: Vec<Lora>,
    /// Multiplies every strength (diffusers' `lora_scale`).
    pub lora_scale: f32,
    /// Whether keys that fit neither module are returned instead of being an error.
    pub allow_unknown: bool,
}

impl Default for Loras {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            lora_scale: 1.0,
            allow_unknown: false,
        }
    }
}

impl From<Vec<Lora>> for Loras {
    fn from(files: Vec<Lora>) -> Self {
        Self {
            files,
            ..Self::default()
        }
    }
}

/// What is added to each parameter, by key.
type Deltas = BTreeMap<String, Vec<Delta>>;

impl Loras {
    /// Adds them to the UNet. Parameters that no file changes are shared with `unet`, not copied; at strength 0 that is all of
    /// them. Also returns the keys that fit nowhere, if they are allowed; the text encoder's are not among them.
    ///
    /// # Errors
    /// If a file is damaged or of another model, has keys that fit nowhere, or the dtype cannot hold the sum.
    pub fn merge_unet<B: Backend>(
        &self,
        unet: I2VGenXLUNet<B>,
    ) -> Result<(I2VGenXLUNet<B>, Vec<String>), PipelineError> {
        let (deltas, unknown) = self.fit(unet_target(&unet))?;
        let dtype = unet.dtype();
        Ok((merge(unet, dtype, deltas)?, unknown))
    }

    /// Adds them to the text encoder; otherwise as [`Self::merge_unet`]. What belongs to layers that were not loaded is left out.
    ///
    /// # Errors
    /// As [`Self::merge_unet`].
    pub fn merge_text_encoder<B: Backend>(
        &self,
        text_encoder: CLIPTextModel<B>,
    ) -> Result<(CLIPTextModel<B>, Vec<String>), PipelineError> {
        let config = CLIPTextConfig {
            num_hidden_layers: text_encoder.total_layers(),
            ..text_encoder.config.clone()
        };
        let (deltas, unknown) = self.fit(text_target::<B>(config)?)?;
        let dtype = text_encoder.dtype();
        Ok((merge(text_encoder, dtype, deltas)?, unknown))
    }

    /// What both merges will say, without any weights: whether every file fits, and which keys fit nowhere.
    ///
    /// # Errors
    /// As [`Self::merge_unet`], except for damage in a file's values.
    pub fn check<B: Backend>(
        &self,
        unet: I2VGenXLUNetConfig,
        text_encoder: CLIPTextConfig,
    ) -> Result<Vec<String>, PipelineError> {
        let unet = I2VGenXLUNet::<B>::new(unet, &Default::default())?;
        let (_, mut unknown) = self.fit(unet_target(&unet))?;
        unknown.extend(self.fit(text_target::<B>(text_encoder)?)?.1);
        Ok(unknown)
    }

    /// What they add to one component, and the keys that are meant for it but fit nowhere.
    fn fit(&self, target: LoraTarget) -> Result<(Deltas, Vec<String>), PipelineError> {
        let other = match target.component {
            Component::TextEncoder => Component::Unet,
            _ => Component::TextEncoder,
        };
        let targets = [target];
        let [
            LoraTarget {
                component, weights, ..
            },
        ] = &targets;
        let mut sum = Deltas::new();
        let mut unknown = Vec::new();
        for lora in &self.files {
            let strength = lora.strength() * self.lora_scale;
            if !strength.is_finite() {
                let file = lora.path().display();
                return Err(PipelineError::Option {
                    name: "lora_scale",
                    problem: format!("the strength of '{file}' is {strength}; give a number"),
                });
            }
            let fit = lora.fit(&targets, strength)?;
            if fit.deltas.is_empty() && !lora.is_meant_for(other) {
                return Err(lora.stranger().into());
            }
            let mine = |key: &String| Lora::component_of(key) == *component;
            let mine: Vec<String> = fit.unknown.into_iter().filter(mine).collect();
            if !self.allow_unknown {
                lora.refuse(&mine)?;
            }
            unknown.extend(mine);
            // Adding zero could still change a byte: -0 + 0 is +0.
            if strength != 0.0 {
                for (_, weight, delta) in fit.deltas {
                    sum.entry(weights[weight].0.clone())
                        .or_default()
                        .push(delta);
                }
            }
        }
        Ok((sum, unknown))
    }
}

fn unet_target<B: Backend>(unet: &I2VGenXLUNet<B>) -> LoraTarget {
    LoraTarget {
        component: Component::Unet,
        weights: parameters(unet),
        layers_per_block: unet.config.layers_per_block,
    }
}

/// With all layers of the config.
fn text_target<B: Backend>(config: CLIPTextConfig) -> Result<LoraTarget, PipelineError> {
    // Nothing is allocated for a module whose parameters are not read.
    let text_encoder = CLIPTextModel::<B>::new(config, &Default::default())?;
    Ok(LoraTarget {
        component: Component::TextEncoder,
        weights: parameters(&text_encoder),
        layers_per_block: 0,
    })
}
