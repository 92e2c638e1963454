//! `i2vgen devices`.

use std::io::Write;

use super::how_to_build;

/// A device that can be named.
pub(crate) struct Device {
    /// What to give to `--device`.
    pub(crate) name: String,
    /// Whose it is and what it is called.
    pub(crate) adapter: String,
    /// Through what it is spoken to.
    pub(crate) api: String,
    pub(crate) driver: String,
    /// Why it cannot be used, if so.
    pub(crate) problem: Option<String>,
}

/// Prints one line for each device, and one for each backend without any.
pub(crate) fn devices() {
    let mut devices = Vec::new();
    let mut without = Vec::new();
    let mut add = |name: &'static str, found: Option<Result<Vec<Device>, String>>| match found {
        Some(Ok(found)) => devices.extend(found),
        Some(Err(problem)) => without.push((name, problem)),
        None => without.push((name, format!("not built in; {}", how_to_build(name)))),
    };
    add("cpu", cpu());
    add("cuda", cuda());
    add("wgpu", wgpu());

    let columns = |device: &Device| {
        let adapter = match &device.problem {
            Some(problem) => format!("{} (unusable: {problem})", device.adapter),
            None => device.adapter.clone(),
        };
        [
            device.name.clone(),
            adapter,
            device.api.clone(),
            device.driver.clone(),
        ]
    };
    let mut rows: Vec<[String; 4]> = devices.iter().map(columns).collect();
    rows.extend(
        without
            .into_iter()
            .map(|(name, why)| [name.to_owned(), why, String::new(), String::new()]),
    );
    let width = |column: usize| {
        let listed = rows[..devices.len()].iter();
        let widths = listed.map(|row| row[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let [name, adapter, api] = [width(0).max("cuda".len()), width(1), width(2)];
    let mut text = String::new();
    for [a, b, c, d] in &rows {
        let line = format!("{a:name$}  {b:adapter$}  {c:api$}  {d}");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    // A reader that has seen enough is no error.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn cpu() -> Option<Result<Vec<Device>, String>> {
    #[cfg(not(feature = "cpu"))]
    return None;
    #[cfg(feature = "cpu")]
    Some(Ok(vec![Device {
        name: "cpu".to_owned(),
        adapter: format!("{} threads", rayon::current_num_threads()),
        api: "Flex".to_owned(),
        driver: String::new(),
        problem: None,
    }]))
}

fn cuda() -> Option<Result<Vec<Device>, String>> {
    #[cfg(not(feature = "cuda"))]
    return None;
    #[cfg(feature = "cuda")]
    Some(super::cuda::list())
}

fn wgpu() -> Option<Result<Vec<Device>, String>> {
    #[cfg(not(feature = "wgpu"))]
    return None;
    #[cfg(feature = "wgpu")]
    Some(super::wgpu::list())
}
