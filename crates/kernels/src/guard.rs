//! A driver that gives up becomes an error.

use std::{
    error::Error,
    fmt,
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Whether a thread has panicked since [`guarded`] began.
static PANICKED: AtomicBool = AtomicBool::new(false);

/// What a backend said when it gave up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFailure(pub String);

impl fmt::Display for DeviceFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the device failed: {}", self.0)
    }
}

impl Error for DeviceFailure {}

/// Runs `f`, which computes on a GPU, and says whether its result is worth something. burn panics on a thread of the device
/// when a GPU runs out of memory, is lost, or cannot compile a kernel; that thread goes on, and what it could not compute is
/// whatever lay in memory before, of which `f` need not notice anything.
///
/// A panic hook notices, so that panics of other threads of the process count, too; one guard at a time. Messages are printed only with
/// `RUST_BACKTRACE` set.
///
/// # Errors
/// [`DeviceFailure`] with the first panic's words, if any thread has panicked.
pub fn guarded<T>(f: impl FnOnce() -> T) -> Result<T, DeviceFailure> {
    let prints = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    PANICKED.store(false, Ordering::SeqCst);
    let first = Arc::new(Mutex::new(None));
    let before = Arc::new(panic::take_hook());
    panic::set_hook({
        let (first, before) = (first.clone(), before.clone());
        Box::new(move |info| {
            PANICKED.store(true, Ordering::SeqCst);
            let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
            let is_first = first.is_none();
            first.get_or_insert_with(|| one_line(info));
            if prints && is_first {
                before(info);
            }
        })
    });
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    panic::set_hook(Box::new(move |info| before(info)));
    let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
    match (result, first.take()) {
        (Ok(result), None) => Ok(result),
        (_, problem) => Err(DeviceFailure(
            problem.unwrap_or_else(|| "no reason given".to_owned()),
        )),
    }
}

/// Whether the work in [`guarded`] is already known to be worthless: a long run can stop there.
pub fn device_failed() -> bool {
    PANICKED.load(Ordering::SeqCst)
}

/// What a panic says, without line breaks and not endless.
fn one_line(info: &PanicHookInfo<'_>) -> String {
    const LONGEST: usize = 300;
    let words = info.payload_as_str().unwrap_or("no reason given");
    // What burn adds to the reason.
    let words = words.trim_start_matches("called `Result::unwrap()` on an `Err` value: ");
    let words = words.trim_end().trim_end_matches("No backtrace available");
    let words = words
        .split_once("The server is in an invalid state\nCaused by:\n  [")
        .map_or(words, |(_, cause)| cause);
    let mut line = words.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(LONGEST) {
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::{DeviceFailure, device_failed, guarded};

    /// One test, as all threads of a process count.
    #[test]
    fn a_panic_of_any_thread_is_a_failure() {
        assert_eq!(guarded(|| 3), Ok(3));
        assert!(!device_failed());
        let outcome = guarded(|| {
            let device = std::thread::spawn(|| panic!("lost\n  the device"));
            device.join().expect("an answer");
        });
        assert_eq!(outcome, Err(DeviceFailure("lost the device".to_owned())));
        let outcome = guarded(|| {
            // CubeCL's thread catches its own panics.
            let device = std::thread::spawn(|| {
                let _ = std::panic::catch_unwind(|| panic!("can't allocate"));
            });
            device.join().expect("no panic gets out");
            4
        });
        assert_eq!(outcome, Err(DeviceFailure("can't allocate".to_owned())));
        assert!(device_failed());
    }
}
