//! Files that already carry diffusers' or transformers' names, old spellings included.

use super::{Mapped, Transform};

/// Attention names of diffusers before 0.15, in the VAE's middle block.
const OLD_ATTENTION: &[(&str, &str)] = &[
    (".query.", ".to_q."),
    (".key.", ".to_k."),
    (".value.", ".to_v."),
    (".proj_attn.", ".to_out.0."),
];

/// The UNets. Temporal projections may be stored as 1-tap convolutions.
pub fn map_unet(key: &str) -> Mapped {
    let linear = key.ends_with("proj_in.weight") || key.ends_with("proj_out.weight");
    Mapped::one(
        key,
        if linear {
            Transform::Squeeze
        } else {
            Transform::Copy
        },
    )
}

/// The VAE.
pub fn map_vae(key: &str) -> Mapped {
    if !key.contains("mid_block.attentions.") {
        return Mapped::one(key, Transform::Copy);
    }
    let mut target = key.to_owned();
    for (old, new) in OLD_ATTENTION {
        target = target.replace(old, new);
    }
    let linear = target.ends_with(".weight") && !target.contains("group_norm");
    Mapped::one(
        target,
        if linear {
            Transform::Squeeze
        } else {
            Transform::Copy
        },
    )
}

/// The text tower. transformers 5 leaves out the `text_model.`, transformers before 4.31 wrote position ids.
pub fn map_text(key: &str) -> Mapped {
    tower(
        key,
        "text_model.",
        &[],
        &[
            "vision_model.",
            "visual_projection.",
            "text_projection.",
            "logit_scale",
        ],
    )
}

/// The vision tower.
pub fn map_vision(key: &str) -> Mapped {
    tower(
        key,
        "vision_model.",
        &["visual_projection."],
        &["text_model.", "text_projection.", "logit_scale"],
    )
}

/// `other`: what a file with both towers has besides this one.
fn tower(key: &str, model: &str, outside: &[&str], other: &[&str]) -> Mapped {
    if key.ends_with("position_ids") || other.iter().any(|part| key.starts_with(part)) {
        Mapped::Ignored
    } else if key.starts_with(model) || outside.iter().any(|part| key.starts_with(part)) {
        Mapped::one(key, Transform::Copy)
    } else {
        Mapped::one(format!("{model}{key}"), Transform::Copy)
    }
}
