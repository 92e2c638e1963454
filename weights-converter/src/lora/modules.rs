//! Which weight a LoRA layer belongs to. Names are looked up in a table of all modules, never taken apart: an underscore of a flattened
//! name may be a dot or an underscore.

use std::collections::BTreeMap;

use crate::{
    Component, Plan,
    mapping::{Mapped, Transform, vgen_unet},
};

/// A weight, and which of several equal blocks of the LoRA's rows goes there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Place {
    pub(crate) plan: usize,
    pub(crate) entry: usize,
    pub(crate) rows: (usize, usize),
}

/// Every name under which a LoRA file may call a module.
pub(crate) struct Modules(BTreeMap<String, Vec<Place>>);

impl Modules {
    pub(crate) fn of(plans: &[Plan]) -> Self {
        let mut table: BTreeMap<String, Vec<Place>> = BTreeMap::new();
        for (p, plan) in plans.iter().enumerate() {
            let (dotted, flat): (&str, &[&str]) = match plan.component {
                Component::Unet | Component::Unet3d => ("unet.", &["lora_unet_"]),
                Component::TextEncoder => ("text_encoder.", &["lora_te_", "lora_te1_"]),
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
            let mut entries = BTreeMap::new();
            for (e, entry) in plan.entries.iter().enumerate() {
                let Some(module) = entry.target.strip_suffix(".weight") else {
                    continue;
                };
                if entry.shape.len() < 2 {
                    continue;
                }
                let place = Place {
                    plan: p,
                    entry: e,
                    rows: (0, 1),
                };
                entries.insert(module, e);
                add(module, vec![place]);
                if let Some(short) = module.strip_prefix("text_model.") {
                    add(short, vec![place]);
                }
            }
            if dotted == "unet." {
                let layers = plan.config["layers_per_block"].as_u64().unwrap_or(2) as usize;
                for (original, targets) in originals(&entries, layers.min(64)) {
                    let place = |(target, transform): (String, Transform)| {
                        let entry = *entries.get(target.strip_suffix(".weight")?)?;
                        let rows = match transform {
                            Transform::Rows { part, of } => (part, of),
                            _ => (0, 1),
                        };
                        Some(Place {
                            plan: p,
                            entry,
                            rows,
                        })
                    };
                    if let Some(places) = targets.into_iter().map(place).collect::<Option<Vec<_>>>()
                    {
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
    entries: &BTreeMap<&str, usize>,
    layers: usize,
) -> Vec<(String, Vec<(String, Transform)>)> {
    let mut inner: Vec<String> = vgen_unet::residual_parts().map(str::to_owned).collect();
    for module in entries.keys() {
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
    let mut names: Vec<String> = vgen_unet::outer_parts(entries.keys().copied());
    let blocks = (0..64.min((entries.len() + 1) * 2))
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
