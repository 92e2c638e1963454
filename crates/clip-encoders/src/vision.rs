//! The vision tower (reference `clip.md` §2).

use std::path::Path;

use burn::{
    module::{Module, Param},
    tensor::{DType, Tensor, backend::Backend},
};
use i2vgen_checkpoint::{Folder, LoadOptions, Stem, Weights, load_module, save_module, write_json};
use i2vgen_kernels::{Conv2d, Embedding, LayerNorm, Linear, Mask, parameter, takes_half_weights};

use crate::{
    CLIPError, CLIPVisionConfig,
    config::{Activation, check_heads},
    encoder::{CLIPEncoder, Sizes},
};

/// The vision tower with its projection (transformers `CLIPVisionModelWithProjection`).
#[derive(Module, Debug)]
pub struct CLIPVisionModelWithProjection<B: Backend> {
    vision_model: CLIPVisionTransformer<B>,
    visual_projection: Linear<B>,
    /// What the module was built from.
    #[module(skip)]
    pub config: CLIPVisionConfig,
}

#[derive(Module, Debug)]
struct CLIPVisionTransformer<B: Backend> {
    embeddings: CLIPVisionEmbeddings<B>,
    // The checkpoints' own spelling.
    pre_layrnorm: LayerNorm<B>,
    encoder: CLIPEncoder<B>,
    post_layernorm: LayerNorm<B>,
}

#[derive(Module, Debug)]
struct CLIPVisionEmbeddings<B: Backend> {
    class_embedding: Param<Tensor<B, 1>>,
    patch_embedding: Conv2d<B>,
    position_embedding: Embedding<B>,
}

impl<B: Backend> CLIPVisionModelWithProjection<B> {
    /// A module with random weights, initialised when first used.
    ///
    /// # Errors
    /// If the config contradicts itself.
    pub fn new(config: CLIPVisionConfig, device: &B::Device) -> Result<Self, CLIPError> {
        check_heads(config.hidden_size, config.num_attention_heads)?;
        if config.patch_size == 0 || config.image_size < config.patch_size {
            return Err(CLIPError::Config(format!(
                "image_size {} must be at least patch_size {}, and that at least 1",
                config.image_size, config.patch_size
            )));
        }
        let hidden = config.hidden_size;
        let patch = config.patch_size;
        let side = config.image_size / patch;
        let sizes = Sizes {
            hidden,
            intermediate: config.intermediate_size,
            layers: config.num_hidden_layers,
            heads: config.num_attention_heads,
            eps: config.layer_norm_eps,
            activation: Activation::parse(&config.hidden_act)?,
        };
        let norm = || LayerNorm::new(hidden, config.layer_norm_eps, device);
        Ok(Self {
            vision_model: CLIPVisionTransformer {
                embeddings: CLIPVisionEmbeddings {
                    class_embedding: parameter([hidden], 0.02, device),
                    patch_embedding: Conv2d::new(
                        config.num_channels,
                        hidden,
                        patch,
                        patch,
                        0,
                        false,
                        device,
                    ),
                    position_embedding: Embedding::new(side * side + 1, hidden, device),
                },
                pre_layrnorm: norm(),
                encoder: CLIPEncoder::new(sizes, device),
                post_layernorm: norm(),
            },
            visual_projection: Linear::new(hidden, config.projection_dim, false, device),
            config,
        })
    }

    /// Loads an `image_encoder` folder in f32.
    ///
    /// # Errors
    /// If the folder is incomplete or its weights do not fit its config.
    pub fn from_pretrained(path: impl AsRef<Path>, device: &B::Device) -> Result<Self, CLIPError> {
        Self::from_folder(&Folder::open(path)?, None, DType::F32, device)
    }

    /// Loads an `image_encoder` folder with a choice of variant (`fp16`) and dtype.
    ///
    /// # Errors
    /// As [`Self::from_pretrained`].
    pub fn from_folder(
        folder: &Folder,
        variant: Option<&str>,
        dtype: DType,
        device: &B::Device,
    ) -> Result<Self, CLIPError> {
        let model = Self::new(folder.read_json("config.json")?, device)?;
        let weights = Weights::open(folder, Stem::Transformers, variant)?;
        let options = LoadOptions {
            keep_half: takes_half_weights::<B>(),
            dtype,
            rename: &current_name,
            lazy: false,
        };
        Ok(load_module(model, &weights, &options)?)
    }

    /// Writes `config.json` and the weights to an existing folder.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn save_pretrained(&self, path: impl AsRef<Path>, dtype: DType) -> Result<(), CLIPError> {
        #[derive(serde::Serialize)]
        struct Saved<'a> {
            architectures: [&'static str; 1],
            model_type: &'static str,
            #[serde(flatten)]
            config: &'a CLIPVisionConfig,
        }
        let path = path.as_ref();
        save_module(self, &path.join("model.safetensors"), dtype)?;
        let saved = Saved {
            architectures: ["CLIPVisionModelWithProjection"],
            model_type: "clip_vision_model",
            config: &self.config,
        };
        Ok(write_json(&path.join("config.json"), &saved)?)
    }

    /// What it computes in; inputs are converted. (On the CPU the large weights may be in half precision nevertheless.)
    pub fn dtype(&self) -> DType {
        self.vision_model.pre_layrnorm.weight.val().dtype()
    }

    /// The projected class embedding of normalised pixels.
    ///
    /// # Shapes
    /// `[n, 3, image_size, image_size]` → `[n, projection_dim]`
    ///
    /// # Errors
    /// If the pixels have another shape.
    pub fn forward(&self, pixels: Tensor<B, 4>) -> Result<Tensor<B, 2>, CLIPError> {
        let side = self.config.image_size;
        let channels = self.config.num_channels;
        let [n, c, h, w] = pixels.dims();
        if [c, h, w] != [channels, side, side] {
            return Err(CLIPError::PixelShape {
                channels,
                side,
                found: pixels.dims().to_vec(),
            });
        }
        let model = &self.vision_model;
        let hidden = self.config.hidden_size;
        let patches = model
            .embeddings
            .patch_embedding
            .forward(pixels.cast(self.dtype()).permute([0, 2, 3, 1]))
            .flatten::<3>(1, 2);
        let class = model
            .embeddings
            .class_embedding
            .val()
            .reshape([1, 1, hidden])
            .expand([n, 1, hidden]);
        let positions = model.embeddings.position_embedding.weight.val();
        let x = Tensor::cat(vec![class, patches], 1) + positions.unsqueeze();
        let x = model.pre_layrnorm.forward(x);
        let x = model
            .encoder
            .forward(x, self.config.num_hidden_layers, Mask::None);
        let class = x.narrow(1, 0, 1).reshape([n, hidden]);
        Ok(self
            .visual_projection
            .forward(model.post_layernorm.forward(class)))
    }
}

/// Some files lack the `vision_model.` prefix.
fn current_name(key: &str) -> Option<String> {
    if key.starts_with("vision_model.") || key.starts_with("visual_projection.") {
        Some(key.to_owned())
    } else {
        Some(format!("vision_model.{key}"))
    }
}
