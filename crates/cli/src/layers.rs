//! The files that settings come from.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{failure::Failure, settings::Settings};

/// The config file: TOML. By default the user's own, if there is one.
pub(crate) fn config(path: Option<&Path>) -> Result<Settings, Failure> {
    let usual = match path {
        Some(_) => None,
        None => usual_config().filter(|p| p.exists()),
    };
    let Some(path) = path.or(usual.as_deref()) else {
        return Ok(Settings::default());
    };
    let text = read("--config", path)?;
    toml::from_str(&text).map_err(|e| {
        let line = e.span().map_or(String::new(), |span| {
            format!("line {}: ", text[..span.start].lines().count().max(1))
        });
        let problem = plain(e.message());
        Failure::Input(format!("--config: '{}' {line}{problem}", path.display()))
    })
}

/// `$XDG_CONFIG_HOME/i2vgen/config.toml`, usually in `~/.config`.
fn usual_config() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty());
    let folder = match variable("XDG_CONFIG_HOME") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(variable("HOME")?).join(".config"),
    };
    Some(folder.join("i2vgen").join("config.toml"))
}

/// What a sidecar says about its run.
pub(crate) struct Record {
    /// Everything that is needed to repeat it.
    pub(crate) arguments: Settings,
    /// What it has written, if it is still where the sidecar is.
    pub(crate) outputs: Vec<PathBuf>,
    /// Lengths of these files; none for a folder.
    pub(crate) bytes: Vec<Option<u64>>,
}

/// Reads `OUTPUT.json`; `flag` is what errors name.
pub(crate) fn sidecar(flag: &str, path: &Path) -> Result<Record, Failure> {
    let fail = |problem: &str| Failure::Input(format!("{flag}: '{}' {problem}", path.display()));
    let text = read(flag, path)?;
    let json: Value = parse(&text)
        .map_err(|e| fail(&format!("is not JSON ({e}); give the .json beside a video")))?;
    let Some(arguments) = json.get("arguments") else {
        return Err(fail(
            "has no \"arguments\"; give the .json beside a video of this program",
        ));
    };
    let arguments = serde_json::from_value(arguments.clone())
        .map_err(|e| fail(&format!("has bad arguments: {}", plain(&e.to_string()))))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let list = |name: &str| json[name].as_array().cloned().unwrap_or_default();
    let beside = |name: &Value| Some(folder.join(Path::new(name.as_str()?).file_name()?));
    Ok(Record {
        arguments,
        outputs: list("outputs").iter().filter_map(beside).collect(),
        bytes: list("output_bytes").iter().map(Value::as_u64).collect(),
    })
}

/// The jobs of a list, with their line numbers. Empty lines are none.
pub(crate) fn jobs(path: &Path) -> Result<Vec<(usize, Settings)>, Failure> {
    let name = path.display();
    let mut jobs = Vec::new();
    for (index, text) in read("JOBS", path)?.lines().enumerate() {
        let line = index + 1;
        if !text.trim().is_empty() {
            let job =
                parse(text).map_err(|e| Failure::Input(format!("{name} line {line}: {e}")))?;
            jobs.push((line, job));
        }
    }
    match jobs.is_empty() {
        true => Err(Failure::Input(format!(
            "{name} holds no jobs; write one JSON object a line"
        ))),
        false => Ok(jobs),
    }
}

fn read(flag: &str, path: &Path) -> Result<String, Failure> {
    let fail = |problem: String| Failure::Input(format!("{flag}: '{}' {problem}", path.display()));
    if path.is_dir() {
        return Err(fail("is a folder; give a file".into()));
    }
    std::fs::read_to_string(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => fail("does not exist; check the path".into()),
        std::io::ErrorKind::InvalidData => fail("is not text; give a file in UTF-8".into()),
        _ => fail(format!("cannot be read: {e}")),
    })
}

/// JSON on one line. The line number that the parser knows is always 1, the caller's is the right one.
fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text)
        .map_err(|e| plain(&e.to_string()).replace("at line 1 column", "at column"))
}

/// One line, and without the list of all keys that serde adds to an unknown one.
fn plain(message: &str) -> String {
    let message = message.replace('\n', " ");
    let Some((unknown, rest)) = message.split_once(", expected one of ") else {
        return message;
    };
    if !unknown.contains("unknown field") {
        return message;
    }
    let place = rest.rfind(" at line ").map_or("", |at| &rest[at..]);
    format!("{unknown}{place}; keys are the long flags of 'i2vgen generate --help' with _ for -")
}
