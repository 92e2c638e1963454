use std::{thread::sleep, time::Duration};

use crate::{HubError, HubOptions, Progress};

const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A file that has got on by this much deserves all its retries again.
const STEP: u64 = 1 << 20;

/// A failed attempt.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: HubError,
    /// Whether it may work next time.
    pub(crate) again: bool,
    /// The pause that the server asks for.
    pub(crate) after: Option<Duration>,
}

impl Failure {
    pub(crate) fn passing(error: HubError) -> Self {
        Self {
            error,
            again: true,
            after: None,
        }
    }
}

/// What is not known to pass does not.
impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self {
            error,
            again: false,
            after: None,
        }
    }
}

/// Counts failures and pauses after them.
pub(crate) struct Retries<'a> {
    options: &'a HubOptions,
    left: u32,
    wait: Duration,
    best: u64,
}

impl<'a> Retries<'a> {
    pub(crate) fn new(options: &'a HubOptions) -> Self {
        Self {
            options,
            left: options.retries,
            wait: options.backoff,
            best: 0,
        }
    }

    /// Pauses, or gives the error back if there is no sense in another attempt. `position` is how far the file has come.
    pub(crate) fn pause(
        &mut self,
        failure: Failure,
        position: u64,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), HubError> {
        if position >= self.best.saturating_add(STEP) {
            self.best = position;
            self.left = self.options.retries;
            self.wait = self.options.backoff;
        }
        if !failure.again || self.left == 0 {
            return Err(failure.error);
        }
        self.left -= 1;
        let wait = failure
            .after
            .unwrap_or_default()
            .max(self.wait)
            .min(LONGEST_WAIT);
        progress(Progress::Retry {
            reason: &failure.error,
            left: self.left,
            wait,
        });
        sleep(wait);
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        Ok(())
    }
}

/// Tries until it works or makes no sense any more.
pub(crate) fn retry<T>(
    options: &HubOptions,
    progress: &mut dyn FnMut(Progress<'_>),
    mut attempt: impl FnMut() -> Result<T, Failure>,
) -> Result<T, HubError> {
    let mut retries = Retries::new(options);
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(failure) => retries.pause(failure, 0, progress)?,
        }
    }
}
