//! From a class name to a scheduler. A new scheduler is one line in each of the two lists here.

use std::path::Path;

use burn::tensor::backend::Backend;
use i2vgen_checkpoint::{CheckpointError, Folder, write_json};
use serde_json::Value;

use crate::{DDIMScheduler, DDIMSchedulerConfig, Scheduler, SchedulerError, config::bad};

/// The file in a scheduler's folder.
pub const CONFIG_NAME: &str = "scheduler_config.json";

/// Short names, as typed on a command line, and diffusers' classes.
const CLASSES: &[(&str, &str)] = &[("ddim", "DDIMScheduler")];

/// The schedulers there are: short name and diffusers' class.
pub fn supported_classes() -> &'static [(&'static str, &'static str)] {
    CLASSES
}

/// The class for a short name (`ddim`) or for itself (`DDIMScheduler`).
///
/// # Errors
/// If there is none.
pub fn class_name(name: &str) -> Result<&'static str, SchedulerError> {
    CLASSES
        .iter()
        .find(|(short, class)| name == *class || name.eq_ignore_ascii_case(short))
        .map(|(_, class)| *class)
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
    match class_name(class)? {
        "DDIMScheduler" => {
            let config = DDIMSchedulerConfig::from_json(json)?;
            Ok(Box::new(DDIMScheduler::new(config)?))
        }
        other => Err(unknown(other)),
    }
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
    let json: Value = folder.read_json(CONFIG_NAME)?;
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
