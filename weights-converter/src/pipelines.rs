//! Whole pipelines: the authors' three files, and diffusers folders.

use std::path::{Path, PathBuf};

use crate::{
    Component, Conversion, ConvertError, Plan, Source, convert::Content, folder, read_config,
    tokenizer,
};

/// Files of a pipeline besides its components.
const MODEL_INDEX: &str = "model_index.json";
const SCHEDULER: &str = "scheduler/scheduler_config.json";
const FEATURE_EXTRACTOR: &str = "feature_extractor/preprocessor_config.json";

/// The authors' distribution. A file may be left out if its components are.
#[derive(Clone, Debug, Default)]
pub struct Trio {
    /// `i2vgen_xl_00854500.pth`.
    pub unet: Option<PathBuf>,
    /// `v2-1_512-ema-pruned.ckpt`.
    pub vae: Option<PathBuf>,
    /// `open_clip_pytorch_model.bin`.
    pub clip: Option<PathBuf>,
}

impl Conversion {
    /// The authors' three files become a diffusers folder with configs, scheduler and tokenizer.
    ///
    /// `configs` is a diffusers folder that describes a model of another than the published size; `only` limits the
    /// components.
    ///
    /// # Errors
    /// If a file is missing, is no checkpoint, or does not hold exactly its component.
    pub fn trio(
        files: &Trio,
        configs: Option<&Path>,
        only: Option<&[Component]>,
    ) -> Result<Self, ConvertError> {
        let parts = [
            (&files.unet, "--unet", &[Component::Unet][..]),
            (&files.vae, "--vae", &[Component::Vae]),
            (
                &files.clip,
                "--clip",
                &[Component::TextEncoder, Component::ImageEncoder],
            ),
        ];
        let mut plans = Vec::new();
        for (file, argument, components) in parts {
            let wanted = |c: &&Component| only.is_none_or(|only| only.contains(c));
            let components: Vec<_> = components.iter().filter(wanted).collect();
            if components.is_empty() {
                continue;
            }
            let Some(file) = file else {
                let name = components[0].name();
                return Err(ConvertError::Target(format!(
                    "{name} needs {argument} FILE; or leave it out with --only"
                )));
            };
            let sources = [Source::open(file)?];
            for component in components {
                plans.push(Plan::new(
                    *component,
                    &sources,
                    &read_config(*component, configs)?,
                )?);
            }
        }
        let mut conversion = Self::new(plans, true);
        conversion.read.extend(configs.map(Path::to_owned));
        if only.is_none() {
            conversion.add_pipeline_files(configs)?;
        }
        Ok(conversion)
    }

    fn add_pipeline_files(&mut self, configs: Option<&Path>) -> Result<(), ConvertError> {
        let published = [
            (MODEL_INDEX, include_str!("configs/model_index.json")),
            (SCHEDULER, include_str!("configs/scheduler.json")),
            (
                FEATURE_EXTRACTOR,
                include_str!("configs/feature_extractor.json"),
            ),
        ];
        for (name, text) in published {
            let own = configs
                .map(|dir| dir.join(name))
                .filter(|path| path.is_file());
            let content = own.map_or_else(|| Content::Bytes(text.into()), Content::File);
            self.files.push((name.into(), content));
        }
        let own = configs
            .map(|dir| dir.join("tokenizer"))
            .filter(|dir| dir.is_dir());
        if let Some(own) = own {
            for path in folder::small_files(&own)? {
                self.files
                    .push((place("tokenizer", &path), Content::File(path)));
            }
            return Ok(());
        }
        let text = self
            .plans
            .iter()
            .find(|p| p.component == Component::TextEncoder);
        let size = text.and_then(|p| p.config["vocab_size"].as_u64());
        if size.is_some_and(|n| n != tokenizer::VOCABULARY as u64) {
            return Err(ConvertError::Config {
                component: "tokenizer".into(),
                reason: "the text encoder has not the published vocabulary; add a tokenizer folder to --configs".into(),
            });
        }
        let files = tokenizer::files().map_err(ConvertError::io(Path::new("tokenizer")))?;
        for (name, bytes) in files {
            self.files
                .push((Path::new("tokenizer").join(name), Content::Bytes(bytes)));
        }
        Ok(())
    }

    /// A diffusers folder (or the folder of one component) with weights in any form becomes one of safetensors.
    ///
    /// `variant` prefers files such as `model.fp16.bin`; `only` limits the components.
    ///
    /// # Errors
    /// If it is not such a folder, or a component is missing or damaged.
    pub fn folder(
        dir: &Path,
        variant: Option<&str>,
        only: Option<&[Component]>,
    ) -> Result<Self, ConvertError> {
        if !dir.is_dir() {
            return Err(ConvertError::source(
                dir,
                "it is not a folder; use `convert file` for a file",
            ));
        }
        if dir.join(crate::INCOMPLETE).exists() {
            return Err(ConvertError::source(
                dir,
                "an interrupted conversion left it; convert again",
            ));
        }
        if !dir.join(MODEL_INDEX).exists() {
            return Self::component_folder(dir, variant, only);
        }
        let index = folder::read_json(&dir.join(MODEL_INDEX))?;
        let slots = index.as_object().cloned().unwrap_or_default();
        let mut conversion = Self::new(Vec::new(), true);
        if only.is_none() {
            conversion
                .files
                .push((MODEL_INDEX.into(), Content::File(dir.join(MODEL_INDEX))));
        }
        for (slot, class) in slots {
            if !class.get(0).is_some_and(|library| library.is_string()) {
                continue;
            }
            let component = Component::ALL.into_iter().find(|c| c.folder() == slot);
            // A UNet's kind is in its config.
            let unets = [Component::Unet, Component::Unet3d];
            let same =
                |a: &Component, b: &Component| a == b || (unets.contains(a) && unets.contains(b));
            let wanted =
                |only: &[Component]| component.is_some_and(|c| only.iter().any(|o| same(o, &c)));
            if !only.is_none_or(wanted) {
                continue;
            }
            let part = dir.join(&slot);
            if Path::new(&slot).file_name() != Some(slot.as_ref()) || !part.is_dir() {
                let reason = format!("its component '{slot}' is missing; download it again");
                return Err(ConvertError::source(dir, reason));
            }
            let Some(component) = component else {
                for path in folder::small_files(&part)? {
                    conversion
                        .files
                        .push((place(&slot, &path), Content::File(path)));
                }
                continue;
            };
            let config = folder::read_json(&part.join("config.json"))?;
            let component = folder::component_of(&config).unwrap_or(component);
            let sources = folder::open_weights(&part, component, variant)?;
            let plan = Plan::new(component, &sources, &config)?;
            conversion.plans.push(plan);
        }
        if conversion.plans.is_empty() {
            return Err(ConvertError::source(
                dir,
                "it has none of the wanted components",
            ));
        }
        Ok(conversion)
    }

    fn component_folder(
        dir: &Path,
        variant: Option<&str>,
        only: Option<&[Component]>,
    ) -> Result<Self, ConvertError> {
        let path = dir.join("config.json");
        if !path.exists() {
            let reason = "it has neither model_index.json nor config.json; give a diffusers folder";
            return Err(ConvertError::source(dir, reason));
        }
        let config = folder::read_json(&path)?;
        let component = folder::component_of(&config).ok_or_else(|| {
            ConvertError::source(&path, "it does not describe a component of this model")
        })?;
        if only.is_some_and(|only| !only.contains(&component)) {
            let reason = format!("it holds the {}, which --only leaves out", component.name());
            return Err(ConvertError::source(dir, reason));
        }
        let sources = folder::open_weights(dir, component, variant)?;
        Ok(Self::component(Plan::new(component, &sources, &config)?))
    }
}

fn place(slot: &str, path: &Path) -> PathBuf {
    Path::new(slot).join(path.file_name().unwrap_or_default())
}
