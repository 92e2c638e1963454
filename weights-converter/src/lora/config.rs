//! PEFT's settings: how strongly its matrices count.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;

use crate::{ConvertError, Source, folder};

/// `adapter_config.json`, or the same under `lora_adapter_metadata` in a safetensors header.
#[derive(Clone, Debug, Default)]
pub(crate) struct AdapterConfig {
    /// Per prefix (`unet.`, `text_encoder.` or none).
    scopes: BTreeMap<String, Scope>,
}

#[derive(Clone, Debug, Default)]
struct Scope {
    alpha: Option<f32>,
    alphas: Vec<(String, f32)>,
    rank_stabilised: bool,
}

impl AdapterConfig {
    pub(crate) fn find(source: &Source) -> Result<Self, ConvertError> {
        let own = source.path.with_file_name("adapter_config.json");
        let json = match source.metadata.get("lora_adapter_metadata") {
            Some(text) => serde_json::from_str(text).map_err(|e| {
                ConvertError::source(
                    &source.path,
                    format!("its lora_adapter_metadata is not JSON ({e})"),
                )
            })?,
            None if own.exists() => folder::read_json(&own)?,
            None => Value::Null,
        };
        Self::parse(&json, &source.path)
    }

    fn parse(json: &Value, path: &Path) -> Result<Self, ConvertError> {
        let mut scopes: BTreeMap<String, Scope> = BTreeMap::new();
        for (key, value) in json.as_object().into_iter().flatten() {
            let (scope, name) = match key.split_once('.') {
                Some((scope, name)) => (format!("{scope}."), name),
                None => (String::new(), key.as_str()),
            };
            let scope = scopes.entry(scope).or_default();
            let number = |value: &Value| value.as_f64().map(|v| v as f32).filter(|v| v.is_finite());
            match name {
                "lora_alpha" => scope.alpha = number(value),
                "use_rslora" => scope.rank_stabilised = value.as_bool().unwrap_or(false),
                "alpha_pattern" => {
                    let patterns = value.as_object().into_iter().flatten();
                    scope.alphas = patterns
                        .filter_map(|(pattern, alpha)| Some((pattern.clone(), number(alpha)?)))
                        .collect();
                }
                "use_dora" if value.as_bool() == Some(true) => {
                    let reason = "it belongs to a DoRA, which cannot be merged";
                    return Err(ConvertError::source(path, reason));
                }
                _ => {}
            }
        }
        Ok(Self { scopes })
    }

    /// `alpha / rank`, or `alpha / √rank` if it is rank-stabilised. Without an alpha it is the rank.
    pub(crate) fn scale(&self, module: &str, rank: usize) -> f32 {
        let prefixed = self
            .scopes
            .iter()
            .find(|(s, _)| !s.is_empty() && module.starts_with(s.as_str()));
        let Some((prefix, scope)) = prefixed.or_else(|| self.scopes.get_key_value("")) else {
            return 1.0;
        };
        let module = module.strip_prefix(prefix.as_str()).unwrap_or(module);
        // PEFT matches a pattern at the end of the module's path.
        let ends = |pattern: &str| {
            module
                .strip_suffix(pattern)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let own = scope.alphas.iter().find(|(pattern, _)| ends(pattern));
        let alpha = own.map(|(_, alpha)| *alpha).or(scope.alpha);
        let rank = rank as f32;
        match (alpha, scope.rank_stabilised) {
            (None, false) => 1.0,
            (alpha, false) => alpha.unwrap_or(rank) / rank,
            (alpha, true) => alpha.unwrap_or(rank) / rank.sqrt(),
        }
    }
}
