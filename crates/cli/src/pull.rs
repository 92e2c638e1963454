//! Models by their name on the Hub: `i2vgen pull`, and `--model owner/name`.

use std::{io::IsTerminal, path::PathBuf, time::Duration};

use i2vgen_hub::{HubError, HubOptions, Progress, pull as download};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use crate::{args::PullArgs, failure::Failure};

pub(crate) fn pull(args: PullArgs) -> Result<(), Failure> {
    let folder = fetch(
        &args.model,
        args.variant,
        args.revision,
        args.offline,
        args.quiet,
    )?;
    println!("{}", folder.display());
    Ok(())
}

/// The folder of a model in the cache, once it is complete.
pub(crate) fn fetch(
    id: &str,
    variant: Option<String>,
    revision: Option<String>,
    offline: bool,
    quiet: bool,
) -> Result<PathBuf, HubError> {
    let mut options = HubOptions {
        variant,
        revision,
        ..HubOptions::default()
    };
    options.offline |= offline;
    let mut teller = Teller::new(quiet);
    download(id, &options, &mut |progress| teller.tell(&progress))
}

/// A bar for each file on a terminal, lines elsewhere.
struct Teller {
    bar: Option<ProgressBar>,
    quiet: bool,
}

impl Teller {
    fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = (terminal && !quiet).then(|| ProgressBar::new(0));
        if let Some(bar) = &bar {
            let template = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Self { bar, quiet }
    }

    fn tell(&mut self, progress: &Progress<'_>) {
        match progress {
            Progress::Start { count, bytes } => {
                self.say(&format!(
                    "{count} files to download, {}",
                    HumanBytes(*bytes)
                ));
            }
            Progress::File {
                name,
                index,
                count,
                bytes,
            } => match &self.bar {
                Some(bar) => {
                    bar.set_length(*bytes);
                    bar.set_position(0);
                    bar.reset_eta();
                    bar.set_message(format!("{index}/{count} {name}"));
                }
                None => self.say(&format!("{index}/{count} {name}, {}", HumanBytes(*bytes))),
            },
            Progress::Bytes(bytes) => {
                if let Some(bar) = &self.bar {
                    bar.set_position(*bytes);
                }
            }
            Progress::Waiting { name } => {
                self.say(&format!(
                    "{name} is being downloaded by another process; waiting"
                ));
            }
            Progress::Retry { reason, left, wait } => {
                let wait = wait.as_secs_f64();
                self.say(&format!(
                    "{reason}; trying again in {wait:.1} s, {left} more left"
                ));
            }
            Progress::Offline { reason } => {
                self.say(&format!("{reason}; using what is in the cache"));
            }
            _ => {}
        }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None if !self.quiet => eprintln!("{text}"),
            None => {}
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
