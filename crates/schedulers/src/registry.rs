//! From a class name to a scheduler. A new scheduler is one line in the list of classes and one where they are built.

use std::path::Path;

use burn::tensor::backend::Backend;
use i2vgen_checkpoint::{CheckpointError, Folder, write_json};
use serde_json::Value;

use crate::{
    DDIMScheduler, DDIMSchedulerConfig, DDPMScheduler, DDPMSchedulerConfig, DEISMultistepScheduler,
    DEISMultistepSchedulerConfig, DPMSolverMultistepScheduler, DPMSolverMultistepSchedulerConfig,
    EulerAncestralDiscreteScheduler, EulerAncestralDiscreteSchedulerConfig, EulerDiscreteScheduler,
    EulerDiscreteSchedulerConfig, HeunDiscreteScheduler, HeunDiscreteSchedulerConfig,
    KDPM2DiscreteScheduler, KDPM2DiscreteSchedulerConfig, LCMScheduler, LCMSchedulerConfig,
    LMSDiscreteScheduler, LMSDiscreteSchedulerConfig, PNDMScheduler, PNDMSchedulerConfig,
    Scheduler, SchedulerError, UniPCMultistepScheduler, UniPCMultistepSchedulerConfig, config::bad,
};

/// The file in a scheduler's folder.
pub const CONFIG_NAME: &str = "scheduler_config.json";

/// Short names, as typed on a command line, and diffusers' classes.
const CLASSES: &[(&str, &str)] = &[
    ("ddim", "DDIMScheduler"),
    ("ddpm", "DDPMScheduler"),
    ("pndm", "PNDMScheduler"),
    ("lms", "LMSDiscreteScheduler"),
    ("euler", "EulerDiscreteScheduler"),
    ("euler-ancestral", "EulerAncestralDiscreteScheduler"),
    ("heun", "HeunDiscreteScheduler"),
    ("kdpm2", "KDPM2DiscreteScheduler"),
    ("dpmsolver++", "DPMSolverMultistepScheduler"),
    ("sde-dpmsolver++", "DPMSolverMultistepScheduler"),
    ("unipc", "UniPCMultistepScheduler"),
    ("deis", "DEISMultistepScheduler"),
    ("lcm", "LCMScheduler"),
];

/// The classes with `use_karras_sigmas`.
const KARRAS: &[&str] = &[
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
];

/// The classes with `solver_order`.
const SOLVERS: &[&str] = &[
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
];

/// The classes that do not know `rescale_betas_zero_snr` in diffusers.
const NEVER_RESCALED: &[&str] = &[
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "DEISMultistepScheduler",
];

/// What to change about a scheduler, whatever its config says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerOptions {
    /// Space the sigmas as Karras et al. do, or do not; as in the config if `None`.
    pub karras_sigmas: Option<bool>,
    /// The order of a multistep solver, 1 to 3; as in the config if `None`.
    pub solver_order: Option<usize>,
    /// Leave the betas as they are where diffusers does: its PNDM, LMS, Heun, KDPM2 and DEIS ignore
    /// `rescale_betas_zero_snr`, so they sample by another noise schedule than the one that the model was trained with.
    pub diffusers_betas: bool,
}

/// The schedulers there are: short name and diffusers' class.
pub fn supported_classes() -> &'static [(&'static str, &'static str)] {
    CLASSES
}

/// The class for a short name (`ddim`) or for itself (`DDIMScheduler`).
///
/// # Errors
/// If there is none.
pub fn class_name(name: &str) -> Result<&'static str, SchedulerError> {
    Ok(find(name)?.1)
}

fn find(name: &str) -> Result<(&'static str, &'static str), SchedulerError> {
    CLASSES
        .iter()
        .find(|(short, class)| name == *class || name.eq_ignore_ascii_case(short))
        .copied()
        .ok_or_else(|| unknown(name))
}

/// A scheduler of a class (or short name), from the config of whichever scheduler the model came with: keys that the class
/// does not know are ignored, keys that are absent get its defaults.
///
/// # Errors
/// If there is no such class or the config has a value that it cannot have.
pub fn from_config<B: Backend>(
    json: &Value,
    class: &str,
) -> Result<Box<dyn Scheduler<B>>, SchedulerError> {
    from_config_with(json, class, &SchedulerOptions::default())
}

/// As [`from_config`], with some of it changed.
///
/// # Errors
/// As [`from_config`]; also if the class does not have an option that is given.
pub fn from_config_with<B: Backend>(
    json: &Value,
    name: &str,
    options: &SchedulerOptions,
) -> Result<Box<dyn Scheduler<B>>, SchedulerError> {
    let (_, class) = find(name)?;
    let mut json = json.clone();
    if let Value::Object(keys) = &mut json {
        let mut set = |key: &str, value: Value| {
            // A note of diffusers, that the value was a default, would hide it.
            if let Some(Value::Array(filled_in)) = keys.get_mut("_use_default_values") {
                filled_in.retain(|noted| noted != key);
            }
            keys.insert(key.to_owned(), value);
        };
        if let Some(karras) = options.karras_sigmas {
            check_option("karras_sigmas", class, KARRAS)?;
            set("use_karras_sigmas", karras.into());
        }
        if let Some(order) = options.solver_order {
            check_option("solver_order", class, SOLVERS)?;
            set("solver_order", order.into());
        }
        if options.diffusers_betas && NEVER_RESCALED.contains(&class) {
            set("rescale_betas_zero_snr", false.into());
        }
        // Short names of one class.
        let algorithm = name.to_ascii_lowercase();
        if algorithm.ends_with("dpmsolver++") {
            set("algorithm_type", algorithm.into());
        }
    }
    macro_rules! build {
        ($scheduler:ident, $config:ident) => {
            Box::new($scheduler::<B>::new($config::from_json(&json)?)?) as Box<dyn Scheduler<B>>
        };
    }
    Ok(match class {
        "DDIMScheduler" => build!(DDIMScheduler, DDIMSchedulerConfig),
        "DDPMScheduler" => build!(DDPMScheduler, DDPMSchedulerConfig),
        "PNDMScheduler" => build!(PNDMScheduler, PNDMSchedulerConfig),
        "LMSDiscreteScheduler" => build!(LMSDiscreteScheduler, LMSDiscreteSchedulerConfig),
        "EulerDiscreteScheduler" => build!(EulerDiscreteScheduler, EulerDiscreteSchedulerConfig),
        "EulerAncestralDiscreteScheduler" => build!(
            EulerAncestralDiscreteScheduler,
            EulerAncestralDiscreteSchedulerConfig
        ),
        "HeunDiscreteScheduler" => build!(HeunDiscreteScheduler, HeunDiscreteSchedulerConfig),
        "KDPM2DiscreteScheduler" => build!(KDPM2DiscreteScheduler, KDPM2DiscreteSchedulerConfig),
        "DPMSolverMultistepScheduler" => build!(
            DPMSolverMultistepScheduler,
            DPMSolverMultistepSchedulerConfig
        ),
        "UniPCMultistepScheduler" => build!(UniPCMultistepScheduler, UniPCMultistepSchedulerConfig),
        "DEISMultistepScheduler" => build!(DEISMultistepScheduler, DEISMultistepSchedulerConfig),
        "LCMScheduler" => build!(LCMScheduler, LCMSchedulerConfig),
        other => return Err(unknown(other)),
    })
}

fn check_option(option: &'static str, class: &str, having: &[&str]) -> Result<(), SchedulerError> {
    if having.contains(&class) {
        return Ok(());
    }
    let short = CLASSES.iter().filter(|(_, class)| having.contains(class));
    let short: Vec<&str> = short.map(|(short, _)| *short).collect();
    Err(SchedulerError::UnknownOption {
        option,
        class: class.to_owned(),
        classes: short.join(", "),
    })
}

/// Loads a diffusers `scheduler` folder.
///
/// # Errors
/// If it has no valid `scheduler_config.json` of a known class.
pub fn from_pretrained<B: Backend>(
    path: impl AsRef<Path>,
) -> Result<Box<dyn Scheduler<B>>, SchedulerError> {
    from_folder(&Folder::open(path)?)
}

/// Loads a `scheduler` folder, on disk or embedded.
///
/// # Errors
/// As [`from_pretrained`].
pub fn from_folder<B: Backend>(folder: &Folder) -> Result<Box<dyn Scheduler<B>>, SchedulerError> {
    let json = read_config(folder)?;
    match json.get("_class_name").and_then(Value::as_str) {
        Some(class) => from_config(&json, class),
        None => Err(bad(
            "_class_name",
            format!(
                "is missing from '{}'; add the scheduler's class, for example \"DDIMScheduler\"",
                folder.display(CONFIG_NAME)
            ),
        )),
    }
}

/// Reads a `scheduler_config.json`. diffusers writes an unlimited `lambda_min_clipped` as -Infinity, which JSON does not
/// have; it is read as null.
///
/// # Errors
/// If there is none, or it is not JSON.
fn read_config(folder: &Folder) -> Result<Value, SchedulerError> {
    const UNLIMITED: &str = "\"lambda_min_clipped\": -Infinity";
    let bytes = folder.read(CONFIG_NAME)?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.replace(UNLIMITED, "\"lambda_min_clipped\": null");
    serde_json::from_str(&text).map_err(|e| {
        SchedulerError::Checkpoint(CheckpointError::Json {
            path: folder.display(CONFIG_NAME),
            reason: e.to_string(),
        })
    })
}

/// Writes `scheduler_config.json` to a folder, which is made if needed.
///
/// # Errors
/// If it cannot be written.
pub fn save_pretrained<B: Backend>(
    scheduler: &dyn Scheduler<B>,
    path: impl AsRef<Path>,
) -> Result<(), SchedulerError> {
    let path = path.as_ref();
    std::fs::create_dir_all(path).map_err(|source| CheckpointError::Io {
        path: path.display().to_string(),
        source,
    })?;
    Ok(write_json(&path.join(CONFIG_NAME), &scheduler.to_config())?)
}

fn unknown(class: &str) -> SchedulerError {
    let names: Vec<String> = CLASSES
        .iter()
        .map(|(short, class)| format!("{class} ({short})"))
        .collect();
    SchedulerError::UnknownClass {
        class: class.to_owned(),
        supported: names.join(", "),
    }
}
