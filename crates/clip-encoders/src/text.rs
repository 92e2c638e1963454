//! The text tower (reference `clip.md` §1).

use std::path::Path;

use burn::{
    module::Module,
    tensor::{DType, Int, Tensor, backend::Backend},
};
use i2vgen_checkpoint::{Folder, LoadOptions, Stem, Weights, load_module, save_module, write_json};
use i2vgen_kernels::{Embedding, LayerNorm, Mask, takes_half_weights};

use crate::{
    CLIPError, CLIPTextConfig,
    config::{Activation, check_heads},
    encoder::{CLIPEncoder, Sizes},
};

/// The text tower (transformers `CLIPTextModel`), without the pooled output.
#[derive(Module, Debug)]
pub struct CLIPTextModel<B: Backend> {
    text_model: CLIPTextTransformer<B>,
    /// What the module was built from. Layers that were not loaded are not counted.
    #[module(skip)]
    pub config: CLIPTextConfig,
    /// Layers of the checkpoint, loaded or not.
    total_layers: usize,
}

#[derive(Module, Debug)]
struct CLIPTextTransformer<B: Backend> {
    embeddings: CLIPTextEmbeddings<B>,
    encoder: CLIPEncoder<B>,
    final_layer_norm: LayerNorm<B>,
}

#[derive(Module, Debug)]
struct CLIPTextEmbeddings<B: Backend> {
    token_embedding: Embedding<B>,
    position_embedding: Embedding<B>,
}

impl<B: Backend> CLIPTextModel<B> {
    /// A module with random weights, initialised when first used.
    ///
    /// # Errors
    /// If the config contradicts itself.
    pub fn new(config: CLIPTextConfig, device: &B::Device) -> Result<Self, CLIPError> {
        check_heads(config.hidden_size, config.num_attention_heads)?;
        let hidden = config.hidden_size;
        let sizes = Sizes {
            hidden,
            intermediate: config.intermediate_size,
            layers: config.num_hidden_layers,
            heads: config.num_attention_heads,
            eps: config.layer_norm_eps,
            activation: Activation::parse(&config.hidden_act)?,
        };
        Ok(Self {
            text_model: CLIPTextTransformer {
                embeddings: CLIPTextEmbeddings {
                    token_embedding: Embedding::new(config.vocab_size, hidden, device),
                    position_embedding: Embedding::new(
                        config.max_position_embeddings,
                        hidden,
                        device,
                    ),
                },
                encoder: CLIPEncoder::new(sizes, device),
                final_layer_norm: LayerNorm::new(hidden, config.layer_norm_eps, device),
            },
            total_layers: config.num_hidden_layers,
            config,
        })
    }

    /// Loads a `text_encoder` folder in f32.
    ///
    /// # Errors
    /// If the folder is incomplete or its weights do not fit its config.
    pub fn from_pretrained(path: impl AsRef<Path>, device: &B::Device) -> Result<Self, CLIPError> {
        Self::from_folder(&Folder::open(path)?, None, DType::F32, 0, device)
    }

    /// Loads a `text_encoder` folder with a choice of variant (`fp16`) and dtype, without the last `skip` layers, which
    /// a `clip_skip` of at least that many never evaluates.
    ///
    /// # Errors
    /// As [`Self::from_pretrained`], and if there are not so many layers.
    pub fn from_folder(
        folder: &Folder,
        variant: Option<&str>,
        dtype: DType,
        skip: usize,
        device: &B::Device,
    ) -> Result<Self, CLIPError> {
        let mut config: CLIPTextConfig = folder.read_json("config.json")?;
        let total = config.num_hidden_layers;
        let layers = total.checked_sub(skip).ok_or(CLIPError::ClipSkip {
            skip,
            layers: total,
        })?;
        config.num_hidden_layers = layers;
        let mut model = Self::new(config, device)?;
        model.total_layers = total;
        let weights = Weights::open(folder, Stem::Transformers, variant)?;
        let rename = |key: &str| current_name(key, layers..total);
        let options = LoadOptions {
            keep_half: takes_half_weights::<B>(),
            dtype,
            rename: &rename,
            lazy: false,
        };
        Ok(load_module(model, &weights, &options)?)
    }

    /// What it computes in. (On the CPU the large weights may be in half precision nevertheless.)
    pub fn dtype(&self) -> DType {
        self.text_model.final_layer_norm.weight.val().dtype()
    }

    /// Layers of the checkpoint, loaded or not.
    pub fn total_layers(&self) -> usize {
        self.total_layers
    }

    /// Writes `config.json` and the weights to an existing folder.
    ///
    /// # Errors
    /// If they cannot be written, or if not all layers were loaded.
    pub fn save_pretrained(&self, path: impl AsRef<Path>, dtype: DType) -> Result<(), CLIPError> {
        #[derive(serde::Serialize)]
        struct Saved<'a> {
            architectures: [&'static str; 1],
            model_type: &'static str,
            #[serde(flatten)]
            config: &'a CLIPTextConfig,
        }
        if self.config.num_hidden_layers != self.total_layers {
            return Err(CLIPError::Config(
                "only a part of the layers was loaded; load all of them (skip 0) to save".into(),
            ));
        }
        let path = path.as_ref();
        save_module(self, &path.join("model.safetensors"), dtype)?;
        let saved = Saved {
            architectures: ["CLIPTextModel"],
            model_type: "clip_text_model",
            config: &self.config,
        };
        Ok(write_json(&path.join("config.json"), &saved)?)
    }

    /// The normalised output of the last layer, or of the layer `clip_skip` before it. Later layers are not evaluated.
    ///
    /// # Shapes
    /// `[b, n]` → `[b, n, hidden_size]`
    ///
    /// # Errors
    /// If there are not so many layers, more tokens than positions, or an id beyond the vocabulary.
    pub fn forward(
        &self,
        ids: Tensor<B, 2, Int>,
        clip_skip: Option<usize>,
    ) -> Result<Tensor<B, 3>, CLIPError> {
        let [_, tokens] = ids.dims();
        let max = self.config.max_position_embeddings;
        if tokens > max {
            return Err(CLIPError::TooManyTokens { tokens, max });
        }
        // A lookup beyond the table would panic or, on a GPU, read something else. Once per prompt this costs nothing.
        let vocab_size = self.config.vocab_size;
        let known = |id: &i64| usize::try_from(*id).is_ok_and(|id| id < vocab_size);
        if let Some(id) = ids.to_data().iter::<i64>().find(|id| !known(id)) {
            return Err(CLIPError::TokenId { id, vocab_size });
        }
        let skip = clip_skip.unwrap_or(0);
        let loaded = self.config.num_hidden_layers;
        let layers = self
            .total_layers
            .checked_sub(skip)
            .filter(|layers| *layers <= loaded)
            .ok_or(CLIPError::ClipSkip {
                skip,
                layers: loaded,
            })?;
        let model = &self.text_model;
        let positions = model.embeddings.position_embedding.weight.val();
        let x = model.embeddings.token_embedding.forward(ids)
            + positions.narrow(0, 0, tokens).unsqueeze();
        let x = model.encoder.forward(x, layers, Mask::Causal);
        Ok(model.final_layer_norm.forward(x))
    }
}

/// Some files lack the `text_model.` prefix, some carry a projection that this pipeline does not use.
fn current_name(key: &str, skipped: std::ops::Range<usize>) -> Option<String> {
    let key = key.strip_prefix("text_model.").unwrap_or(key);
    let layer = key
        .strip_prefix("encoder.layers.")
        .and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    let unused = key == "text_projection.weight" || layer.is_some_and(|n| skipped.contains(&n));
    (!unused).then(|| format!("text_model.{key}"))
}
