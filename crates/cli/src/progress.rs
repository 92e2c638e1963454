use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use burn::tensor::backend::Backend;
use i2vgen_pipeline::Event;
use indicatif::{ProgressBar, ProgressStyle};

/// A bar with the time left on a terminal, plain lines elsewhere, nothing when quiet.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    lines: bool,
    started: Option<Instant>,
}

impl Progress {
    pub(crate) fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = (terminal && !quiet).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self {
            bar,
            lines: !terminal && !quiet,
            started: None,
        }
    }

    pub(crate) fn tell<B: Backend>(&mut self, event: &Event<'_, B>) {
        match event {
            Event::Stage(name) => self.stage(name),
            Event::Step { done, total, .. } => self.count("step", *done, *total),
            Event::Decoded { done, total } => self.count("frame", *done, *total),
            _ => {}
        }
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// A line that does not disturb the bar.
    pub(crate) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None if self.lines => eprintln!("{text}"),
            None => {}
        }
    }

    pub(crate) fn stage(&mut self, name: &'static str) {
        self.started = Some(Instant::now());
        if let Some(bar) = &self.bar {
            bar.set_style(ProgressStyle::default_spinner());
            bar.set_message(name);
        }
        if self.lines {
            eprintln!("{name}");
        }
    }

    fn count(&self, unit: &'static str, done: usize, total: usize) {
        if let Some(bar) = &self.bar {
            if done <= 1 || bar.length() != Some(total as u64) {
                let template = "{msg} {pos}/{len} [{bar:30}] {elapsed} elapsed, {eta} left";
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style.progress_chars("=> "));
                }
                bar.set_length(total as u64);
                bar.reset_eta();
                bar.set_message(unit);
            }
            bar.set_position(done as u64);
        }
        if self.lines
            && let Some(started) = self.started
        {
            let elapsed = started.elapsed().as_secs_f64();
            let left = elapsed / done as f64 * (total - done) as f64;
            eprintln!("{unit} {done}/{total}, about {left:.0} s left");
        }
    }
}

/// A bar must not stay when a run fails.
impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
