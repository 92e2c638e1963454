//! The authors' UNets (VGen: I2VGen-XL; ModelScope: MS-Vid2Vid-XL) to diffusers' names.

use super::{Mapped, Transform, index, replace_prefix};

/// Parts outside the blocks.
const PARTS: &[(&str, &str)] = &[
    ("time_embed.0.", "time_embedding.linear_1."),
    ("time_embed.2.", "time_embedding.linear_2."),
    ("fps_embedding.", "fps_embedding."),
    ("context_embedding.", "context_embedding."),
    ("local_image_concat.", "image_latents_proj_in."),
    ("local_image_embedding.", "image_latents_context_embedding."),
    (
        "local_temporal_encoder.layers.0.0.norm.",
        "image_latents_temporal_encoder.norm1.",
    ),
    (
        "local_temporal_encoder.layers.0.0.fn.to_out.0.",
        "image_latents_temporal_encoder.attn1.to_out.0.",
    ),
    (
        "local_temporal_encoder.layers.0.1.net.0.0.",
        "image_latents_temporal_encoder.ff.net.0.proj.",
    ),
    (
        "local_temporal_encoder.layers.0.1.net.2.",
        "image_latents_temporal_encoder.ff.net.2.",
    ),
    ("input_blocks.0.0.", "conv_in."),
    ("input_blocks.0.1.", "transformer_in."),
    ("out.0.", "conv_norm_out."),
    ("out.2.", "conv_out."),
];

/// The fused projection of the image latents' temporal encoder.
const FUSED: &str = "local_temporal_encoder.layers.0.0.fn.to_qkv.weight";

/// Inside a residual block; `temopral_conv` is the authors' spelling.
const RESIDUAL: &[(&str, &str)] = &[
    ("in_layers.0.", "resnets.{j}.norm1."),
    ("in_layers.2.", "resnets.{j}.conv1."),
    ("emb_layers.1.", "resnets.{j}.time_emb_proj."),
    ("out_layers.0.", "resnets.{j}.norm2."),
    ("out_layers.3.", "resnets.{j}.conv2."),
    ("skip_connection.", "resnets.{j}.conv_shortcut."),
    ("temopral_conv.", "temp_convs.{j}."),
];

/// The original names of a residual block's weights.
pub(crate) fn residual_parts() -> impl Iterator<Item = &'static str> {
    RESIDUAL.iter().map(|(from, _)| from.trim_end_matches('.'))
}

/// The original names of those diffusers modules that lie outside the blocks.
pub(crate) fn outer_parts<'a>(modules: impl Iterator<Item = &'a str>) -> Vec<String> {
    let original = |module: &str| {
        let dotted = format!("{module}.");
        let rest = |(from, to): &(&str, &str)| Some(format!("{from}{}", dotted.strip_prefix(to)?));
        let name = PARTS.iter().find_map(rest)?;
        Some(name.trim_end_matches('.').to_owned())
    };
    let fused = FUSED.trim_end_matches(".weight").to_owned();
    modules.filter_map(original).chain([fused]).collect()
}

/// Where a tensor goes. `layers` is the config's `layers_per_block`.
pub fn map(key: &str, layers: usize) -> Mapped {
    if key == FUSED {
        let part = |(part, name)| {
            let key = format!("image_latents_temporal_encoder.attn1.{name}.weight");
            (key, Transform::Rows { part, of: 3 })
        };
        return Mapped::To([(0, "to_q"), (1, "to_k"), (2, "to_v")].map(part).to_vec());
    }
    let Some(target) = replace_prefix(PARTS, key).or_else(|| block(key, layers)) else {
        return Mapped::Foreign;
    };
    let linear = target.ends_with("proj_in.weight") || target.ends_with("proj_out.weight");
    Mapped::one(
        target,
        if linear {
            Transform::Squeeze
        } else {
            Transform::Copy
        },
    )
}

fn block(key: &str, layers: usize) -> Option<String> {
    if let Some(rest) = key.strip_prefix("input_blocks.") {
        let (i, rest) = index(rest)?;
        let (b, j) = (i.checked_sub(1)? / (layers + 1), (i - 1) % (layers + 1));
        if let Some(rest) = rest.strip_prefix("op.") {
            return Some(format!("down_blocks.{b}.downsamplers.0.conv.{rest}"));
        }
        let (s, rest) = index(rest)?;
        return Some(format!("down_blocks.{b}.{}", layer(s, j, rest)?));
    }
    if let Some(rest) = key.strip_prefix("output_blocks.") {
        let (i, rest) = index(rest)?;
        let (b, j) = (i / (layers + 1), i % (layers + 1));
        let (s, rest) = index(rest)?;
        // The upsampler is the last sub-module, whatever its number.
        if s > 0 && matches!(rest, "conv.weight" | "conv.bias") {
            return Some(format!("up_blocks.{b}.upsamplers.0.{rest}"));
        }
        return Some(format!("up_blocks.{b}.{}", layer(s, j, rest)?));
    }
    let (s, rest) = index(key.strip_prefix("middle_block.")?)?;
    let inner = match s {
        0 => layer(0, 0, rest),
        1 | 2 => layer(s, 0, rest),
        3 => layer(0, 1, rest),
        _ => None,
    }?;
    Some(format!("mid_block.{inner}"))
}

/// Sub-module `s` of layer `j`: residual block, spatial attention, temporal attention.
fn layer(s: usize, j: usize, rest: &str) -> Option<String> {
    match s {
        0 => Some(replace_prefix(RESIDUAL, rest)?.replace("{j}", &j.to_string())),
        1 => Some(format!("attentions.{j}.{rest}")),
        2 => Some(format!("temp_attentions.{j}.{rest}")),
        _ => None,
    }
}
