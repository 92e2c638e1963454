//! A driver that gives up becomes an error.

use std::{
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use burn::tensor::backend::Backend;

use super::Task;
use crate::failure::Failure;

/// Whether a thread has panicked since the last task began.
static PANICKED: AtomicBool = AtomicBool::new(false);

/// Whether the GPU's results are worthless: CubeCL's thread for a device goes on after it has failed to allocate memory or to
/// compile a kernel, and what it could not compute is whatever lay in memory before.
pub(super) fn faulted() -> bool {
    PANICKED.load(Ordering::SeqCst)
}

/// Runs a task on a GPU. burn panics when a GPU runs out of memory, is lost, or cannot compile a kernel, on a thread of its own;
/// the task may not notice, so that it has not succeeded even if it says so.
pub(super) fn run<B: Backend>(
    name: &str,
    task: impl Task,
    device: &B::Device,
) -> Result<(), Failure> {
    let backtraces = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    let prepared = || {
        prepare::<B>(device);
        task.run::<B>(device)
    };
    PANICKED.store(false, Ordering::SeqCst);
    match caught(prepared, backtraces, Some(&PANICKED)) {
        (Some(result), None) => result,
        (_, problem) => Err(Failure::Device {
            device: name.to_owned(),
            problem: problem.unwrap_or_else(|| "no reason given".to_owned()),
        }),
    }
}

/// What holds for the whole process, before the first tensor.
fn prepare<B: Backend>(device: &B::Device) {
    if let Some(folder) = dirs::cache_dir() {
        i2vgen_kernels::keep_kernels(&folder.join("i2vgen"));
    }
    i2vgen_kernels::fit_memory_budget::<B>(device);
}

/// Runs `f`; of a panic, what it says. Nothing is printed.
#[cfg(any(feature = "cuda", test))]
pub(super) fn quietly<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    let (result, problem) = caught(f, false, None);
    result.ok_or_else(|| problem.unwrap_or_else(|| "no reason given".to_owned()))
}

/// What `f` returns if it does, and what the first panic of any thread says, if there was one: the device's own thread is where
/// things go wrong, and what the caller sees of it is at most that there is no answer.
/// `flag` is set as soon as there is one.
fn caught<T>(
    f: impl FnOnce() -> T,
    print: bool,
    flag: Option<&'static AtomicBool>,
) -> (Option<T>, Option<String>) {
    let first = Arc::new(Mutex::new(None));
    let before = Arc::new(panic::take_hook());
    panic::set_hook({
        let (first, before) = (first.clone(), before.clone());
        Box::new(move |info| {
            if let Some(flag) = flag {
                flag.store(true, Ordering::SeqCst);
            }
            let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
            let is_first = first.is_none();
            first.get_or_insert_with(|| one_line(info));
            if print && is_first {
                before(info);
            }
        })
    });
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    panic::set_hook(Box::new(move |info| before(info)));
    let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
    (result.ok(), first.take())
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
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::{caught, quietly};

    #[test]
    fn panics_of_other_threads_come_first() {
        let outcome = quietly(|| {
            let device = std::thread::spawn(|| panic!("lost\n  the device"));
            device.join().expect("an answer");
        });
        assert_eq!(outcome, Err("lost the device".to_owned()));
        assert_eq!(quietly(|| 3), Ok(3));
    }

    #[test]
    fn what_goes_on_after_a_panic_has_failed() {
        static FLAG: AtomicBool = AtomicBool::new(false);
        let (result, problem) = caught(
            || {
                // CubeCL's thread catches its own panics.
                let device = std::thread::spawn(|| {
                    let _ = std::panic::catch_unwind(|| panic!("can't allocate"));
                });
                device.join().expect("no panic gets out");
                4
            },
            false,
            Some(&FLAG),
        );
        assert_eq!(
            (result, problem),
            (Some(4), Some("can't allocate".to_owned()))
        );
        assert!(FLAG.load(Ordering::SeqCst));
    }
}
