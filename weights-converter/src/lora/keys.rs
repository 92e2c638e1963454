//! What the keys of the LoRA layouts mean.

/// A tensor's role in its layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Part {
    Down,
    Up,
    Alpha,
    /// Belongs to a method other than plain LoRA.
    Unsupported(&'static str),
}

/// Ends of keys: kohya, diffusers, diffusers' text encoder, PEFT. An adapter's name may stand before `.weight`.
const ENDS: &[(&str, Part)] = &[
    (".lora_down.weight", Part::Down),
    (".lora_up.weight", Part::Up),
    (".lora.down.weight", Part::Down),
    (".lora.up.weight", Part::Up),
    (".lora_linear_layer.down.weight", Part::Down),
    (".lora_linear_layer.up.weight", Part::Up),
    (".lora_A.weight", Part::Down),
    (".lora_B.weight", Part::Up),
    (".alpha", Part::Alpha),
    (".dora_scale", Part::Unsupported("a DoRA")),
    (".lora_magnitude_vector", Part::Unsupported("a DoRA")),
    (".lora_magnitude_vector.weight", Part::Unsupported("a DoRA")),
    (
        ".lora_mid.weight",
        Part::Unsupported("a LoRA in Tucker form"),
    ),
    (".hada_w1_a", Part::Unsupported("a LoHa")),
    (".lokr_w1", Part::Unsupported("a LoKr")),
    (".lokr_w1_a", Part::Unsupported("a LoKr")),
];

/// Old attention processors of diffusers: what they call a projection, and its module.
const PROCESSOR: &[(&str, &str, &str)] = &[
    ("to_q_lora", "to_q", "q_proj"),
    ("to_k_lora", "to_k", "k_proj"),
    ("to_v_lora", "to_v", "v_proj"),
    ("to_out_lora", "to_out.0", "out_proj"),
];

/// The module that a key belongs to (still as that layout names it), and the role. `None` for keys of no known layout.
pub(crate) fn parse(key: &str) -> Option<(String, Part)> {
    let key = key.strip_prefix("base_model.model.").unwrap_or(key);
    for (name, unet, text) in PROCESSOR {
        for (end, part) in [(".down.weight", Part::Down), (".up.weight", Part::Up)] {
            let Some(base) = key.strip_suffix(end).and_then(|k| k.strip_suffix(name)) else {
                continue;
            };
            return Some((
                match base.strip_suffix("processor.") {
                    Some(base) => format!("{base}{unet}"),
                    None => format!("{base}{text}"),
                },
                part,
            ));
        }
    }
    let known = |key: &str| {
        ENDS.iter()
            .find_map(|(end, part)| Some((key.strip_suffix(end)?.to_owned(), *part)))
    };
    known(key).or_else(|| {
        // `lora_A.default.weight`
        let (base, adapter) = key.strip_suffix(".weight")?.rsplit_once('.')?;
        (!adapter.is_empty()).then(|| known(&format!("{base}.weight")))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts() {
        let cases = [
            (
                "unet.a.attn1.processor.to_out_lora.up.weight",
                "unet.a.attn1.to_out.0",
                Part::Up,
            ),
            (
                "a.attn1.processor.to_q_lora.down.weight",
                "a.attn1.to_q",
                Part::Down,
            ),
            (
                "text_encoder.l.self_attn.to_q_lora.down.weight",
                "text_encoder.l.self_attn.q_proj",
                Part::Down,
            ),
            ("unet.a.to_q.lora.down.weight", "unet.a.to_q", Part::Down),
            (
                "text_encoder.fc1.lora_linear_layer.up.weight",
                "text_encoder.fc1",
                Part::Up,
            ),
            (
                "base_model.model.a.q_proj.lora_A.weight",
                "a.q_proj",
                Part::Down,
            ),
            ("a.q_proj.lora_B.default.weight", "a.q_proj", Part::Up),
            (
                "lora_unet_a_b.lora_down.weight",
                "lora_unet_a_b",
                Part::Down,
            ),
            ("lora_unet_a_b.alpha", "lora_unet_a_b", Part::Alpha),
            (
                "a.lora_magnitude_vector.default.weight",
                "a",
                Part::Unsupported("a DoRA"),
            ),
            (
                "lora_te_a.dora_scale",
                "lora_te_a",
                Part::Unsupported("a DoRA"),
            ),
        ];
        for (key, module, part) in cases {
            assert_eq!(parse(key), Some((module.to_owned(), part)), "{key}");
        }
        for key in ["weight", "a.weight", ".weight", "a.b.weight", "", "alpha"] {
            assert_eq!(parse(key), None, "{key}");
        }
    }
}
