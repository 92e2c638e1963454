//! `i2vgen batch`: many jobs, one model.

use std::{collections::HashMap, path::PathBuf, str::FromStr};

use burn::tensor::backend::Backend;
use i2vgen_pipeline::PipelineError;

use crate::{
    args::BatchArgs,
    device::{Task, dispatch},
    failure::Failure,
    generate::with_defaults,
    job::{self, Job},
    layers,
    model::Model,
    session::Session,
    settings::Settings,
};

/// Part `index` of `count`, from 1 as Slurm's arrays usually do: every `count`-th job, so that long and short ones mix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shard {
    index: usize,
    count: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/');
        let numbers = numbers.and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((index, count)) if (1..=count).contains(&index) => Ok(Self { index, count }),
            _ => Err("must be I/N with I from 1 to N, like 1/4".to_owned()),
        }
    }
}

impl Shard {
    fn has(self, position: usize) -> bool {
        position % self.count == self.index - 1
    }
}

/// A line of the list.
struct Line {
    number: usize,
    /// What it says itself, under what the command line says.
    said: Settings,
    /// With the config file, but without the defaults that a continued video gives: an earlier line may yet have to make it.
    settings: Settings,
}

pub(crate) fn batch(args: BatchArgs) -> Result<(), Failure> {
    let config = layers::config(args.config.as_deref())?;
    let lines = lines(&args, &config)?;
    let in_shard = |position: usize| args.shard.is_none_or(|shard| shard.has(position));
    let mine = lines.into_iter().enumerate().filter(|(i, _)| in_shard(*i));
    let mine: Vec<_> = mine.map(|(_, line)| line).collect();
    let total = mine.len();
    let mut todo = Vec::new();
    for line in mine {
        match already_there(&line.settings) {
            None => todo.push(line),
            Some(note) if !args.quiet => eprintln!("line {}: {note}", line.number),
            Some(_) => {}
        }
    }
    let Some(first) = todo.first() else {
        if !args.quiet {
            eprintln!("{total} of {total} jobs done");
        }
        return Ok(());
    };
    let keep = first.settings.keep_resident.unwrap_or(true) && !args.no_keep_resident;
    let model = Model::open(&first.settings, keep, args.quiet)?;
    let device = model.device.clone();
    let quiet = args.quiet;
    let batch = Batch {
        model,
        config,
        todo,
        total,
        quiet,
    };
    dispatch(&device, batch)
}

struct Batch {
    model: Model,
    config: Settings,
    todo: Vec<Line>,
    /// With those that were there already.
    total: usize,
    quiet: bool,
}

impl Task for Batch {
    fn run<B: Backend>(self, device: &B::Device) -> Result<(), Failure> {
        let session = Session::<B>::open(&self.model, self.quiet, device)?;
        let mut failed = Vec::new();
        for line in self.todo {
            let number = line.number;
            if let Some(output) = &line.settings.output
                && !self.quiet
            {
                eprintln!("line {number}: {}", output.display());
            }
            let job = || {
                let shared = Model::key(&line.settings);
                Job::new(shared.merged_over(with_defaults(line.said, &self.config)?))
            };
            let outcome = match session.stopped() {
                true => Err(PipelineError::Cancelled.into()),
                false => job().and_then(|job| session.run(&job)),
            };
            match outcome {
                Ok(()) => {}
                Err(cancelled @ Failure::Pipeline(PipelineError::Cancelled)) => {
                    return Err(cancelled);
                }
                Err(failure) => {
                    eprintln!("line {number}: error: {failure}");
                    failed.push(number);
                }
            }
        }
        let total = self.total;
        if !failed.is_empty() {
            let lines = failed;
            return Err(Failure::Jobs { lines, total });
        }
        if !self.quiet {
            eprintln!("{total} of {total} jobs done");
        }
        Ok(())
    }
}

/// All lines, also those of other shards: whatever is wrong with the list itself is said before anything is done.
fn lines(args: &BatchArgs, config: &Settings) -> Result<Vec<Line>, Failure> {
    let name = args.jobs.display();
    let fail = |line: usize, problem: String| {
        Err(Failure::Input(format!("{name} line {line}: {problem}")))
    };
    if let Some(folder) = &args.output_dir {
        std::fs::create_dir_all(folder).map_err(|e| {
            let folder = folder.display();
            Failure::Input(format!("--output-dir: '{folder}' cannot be made: {e}"))
        })?;
    }
    let mut lines: Vec<Line> = Vec::new();
    let mut outputs: HashMap<PathBuf, usize> = HashMap::new();
    for (number, job) in layers::jobs(&args.jobs)? {
        let mut said = args.settings.clone().merged_over(job);
        if let Some(folder) = &args.output_dir {
            for output in said.outputs_mut() {
                *output = folder.join(&*output);
            }
        }
        let settings = said.clone().merged_over(config.clone());
        if settings.output.is_none() {
            return fail(
                number,
                "has no output; say where to write, like \"a.gif\"".into(),
            );
        }
        let absolute = settings.clone().with_absolute_paths();
        for output in absolute.files() {
            if let Some(other) = outputs.insert(output.clone(), number) {
                let output = output.display();
                return fail(
                    number,
                    format!("writes '{output}', and so does line {other}"),
                );
            }
        }
        if let Some(first) = lines.first() {
            let key = |settings: &Settings| Model::key(&settings.clone().with_absolute_paths());
            if key(&first.settings) != key(&absolute) {
                return fail(
                    number,
                    format!(
                        "has another model, variant, revision, device, dtype, threads or keep_resident than line {}; \
                         make another list of it",
                        first.number
                    ),
                );
            }
        }
        lines.push(Line {
            number,
            said,
            settings,
        });
    }
    Ok(lines)
}

/// What to say of a job that needs not be done: its sidecar is there, and so is all that the sidecar tells of.
fn already_there(settings: &Settings) -> Option<String> {
    let output = settings.output.as_ref()?;
    let record = layers::sidecar("", &job::sidecar(output)).ok()?;
    let complete = |(path, bytes): (&PathBuf, &Option<u64>)| match bytes {
        Some(bytes) => path
            .metadata()
            .is_ok_and(|m| m.is_file() && m.len() == *bytes),
        None => path.is_dir(),
    };
    let (outputs, bytes) = (&record.outputs, &record.bytes);
    let all = outputs.len() == bytes.len() && outputs.iter().zip(bytes).all(complete);
    let mut others = settings.clone();
    others.output = None;
    if outputs.is_empty() || !all || !others.outputs_mut().all(|path| path.exists()) {
        return None;
    }
    // Where and how fast it is computed is not what it is.
    let asked = Settings {
        device: None,
        threads: None,
        keep_resident: None,
        allow_oversize: None,
        offline: None,
        revision: None,
        ..settings.clone().without_outputs().with_absolute_paths()
    };
    let had = record.arguments.to_json();
    let asked = asked.to_json();
    let differing = asked
        .iter()
        .filter(|(key, value)| had.get(*key) != Some(value));
    let differing: Vec<_> = differing.map(|(key, _)| key.as_str()).collect();
    let output = output.display();
    Some(match differing.is_empty() {
        true => format!("{output} is there already"),
        false => format!(
            "warning: {output} is there already, but with another {}; delete it to make it anew",
            differing.join(", ")
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::Shard;

    #[test]
    fn shards_share_all_jobs() {
        let shard = |text: &str| text.parse::<Shard>();
        let shards: Vec<_> = (1..=3)
            .map(|i| shard(&format!("{i}/3")).expect("good"))
            .collect();
        for position in 0..10 {
            assert_eq!(shards.iter().filter(|s| s.has(position)).count(), 1);
        }
        for bad in ["5/4", "0/4", "1/0", "0/0", "1", "a/b", "-1/4", "1/4/2", ""] {
            assert!(shard(bad).is_err(), "{bad}");
        }
    }
}
