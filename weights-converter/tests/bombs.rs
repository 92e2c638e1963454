//! Small files that would cost much. One test in a process of its own, because it looks at how much memory the process took.

mod support;

use std::{
    fs,
    time::{Duration, Instant},
};

use support::{Trial, dictionary, entries, tensor, with_pickle};

fn peak_megabytes() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes >> 10)
}

#[test]
fn bombs_are_refused_quickly_and_in_little_memory() {
    let trial = Trial::new();
    let pickle = |start: &[u8], filler: &[u8], count: usize| {
        let filled = [start, &filler.repeat(count), b"."].concat();
        with_pickle(&filled, true)
    };
    // A class whose name has megabytes: a copy for every use would fill any memory.
    let long = [b"\x80\x02c".as_slice(), &[b'x'; 4 << 20], b"\ny\nq\x00"].concat();
    let fan = dictionary(&[("a", &tensor(0, &[1], &[1]))]);
    let text = [&b"\x80\x02X\0\0\x10\0"[..], &[b'k'; 1 << 20], b"q\x00"].concat();
    let reference = [&text, &b"]("[..]].concat();
    let key = b"X\x01\0\0\0a".as_slice();
    let many = |start: &[&[u8]], filler: &[u8], count: usize, end: &[u8]| {
        with_pickle(
            &[&start.concat(), &filler.repeat(count), end].concat(),
            true,
        )
    };
    let bombs = [
        (
            "one long key, often",
            many(&[&text, b"0}("], b"h\x00N", 300_000, b"u."),
            "too long",
        ),
        (
            "one dictionary of one key, often",
            many(
                &[
                    b"\x80\x02",
                    key,
                    b"q\x000}q\x01(",
                    &b"h\x00N".repeat(200_000),
                    b"u0}",
                    key,
                    b"](",
                ],
                b"h\x01",
                300_000,
                b"es.",
            ),
            "contain themselves",
        ),
        (
            "one tensor, often",
            many(
                &[b"\x80\x02", &tensor(0, &[1], &[1]), b"q\x000}", key, b"]("],
                b"h\x00",
                1 << 20,
                b"es.",
            ),
            "too many tensors",
        ),
        (
            "beyond the limit",
            pickle(b"\x80\x02}", b"N0", 51 << 20),
            "too large",
        ),
        ("values", pickle(b"\x80\x02}", b"N", 90 << 20), "too large"),
        ("lists", pickle(b"\x80\x02}", b"]", 90 << 20), "too large"),
        ("marks", pickle(b"\x80\x02}", b"(", 90 << 20), "too large"),
        ("doubles", pickle(b"\x80\x02}", b"2", 90 << 20), "too large"),
        ("memo", pickle(b"\x80\x02}", &memo(3 << 20), 1), "too large"),
        ("long name", pickle(&long, b"h\x00", 10 << 20), "damaged"),
        (
            "long text, many references",
            pickle(&reference, b"h\x00", 20 << 20),
            "too large",
        ),
        (
            "extras",
            with_pickle(
                &[&fan[..fan.len() - 1], &b"N0".repeat(1 << 20), b"."].concat(),
                true,
            ),
            "",
        ),
    ];
    for (what, bytes, word) in bombs {
        assert!(bytes.len() < 20 << 20, "{what}");
        let started = Instant::now();
        match trial.read(&bytes) {
            Ok(_) => assert_eq!(word, "", "{what}"),
            Err(error) => assert!(error.contains(word), "{what}: {error}"),
        }
        let took = started.elapsed();
        assert!(took < Duration::from_secs(10), "{what}: {took:?}");
    }
    // The directory says that a bomb is small.
    let mut bytes = pickle(b"\x80\x02}", b"N0", 60 << 20);
    let size = entries_size(&bytes);
    let lie = 1000_u32.to_le_bytes();
    for at in 0..bytes.len() - 4 {
        if bytes[at..at + 4] == size {
            bytes[at..at + 4].copy_from_slice(&lie);
        }
    }
    let started = Instant::now();
    trial.refuses(&bytes, &["data.pkl"]);
    assert!(started.elapsed() < Duration::from_secs(10));
    if let Some(peak) = peak_megabytes() {
        // The test's own bombs are in there before they are compressed.
        assert!(peak < 900, "{peak} MB");
    }
}

/// Puts at different places.
fn memo(count: u32) -> Vec<u8> {
    let put = |at: u32| [&b"r"[..], &at.to_le_bytes()].concat();
    (0..count).flat_map(put).collect()
}

/// The size of the pickle as the archive writes it.
fn entries_size(archive: &[u8]) -> [u8; 4] {
    (entries(archive)[0].1.len() as u32).to_le_bytes()
}
