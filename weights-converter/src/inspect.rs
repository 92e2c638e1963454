//! What a file or folder holds, and what is wrong with it.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{
    Component, ConvertError, Differences, FileFormat, INCOMPLETE, Lora, Plan, Source, folder,
    number, read_config,
};

/// The findings.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What was looked at.
    pub path: PathBuf,
    /// What it is, in words.
    pub kind: String,
    /// The parts with weights.
    pub components: Vec<ComponentReport>,
    /// What keeps it from being used, beside the components' own problems.
    pub problems: Vec<String>,
    /// The command that makes a folder of safetensors of it; none if it can be used as it is.
    pub convert: Option<String>,
}

/// One component.
#[derive(Debug, Serialize)]
pub struct ComponentReport {
    /// Its name; none if no component of this model was recognised.
    pub component: Option<Component>,
    /// Layers of a LoRA, if it is one.
    pub lora: Option<usize>,
    /// How its files are written.
    pub format: FileFormat,
    /// Its files.
    pub files: Vec<PathBuf>,
    /// Bytes of the files.
    pub bytes: u64,
    /// Tensors in the files.
    pub tensors: usize,
    /// Values in the component, or in the files if it is not recognised.
    pub parameters: usize,
    /// Tensors per number format.
    pub dtypes: BTreeMap<String, usize>,
    /// What is missing, too much, or of other sizes than in the config.
    #[serde(flatten)]
    pub differences: Differences,
    /// Tensors with infinities or NaN, and how many; looked for only if asked.
    pub non_finite: Option<BTreeMap<String, usize>>,
}

impl Report {
    /// Whether everything can be used.
    pub fn is_sound(&self) -> bool {
        let sound = |c: &ComponentReport| {
            (c.component.is_some() || c.lora.is_some())
                && c.differences.is_empty()
                && c.non_finite.as_ref().is_none_or(BTreeMap::is_empty)
        };
        self.problems.is_empty() && self.components.iter().all(sound)
    }
}

/// Looks at a weight file, a component folder or a pipeline folder. With `deep`, all values are read.
///
/// # Errors
/// If there is nothing readable at `path`. What is wrong inside is part of the report.
pub fn inspect(path: &Path, deep: bool) -> Result<Report, ConvertError> {
    let meta = std::fs::metadata(path).map_err(ConvertError::io(path))?;
    let shown = path.display();
    if !meta.is_dir() {
        let source = Source::open(path)?;
        let kind = match source.format {
            FileFormat::Pickle => "PyTorch file",
            FileFormat::Safetensors => "safetensors file",
        };
        let found = source.components();
        let sources = [source];
        let mut components = Vec::new();
        for component in &found {
            let config = read_config(*component, None)?;
            components.push(look(Some(*component), &sources, &config, deep)?);
        }
        let mut problems = Vec::new();
        if found.is_empty() {
            components.push(look(None, &sources, &serde_json::Value::Null, deep)?);
        }
        if sources[0].is_lora() {
            match Lora::open(path, 1.0) {
                Ok(lora) => components[0].lora = Some(lora.layers()),
                Err(error) => problems.push(error.to_string()),
            }
        }
        let merge = (components.iter().any(|c| c.lora.is_some()))
            .then(|| format!("cargo xtask convert folder MODEL --lora '{shown}' --output DIR"));
        let convert = (!found.is_empty()).then(|| match found.as_slice() {
            [_] => format!("cargo xtask convert file '{shown}' --output DIR"),
            several => {
                let names: Vec<&str> = several.iter().map(|c| c.name()).collect();
                let names = names.join("|");
                format!("cargo xtask convert file '{shown}' --component {names} --output DIR")
            }
        });
        return Ok(Report {
            path: path.to_owned(),
            kind: kind.to_owned(),
            components,
            problems,
            convert: convert.or(merge),
        });
    }
    // What PEFT saves: a LoRA and its settings.
    if path.join("adapter_config.json").exists() {
        let files = ["safetensors", "bin"].map(|end| path.join(format!("adapter_model.{end}")));
        if let Some(file) = files.iter().find(|file| file.exists()) {
            return inspect(file, deep);
        }
    }
    let mut report = Report {
        path: path.to_owned(),
        kind: String::new(),
        components: Vec::new(),
        problems: Vec::new(),
        convert: None,
    };
    if path.join(INCOMPLETE).exists() {
        report
            .problems
            .push("an interrupted conversion left it; convert again".to_owned());
    }
    let index = path.join("model_index.json");
    if index.exists() {
        let index = folder::read_json(&index)?;
        let class = index["_class_name"].as_str().unwrap_or("unnamed");
        report.kind = format!("pipeline folder ({class})");
        for (slot, class) in index.as_object().into_iter().flatten() {
            if class.get(0).is_some_and(|library| library.is_string()) {
                report.slot(&path.join(slot), slot, deep);
            }
        }
    } else if path.join("config.json").exists() {
        report.kind = "component folder".to_owned();
        report.slot(path, "", deep);
    } else {
        let reason = "it has neither model_index.json nor config.json; name a diffusers folder or a file in it";
        return Err(ConvertError::source(path, reason));
    }
    if report
        .components
        .iter()
        .any(|c| c.format == FileFormat::Pickle)
    {
        report.convert = Some(format!("cargo xtask convert folder '{shown}' --output DIR"));
    }
    Ok(report)
}

impl Report {
    fn slot(&mut self, part: &Path, slot: &str, deep: bool) {
        if !part.is_dir() {
            self.problems
                .push(format!("the folder of its component '{slot}' is missing"));
            return;
        }
        let named = Component::ALL.into_iter().find(|c| c.folder() == slot);
        if named.is_none() && !slot.is_empty() {
            return;
        }
        let component = || {
            let config = folder::read_json(&part.join("config.json"))?;
            let component = folder::component_of(&config).or(named).ok_or_else(|| {
                ConvertError::source(part, "its config.json describes no component of this model")
            })?;
            let sources = folder::open_weights(part, component, None)?;
            look(Some(component), &sources, &config, deep)
        };
        match component() {
            Ok(component) => self.components.push(component),
            Err(error) => self.problems.push(error.to_string()),
        }
    }
}

fn look(
    component: Option<Component>,
    sources: &[Source],
    config: &serde_json::Value,
    deep: bool,
) -> Result<ComponentReport, ConvertError> {
    let tensors = || sources.iter().flat_map(|s| &s.tensors);
    let size = |shape: &[usize]| shape.iter().product::<usize>();
    let mut dtypes = BTreeMap::new();
    for (_, tensor) in tensors() {
        *dtypes.entry(format!("{:?}", tensor.dtype)).or_default() += 1;
    }
    let mut parameters = tensors().map(|(_, t)| size(&t.shape)).sum();
    let mut differences = Differences::default();
    if let Some(component) = component {
        let (plan, found) = Plan::compare(component, sources, config)?;
        differences = found;
        if differences.is_empty() {
            parameters = plan.parameters();
        }
    }
    let mut non_finite = deep.then(BTreeMap::new);
    for (name, tensor) in tensors() {
        let (Some(found), Some(size)) = (&mut non_finite, number::size(tensor.dtype)) else {
            continue;
        };
        let bytes = tensor.read().map_err(|e| ConvertError::Damaged {
            tensor: name.clone(),
            reason: e.to_string(),
        })?;
        let values = bytes
            .chunks(size << 20)
            .map(|part| number::widen(part, tensor.dtype));
        let count: usize = values
            .map(|v| v.iter().filter(|x| !x.is_finite()).count())
            .sum();
        if count > 0 {
            found.insert(name.clone(), count);
        }
    }
    let bytes = |s: &Source| std::fs::metadata(&s.path).map_or(0, |m| m.len());
    Ok(ComponentReport {
        component,
        lora: None,
        format: sources
            .first()
            .map_or(FileFormat::Safetensors, |s| s.format),
        files: sources.iter().map(|s| s.path.clone()).collect(),
        bytes: sources.iter().map(bytes).sum(),
        tensors: tensors().count(),
        parameters,
        dtypes,
        differences,
        non_finite,
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.path.display(), self.kind)?;
        for part in &self.components {
            let (name, class) = match (part.component, part.lora) {
                (Some(component), _) => (component.name(), component.class().to_owned()),
                (None, Some(layers)) => ("LoRA", format!("{layers} layers")),
                (None, None) => ("not of this model", String::new()),
            };
            let dtypes: Vec<String> = part
                .dtypes
                .iter()
                .map(|(d, n)| format!("{n} {d}"))
                .collect();
            let (count, dtypes) = (part.tensors, dtypes.join(", "));
            let megabytes = part.bytes as f64 / 1e6;
            writeln!(
                f,
                "  {name:<14} {class:<30} {} parameters, {count} tensors ({dtypes}), {megabytes:.1} MB, {:?}",
                part.parameters, part.format
            )?;
            if !part.differences.is_empty() {
                writeln!(f, "    PROBLEM: {}", part.differences)?;
                if self.path.is_file() {
                    writeln!(
                        f,
                        "    (compared with the published model; one of another size converts with --configs DIR)"
                    )?;
                }
            }
            match &part.non_finite {
                Some(found) if found.is_empty() => writeln!(f, "    all values are finite")?,
                Some(found) => {
                    for (tensor, count) in found {
                        writeln!(f, "    PROBLEM: {count} values of {tensor} are not finite")?;
                    }
                }
                None => {}
            }
        }
        for problem in &self.problems {
            writeln!(f, "  PROBLEM: {problem}")?;
        }
        if let Some(command) = &self.convert {
            writeln!(f, "  to convert: {command}")?;
        }
        Ok(())
    }
}
