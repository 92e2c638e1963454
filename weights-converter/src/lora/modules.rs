//! Which weight a LoRA layer belongs to. Names are looked up in a table of all modules, never taken apart: an underscore of a flattened
//! name may be a dot or an underscore.

use std::collections::BTreeMap;

use crate::{
    Component, Plan,
    mapping::{Mapped, Transform, vgen_unet},
};

/// A component as LoRA files see it.
#[derive(Clone, Debug)]
pub struct LoraTarget {
    /// UNet or text encoder; nothing fits the others.
    pub component: Component,
    /// Names (diffusers') and shapes of its weights.
    pub weights: Vec<(String, Vec<usize>)>,
    /// The UNet's `layers_per_block`, on which the authors' names depend.
    pub layers_per_block: usize,
}

impl From<&Plan> for LoraTarget {
    fn from(plan: &Plan) -> Self {
        let layers = plan.config["layers_per_block"].as_u64().unwrap_or(2);
        let weights = plan.entries.iter();
        Self {
            component: plan.component,
            weights: weights
                .map(|e| (e.target.clone(), e.shape.clone()))
                .collect(),
            layers_per_block: layers as usize,
        }
    }
}

/// A weight, and which of several equal blocks of the LoRA's rows goes there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Place {
    pub(crate) target: usize,
    pub(crate) weight: usize,
    pub(crate) rows: (usize, usize),
}

/// What a layer's name begins with, if it says for which component it is: with dots, or flattened.
const UNET: (&str, &[&str]) = ("unet.", &["lora_unet_"]);
const TEXT: (&str, &[&str]) = ("text_encoder.", &["lora_te_", "lora_te1_"]);

/// The component that a layer is meant for, told from its name alone: the UNet, unless it is called like a layer of the text
/// encoder.
pub(crate) fn meant_for(module: &str) -> Component {
    let text = [TEXT.0, "text_model.", "encoder.layers."];
    let flat = TEXT.1.iter();
    if text.iter().chain(flat).any(|p| module.starts_with(p)) {
        Component::TextEncoder
    } else {
        Component::Unet
    }
}

/// Every name under which a LoRA file may call a module.
pub(crate) struct Modules(BTreeMap<String, Vec<Place>>);

impl Modules {
    pub(crate) fn of(targets: &[LoraTarget]) -> Self {
        let mut table: BTreeMap<String, Vec<Place>> = BTreeMap::new();
        for (t, target) in targets.iter().enumerate() {
            let (dotted, flat) = match target.component {
                Component::Unet | Component::Unet3d => UNET,
                Component::TextEncoder => TEXT,
                Component::Vae | Component::ImageEncoder => continue,
            };
            let mut add = |module: &str, places: Vec<Place>| {
                for prefix in flat {
                    table.insert(
                        format!("{prefix}{}", module.replace('.', "_")),
                        places.clone(),
                    );
                }
                // Without a prefix, the UNet comes first: both have no module of the same name.
                table.insert(format!("{dotted}{module}"), places.clone());
                table.entry(module.to_owned()).or_insert(places);
            };
            let mut weights = BTreeMap::new();
            for (w, (name, shape)) in target.weights.iter().enumerate() {
                let Some(module) = name.strip_suffix(".weight") else {
                    continue;
                };
                if shape.len() < 2 {
                    continue;
                }
                let place = Place {
                    target: t,
                    weight: w,
                    rows: (0, 1),
                };
                weights.insert(module, w);
                add(module, vec![place]);
                if let Some(short) = module.strip_prefix("text_model.") {
                    add(short, vec![place]);
                }
            }
            if target.component != Component::TextEncoder {
                for (original, names) in originals(&weights, target.layers_per_block.min(64)) {
                    let place = |(name, transform): (String, Transform)| {
                        let weight = *weights.get(name.strip_suffix(".weight")?)?;
                        let rows = match transform {
                            Transform::Rows { part, of } => (part, of),
                            _ => (0, 1),
                        };
                        Some(Place {
                            target: t,
                            weight,
                            rows,
                        })
                    };
                    if let Some(places) = names.into_iter().map(place).collect::<Option<Vec<_>>>() {
                        add(&original, places);
                    }
                }
            }
        }
        Self(table)
    }

    /// The weights of a module; none if it is unknown.
    pub(crate) fn find(&self, module: &str) -> &[Place] {
        self.0.get(module).map_or(&[], Vec::as_slice)
    }
}

/// The authors' module names, found by asking their table about every name that could be one.
fn originals(
    weights: &BTreeMap<&str, usize>,
    layers: usize,
) -> Vec<(String, Vec<(String, Transform)>)> {
    let mut inner: Vec<String> = vgen_unet::residual_parts().map(str::to_owned).collect();
    for module in weights.keys() {
        if let Some((_, rest)) = module.split_once("attentions.") {
            inner.extend(rest.split_once('.').map(|(_, rest)| rest.to_owned()));
        }
        if let Some((_, rest)) = module.split_once("temp_convs.") {
            inner.extend(
                rest.split_once('.')
                    .map(|(_, rest)| format!("temopral_conv.{rest}")),
            );
        }
    }
    inner.extend(["op", "conv"].map(str::to_owned));
    inner.sort();
    inner.dedup();
    let mut names: Vec<String> = vgen_unet::outer_parts(weights.keys().copied());
    let blocks = (0..64.min((weights.len() + 1) * 2))
        .flat_map(|i| ["input_blocks", "output_blocks"].map(|b| format!("{b}.{i}")));
    for block in blocks.chain(["middle_block".to_owned()]) {
        for part in &inner {
            names.extend((0..4).map(|s| format!("{block}.{s}.{part}")));
        }
        names.push(format!("{block}.op"));
    }
    let mapped = |name: String| match vgen_unet::map(&format!("{name}.weight"), layers) {
        Mapped::To(targets) => Some((name, targets)),
        _ => None,
    };
    names.into_iter().filter_map(mapped).collect()
}
