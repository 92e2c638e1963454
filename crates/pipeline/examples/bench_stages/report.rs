//! Times, and how they are printed.

use std::{error::Error, time::Instant};

use burn::tensor::backend::Backend;

/// Seconds of one call: the fewest of some, after some that compile and tune. The first call is reported, too.
pub(crate) fn time<B: Backend, T, E: Into<Box<dyn Error>>>(
    device: &B::Device,
    mut f: impl FnMut() -> Result<T, E>,
) -> Result<f64, Box<dyn Error>> {
    let mut once = || -> Result<f64, Box<dyn Error>> {
        B::sync(device).map_err(|e| format!("{e:?}"))?;
        let start = Instant::now();
        let y = f().map_err(Into::into)?;
        B::sync(device).map_err(|e| format!("{e:?}"))?;
        drop(y);
        Ok(start.elapsed().as_secs_f64())
    };
    let first = once()?;
    let limit = Instant::now();
    let mut best = once()?;
    while limit.elapsed().as_secs_f64() < 3.0 {
        best = best.min(once()?);
    }
    if first > 2.0 * best {
        println!("{:44}{:>10.1}", "  (the first call)", first * 1e3);
    }
    Ok(best)
}

/// Milliseconds of the parts of a step, the fewest of three times, and their share of all.
pub(crate) fn print_blocks<B: Backend, T, E: Error + 'static>(
    device: &B::Device,
    step: impl Fn(&mut dyn FnMut(&str)) -> Result<T, E>,
) -> Result<(), Box<dyn Error>> {
    let mut best: Vec<(String, f64)> = Vec::new();
    for _ in 0..3 {
        let mut at = 0;
        B::sync(device).map_err(|e| format!("{e:?}"))?;
        let mut start = Instant::now();
        step(&mut |name| {
            // What went wrong is told by the wait that follows.
            let _ = B::sync(device);
            let seconds = start.elapsed().as_secs_f64();
            match best.get_mut(at) {
                Some((_, best)) => *best = best.min(seconds),
                None => best.push((name.to_owned(), seconds)),
            }
            at += 1;
            start = Instant::now();
        })?;
    }
    let all: f64 = best.iter().map(|(_, seconds)| seconds).sum();
    for (name, seconds) in best {
        println!(
            "  {name:42}{:>10.3}{:>9.1} %",
            seconds * 1e3,
            100.0 * seconds / all
        );
    }
    Ok(())
}

/// How often each kernel was launched.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub(crate) fn list(launches: &[String]) {
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    for name in launches {
        *counts.entry(name).or_default() += 1;
    }
    println!("{:44}{:>10}", "Kernel launches per step", launches.len());
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for (name, count) in counts {
        println!("{count:10}  {name}");
    }
}

pub(crate) fn print(name: &str, seconds: f64, flops: f64, peak: f64) {
    let rate = flops / seconds;
    let milliseconds = seconds * 1e3;
    match flops.is_nan() {
        true => println!("{name:44}{milliseconds:>10.3}"),
        false => println!(
            "{name:44}{milliseconds:>10.3}{:>10.3}{:>8.2}",
            rate / 1e12,
            rate / peak
        ),
    }
}
