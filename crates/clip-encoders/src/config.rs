//! `config.json` of both towers (transformers `models/clip/configuration_clip.py`).

use serde::{Deserialize, Serialize};

use crate::CLIPError;

/// `text_encoder/config.json`, with transformers' names and defaults.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub struct CLIPTextConfig {
    /// Rows of the token table.
    pub vocab_size: usize,
    /// Width of the tower.
    pub hidden_size: usize,
    /// Width inside the feed-forward layers.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Rows of the position table.
    pub max_position_embeddings: usize,
    /// `quick_gelu`, `gelu` or `gelu_new`.
    pub hidden_act: String,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f64,
    /// Width of the joint space; kept for saving.
    pub projection_dim: usize,
    /// Only transformers' pooled output reads it; kept for saving, as the next two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bos_token_id: Option<i64>,
    /// See `bos_token_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eos_token_id: Option<i64>,
    /// Not the padding of prompts, which the tokenizer decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_token_id: Option<i64>,
}

impl Default for CLIPTextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
            projection_dim: 512,
            bos_token_id: None,
            eos_token_id: None,
            pad_token_id: None,
        }
    }
}

/// `image_encoder/config.json`, with transformers' names and defaults.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub struct CLIPVisionConfig {
    /// Side of the input in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Channels of the input.
    pub num_channels: usize,
    /// Width of the tower.
    pub hidden_size: usize,
    /// Width inside the feed-forward layers.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// `quick_gelu`, `gelu` or `gelu_new`.
    pub hidden_act: String,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f64,
    /// Width of the embedding.
    pub projection_dim: usize,
}

impl Default for CLIPVisionConfig {
    fn default() -> Self {
        Self {
            image_size: 224,
            patch_size: 32,
            num_channels: 3,
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
            projection_dim: 512,
        }
    }
}

/// The activation of the feed-forward layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    QuickGelu,
    Gelu,
    /// The tanh form.
    GeluNew,
}

impl Activation {
    pub(crate) fn parse(name: &str) -> Result<Self, CLIPError> {
        match name {
            "quick_gelu" => Ok(Self::QuickGelu),
            "gelu" => Ok(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Ok(Self::GeluNew),
            other => Err(CLIPError::Config(format!(
                "hidden_act '{other}' is not supported; supported are quick_gelu, gelu and gelu_new"
            ))),
        }
    }
}

/// Refuses widths that do not divide into heads.
pub(crate) fn check_heads(hidden: usize, heads: usize) -> Result<(), CLIPError> {
    if heads == 0 || hidden == 0 || !hidden.is_multiple_of(heads) {
        return Err(CLIPError::Config(format!(
            "hidden_size {hidden} must be a positive multiple of num_attention_heads {heads}"
        )));
    }
    Ok(())
}
