//! Which of a repository's files a pipeline needs: its configurations, and one set of weights for each component.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use crate::names;

pub(crate) const MODEL_INDEX: &str = "model_index.json";
/// Written by this project's converter; tells what it folded into the weights.
const MANIFEST: &str = "i2vgen.json";

const TOKENIZER: [&str; 6] = [
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

/// Slots without which no video is made. Others, such as a safety checker, may lack their files.
const KNOWN: [&str; 7] = [
    "feature_extractor",
    "image_encoder",
    "scheduler",
    "text_encoder",
    "tokenizer",
    "unet",
    "vae",
];

/// The content of `model_index.json`.
pub(crate) type ModelIndex = BTreeMap<String, Value>;

/// The content of `*.safetensors.index.json`.
#[derive(Deserialize)]
pub(crate) struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// What to download.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Needed {
    /// Everything but shards.
    pub(crate) files: Vec<String>,
    /// Those of them that name shards.
    pub(crate) indexes: Vec<String>,
}

/// Why there is no plan.
#[derive(Debug, PartialEq)]
pub(crate) enum Problem {
    /// A file, or a description of it, that is not there.
    Missing(String),
    /// A name in a downloaded file that must not become a path.
    Unsafe(String),
}

impl Needed {
    /// Chooses among `files` for the slots of `index`.
    pub(crate) fn new(
        index: &ModelIndex,
        files: &BTreeSet<String>,
        variant: Option<&str>,
    ) -> Result<Self, Problem> {
        let mut needed = Self::default();
        needed.add(files, MODEL_INDEX.to_owned())?;
        if files.contains(MANIFEST) {
            needed.add(files, MANIFEST.to_owned())?;
        }
        for (slot, value) in index {
            let Some([Value::String(library), Value::String(class)]) =
                value.as_array().map(Vec::as_slice)
            else {
                continue; // a setting, or a component that this model goes without
            };
            if !names::is_word(slot) {
                return Err(Problem::Unsafe(slot.clone()));
            }
            let here = files.range(format!("{slot}/")..).next();
            if here.is_some_and(|f| f.starts_with(&format!("{slot}/"))) || KNOWN.contains(&&**slot)
            {
                needed.add_component(slot, library, class, files, variant)?;
            }
        }
        Ok(needed)
    }

    fn add_component(
        &mut self,
        slot: &str,
        library: &str,
        class: &str,
        files: &BTreeSet<String>,
        variant: Option<&str>,
    ) -> Result<(), Problem> {
        let path = |name: &str| format!("{slot}/{name}");
        if class.ends_with("Scheduler") {
            return self.add(files, path("scheduler_config.json"));
        }
        if class.contains("Tokenizer") {
            if !files.contains(&path("tokenizer.json")) {
                self.require(files, path("vocab.json"))?;
                self.require(files, path("merges.txt"))?;
            }
            let found = TOKENIZER
                .iter()
                .map(|n| path(n))
                .filter(|p| files.contains(p));
            self.files.extend(found);
            return Ok(());
        }
        if class.contains("FeatureExtractor") || class.ends_with("Processor") {
            return self.add(files, path("preprocessor_config.json"));
        }
        self.add(files, path("config.json"))?;
        let weights = weights(slot, library, files, variant)
            .ok_or_else(|| Problem::Missing(format!("weights in {slot}/")))?;
        if weights.ends_with(".json") {
            self.indexes.push(weights.clone());
        }
        self.add(files, weights)
    }

    fn require(&self, files: &BTreeSet<String>, path: String) -> Result<(), Problem> {
        if files.contains(&path) {
            Ok(())
        } else {
            Err(Problem::Missing(path))
        }
    }

    fn add(&mut self, files: &BTreeSet<String>, path: String) -> Result<(), Problem> {
        self.require(files, path.clone())?;
        self.files.push(path);
        Ok(())
    }

    /// Adds the shards that an index names.
    pub(crate) fn add_shards(
        &mut self,
        index: &str,
        shards: &ShardIndex,
        files: &BTreeSet<String>,
    ) -> Result<(), Problem> {
        let folder = index.rsplit_once('/').map_or("", |(folder, _)| folder);
        for name in shards.weight_map.values().collect::<BTreeSet<_>>() {
            if !names::is_word(name) {
                return Err(Problem::Unsafe(name.clone()));
            }
            self.add(files, format!("{folder}/{name}"))?;
        }
        Ok(())
    }
}

/// The weight file of a component, or the index of its shards, in the order in which i2vgen-checkpoint looks for them:
/// safetensors before pickles; the wanted variant, then the plain file, then, if none is wanted, any variant.
fn weights(
    slot: &str,
    library: &str,
    files: &BTreeSet<String>,
    variant: Option<&str>,
) -> Option<String> {
    let diffusers = [
        ("diffusion_pytorch_model", "safetensors"),
        ("diffusion_pytorch_model", "bin"),
    ];
    let transformers = [("model", "safetensors"), ("pytorch_model", "bin")];
    let kinds: Vec<_> = match library {
        "diffusers" => diffusers.to_vec(),
        "transformers" => transformers.to_vec(),
        _ => [diffusers, transformers].concat(),
    };
    for (stem, extension) in kinds {
        let mut variants = vec![
            variant.map(|v| format!(".{v}")).unwrap_or_default(),
            String::new(),
        ];
        if variant.is_none() {
            let prefix = format!("{slot}/{stem}.");
            variants.extend(files.iter().filter_map(|file| {
                let rest = file.strip_prefix(&prefix)?;
                let found = rest.strip_suffix(&format!(".{extension}")).or_else(|| {
                    rest.strip_prefix(&format!("{extension}.index."))?
                        .strip_suffix(".json")
                })?;
                (names::is_word(found) && !found.contains("-of-")).then(|| format!(".{found}"))
            }));
        }
        for variant in variants {
            let index = format!("{slot}/{stem}.{extension}.index{variant}.json");
            let single = format!("{slot}/{stem}{variant}.{extension}");
            if let Some(found) = [index, single].into_iter().find(|f| files.contains(f)) {
                return Some(found);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(files: &[&str]) -> BTreeSet<String> {
        files.iter().map(|f| (*f).to_owned()).collect()
    }

    fn of(files: &[&str], library: &str, variant: Option<&str>) -> Option<String> {
        let files: Vec<String> = files.iter().map(|f| format!("x/{f}")).collect();
        let found = weights("x", library, &files.into_iter().collect(), variant)?;
        Some(found.strip_prefix("x/")?.to_owned())
    }

    #[test]
    fn the_order_of_weights() {
        let all = [
            "diffusion_pytorch_model.safetensors.index.fp16.json",
            "diffusion_pytorch_model.fp16.safetensors",
            "diffusion_pytorch_model.safetensors.index.json",
            "diffusion_pytorch_model.safetensors",
            "diffusion_pytorch_model.bin.index.fp16.json",
            "diffusion_pytorch_model.fp16.bin",
            "diffusion_pytorch_model.bin.index.json",
            "diffusion_pytorch_model.bin",
        ];
        for i in 0..all.len() {
            assert_eq!(
                of(&all[i..], "diffusers", Some("fp16")).as_deref(),
                Some(all[i])
            );
        }
        // Without a variant: plain before fp16, and that before pickles.
        for (rest, expected) in [(0, 2), (3, 3), (4, 6), (7, 7)] {
            assert_eq!(
                of(&all[rest..], "diffusers", None).as_deref(),
                Some(all[expected])
            );
        }
        assert_eq!(of(&all[..2], "diffusers", None).as_deref(), Some(all[0]));
        assert_eq!(of(&all[1..2], "diffusers", None).as_deref(), Some(all[1]));
        assert_eq!(of(&all[..2], "diffusers", Some("bf16")), None);
    }

    #[test]
    fn stems_belong_to_libraries() {
        let files = ["model.safetensors", "pytorch_model.bin"];
        assert_eq!(of(&files, "transformers", None).as_deref(), Some(files[0]));
        assert_eq!(
            of(&files[1..], "transformers", None).as_deref(),
            Some(files[1])
        );
        assert_eq!(of(&files, "diffusers", None), None);
        assert_eq!(
            of(&files, "stable_diffusion", None).as_deref(),
            Some(files[0])
        );
        assert_eq!(
            of(
                &["model-00001-of-00002.fp16.safetensors"],
                "transformers",
                None
            ),
            None
        );
    }

    fn needed(index: Value, files: &[&str]) -> Result<Needed, Problem> {
        let index: ModelIndex = serde_json::from_value(index).unwrap();
        Needed::new(&index, &set(files), None)
    }

    #[test]
    fn slots_that_are_none() {
        let index = serde_json::json!({
            "_class_name": "I2VGenXLPipeline", "_x": ["a"], "vae": [null, null], "n": 3,
            "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]
        });
        let found = needed(index, &["model_index.json", "safety_checker.json"]).unwrap();
        assert_eq!(found.files, ["model_index.json"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let cases = [
            (
                "scheduler",
                "DDIMScheduler",
                "scheduler/scheduler_config.json",
            ),
            (
                "feature_extractor",
                "CLIPImageProcessor",
                "feature_extractor/preprocessor_config.json",
            ),
            ("tokenizer", "CLIPTokenizer", "tokenizer/vocab.json"),
            ("vae", "AutoencoderKL", "vae/config.json"),
        ];
        for (slot, class, missing) in cases {
            let found = needed(
                serde_json::json!({slot: ["diffusers", class]}),
                &["model_index.json"],
            );
            assert_eq!(found, Err(Problem::Missing(missing.to_owned())));
        }
        let index = serde_json::json!({"vae": ["diffusers", "AutoencoderKL"]});
        let found = needed(index, &["model_index.json", "vae/config.json"]);
        assert_eq!(found, Err(Problem::Missing("weights in vae/".to_owned())));
    }

    #[test]
    fn names_that_leave_the_folder() {
        let found = needed(
            serde_json::json!({"../x": ["diffusers", "A"]}),
            &["model_index.json"],
        );
        assert_eq!(found, Err(Problem::Unsafe("../x".to_owned())));
        let shards = serde_json::json!({"weight_map": {"a": "../../b.safetensors"}});
        let shards: ShardIndex = serde_json::from_value(shards).unwrap();
        let found = Needed::default().add_shards("unet/i.json", &shards, &set(&[]));
        assert_eq!(
            found,
            Err(Problem::Unsafe("../../b.safetensors".to_owned()))
        );
    }
}
