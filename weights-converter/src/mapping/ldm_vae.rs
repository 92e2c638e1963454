//! The first stage of Stable Diffusion checkpoints (CompVis names) to diffusers' `AutoencoderKL`.

use super::{Mapped, Transform, index, replace_prefix};

/// Under this name it lies in a Stable Diffusion checkpoint.
pub const PREFIX: &str = "first_stage_model.";

/// Parts with the same place in encoder and decoder.
const PARTS: &[(&str, &str)] = &[
    ("conv_in.", "conv_in."),
    ("conv_out.", "conv_out."),
    ("norm_out.", "conv_norm_out."),
    ("mid.block_1.", "mid_block.resnets.0."),
    ("mid.block_2.", "mid_block.resnets.1."),
    ("mid.attn_1.norm.", "mid_block.attentions.0.group_norm."),
    ("mid.attn_1.q.", "mid_block.attentions.0.to_q."),
    ("mid.attn_1.k.", "mid_block.attentions.0.to_k."),
    ("mid.attn_1.v.", "mid_block.attentions.0.to_v."),
    ("mid.attn_1.proj_out.", "mid_block.attentions.0.to_out.0."),
];

/// Where a tensor goes. `blocks` is the number of `block_out_channels`.
pub fn map(key: &str, blocks: usize) -> Mapped {
    if key.starts_with("quant_conv.") || key.starts_with("post_quant_conv.") {
        return Mapped::one(key, Transform::Copy);
    }
    // The training loss lives under the same prefix.
    if key.starts_with("loss.") || key.starts_with("model_ema.") {
        return Mapped::Ignored;
    }
    let side = |name: &str| {
        let rest = key.strip_prefix(name)?.strip_prefix('.')?;
        let inner = replace_prefix(PARTS, rest).or_else(|| level(rest, blocks))?;
        Some(format!("{name}.{inner}").replace("nin_shortcut", "conv_shortcut"))
    };
    match side("encoder").or_else(|| side("decoder")) {
        Some(target) => {
            let linear = target.contains(".attentions.") && target.ends_with(".weight");
            let linear = linear && !target.contains("group_norm");
            Mapped::one(
                target,
                if linear {
                    Transform::Squeeze
                } else {
                    Transform::Copy
                },
            )
        }
        None => Mapped::Foreign,
    }
}

fn level(rest: &str, blocks: usize) -> Option<String> {
    // The decoder counts its levels from the image side, diffusers from the latent side.
    let (side, sampler, i, rest) = if let Some(rest) = rest.strip_prefix("down.") {
        let (i, rest) = index(rest)?;
        ("down_blocks", "downsample.conv.", i, rest)
    } else {
        let (i, rest) = index(rest.strip_prefix("up.")?)?;
        (
            "up_blocks",
            "upsample.conv.",
            blocks.checked_sub(i + 1)?,
            rest,
        )
    };
    if let Some(rest) = rest.strip_prefix(sampler) {
        let name = if side == "down_blocks" {
            "downsamplers"
        } else {
            "upsamplers"
        };
        return Some(format!("{side}.{i}.{name}.0.conv.{rest}"));
    }
    let (j, rest) = index(rest.strip_prefix("block.")?)?;
    Some(format!("{side}.{i}.resnets.{j}.{rest}"))
}
