//! OpenCLIP's ViT towers to the names of transformers' `CLIPTextModel` and `CLIPVisionModelWithProjection`.

use super::{Mapped, Transform, index, replace_prefix};

const TEXT: &[(&str, &str)] = &[
    (
        "token_embedding.weight",
        "text_model.embeddings.token_embedding.weight",
    ),
    (
        "positional_embedding",
        "text_model.embeddings.position_embedding.weight",
    ),
    ("ln_final.", "text_model.final_layer_norm."),
];

const VISION: &[(&str, &str)] = &[
    ("class_embedding", "vision_model.embeddings.class_embedding"),
    (
        "conv1.weight",
        "vision_model.embeddings.patch_embedding.weight",
    ),
    (
        "positional_embedding",
        "vision_model.embeddings.position_embedding.weight",
    ),
    ("ln_pre.", "vision_model.pre_layrnorm."),
    ("ln_post.", "vision_model.post_layernorm."),
];

const LAYER: &[(&str, &str)] = &[
    ("ln_1.", "layer_norm1."),
    ("ln_2.", "layer_norm2."),
    ("attn.out_proj.", "self_attn.out_proj."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
];

/// The text tower. Its projection and the logit scale are not part of `CLIPTextModel`.
pub fn map_text(key: &str) -> Mapped {
    if key.starts_with("visual.") || matches!(key, "text_projection" | "logit_scale" | "attn_mask")
    {
        return Mapped::Ignored;
    }
    tower(key, TEXT, "text_model")
}

/// The vision tower.
pub fn map_vision(key: &str) -> Mapped {
    match key.strip_prefix("visual.") {
        Some("proj") => Mapped::one("visual_projection.weight", Transform::Transpose),
        Some(rest) => tower(rest, VISION, "vision_model"),
        None if !matches!(map_text(key), Mapped::Foreign) => Mapped::Ignored,
        None => Mapped::Foreign,
    }
}

fn tower(key: &str, parts: &[(&str, &str)], model: &str) -> Mapped {
    if let Some(target) = replace_prefix(parts, key) {
        return Mapped::one(target, Transform::Copy);
    }
    let Some((i, rest)) = key.strip_prefix("transformer.resblocks.").and_then(index) else {
        return Mapped::Foreign;
    };
    let layer = format!("{model}.encoder.layers.{i}");
    if let Some(kind) = rest.strip_prefix("attn.in_proj_") {
        let part = |(part, name)| {
            let key = format!("{layer}.self_attn.{name}.{kind}");
            (key, Transform::Rows { part, of: 3 })
        };
        return Mapped::To(
            [(0, "q_proj"), (1, "k_proj"), (2, "v_proj")]
                .map(part)
                .to_vec(),
        );
    }
    match replace_prefix(LAYER, rest) {
        Some(inner) => Mapped::one(format!("{layer}.{inner}"), Transform::Copy),
        None => Mapped::Foreign,
    }
}
