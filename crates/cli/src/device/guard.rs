//! A driver that gives up becomes an error.

use std::{
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    sync::{Arc, Mutex, PoisonError},
};

use burn::tensor::backend::Backend;

use super::Task;
use crate::failure::Failure;

/// Runs a task on a GPU. burn panics when a GPU runs out of memory, is lost, or cannot compile a kernel.
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
    caught(prepared, backtraces).unwrap_or_else(|problem| {
        let device = name.to_owned();
        Err(Failure::Device { device, problem })
    })
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
    caught(f, false)
}

/// The first panic of any thread counts: the device's own thread is where things go wrong, and what the caller sees of
/// it is only that there is no answer.
fn caught<T>(f: impl FnOnce() -> T, print: bool) -> Result<T, String> {
    let first = Arc::new(Mutex::new(None));
    let before = Arc::new(panic::take_hook());
    panic::set_hook({
        let (first, before) = (first.clone(), before.clone());
        Box::new(move |info| {
            let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert_with(|| one_line(info));
            if print {
                before(info);
            }
        })
    });
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    panic::set_hook(Box::new(move |info| before(info)));
    result.map_err(|_| {
        let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
        first.take().unwrap_or_else(|| "no reason given".to_owned())
    })
}

/// What a panic says, without line breaks and not endless.
fn one_line(info: &PanicHookInfo<'_>) -> String {
    const LONGEST: usize = 300;
    let words = info.payload_as_str().unwrap_or("no reason given");
    // What burn adds to the reason.
    let words = words.trim_start_matches("called `Result::unwrap()` on an `Err` value: ");
    let words = words.trim_end().trim_end_matches("No backtrace available");
    let mut line = words.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(LONGEST) {
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::quietly;

    #[test]
    fn panics_of_other_threads_come_first() {
        let outcome = quietly(|| {
            let device = std::thread::spawn(|| panic!("lost\n  the device"));
            device.join().expect("an answer");
        });
        assert_eq!(outcome, Err("lost the device".to_owned()));
        assert_eq!(quietly(|| 3), Ok(3));
    }
}
