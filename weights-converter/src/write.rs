//! Streaming safetensors: one tensor in memory at a time.

use std::{fs::File, io::Write, path::Path};

use safetensors::Dtype;
use serde_json::{Map, Value, json};

use crate::{ConvertError, Options, Plan, burnpack, mapping::Transform, number, plan::Entry};

/// Elements converted at once.
const GRAIN: usize = 1 << 20;

/// Writes a plan as `{stem}.safetensors`, or in shards with an index if it is larger than `shard_size` bytes, and
/// additionally as `{stem}.bpk`, if that is wanted.
///
/// `progress` is told the bytes written.
///
/// # Errors
/// If a source cannot be read, a value does not fit the format, or the disk is full.
pub(crate) fn write(
    plan: &Plan,
    folder: &Path,
    options: &Options,
    progress: &mut dyn FnMut(u64),
) -> Result<(), ConvertError> {
    let (dtype, shard_size) = (options.dtype, options.shard_size);
    let mut entries: Vec<&Entry> = plan.entries.iter().collect();
    // Wide formats first, so that every tensor is aligned to its own size.
    entries.sort_by_key(|e| {
        (
            std::cmp::Reverse(number::size(out_dtype(e, dtype))),
            &e.target,
        )
    });
    let mut shards: Vec<Vec<&Entry>> = vec![Vec::new()];
    let (mut filled, mut total) = (0, 0);
    for entry in &entries {
        let bytes = length(entry, dtype);
        let last = shards.len() - 1;
        if shard_size.is_some_and(|max| filled > 0 && filled + bytes > max) {
            shards.push(vec![entry]);
            filled = 0;
        } else {
            shards[last].push(entry);
        }
        filled += bytes;
        total += bytes;
    }
    let (stem, count) = (plan.component.stem(), shards.len());
    let mut weight_map = Map::new();
    for (i, shard) in shards.iter().enumerate() {
        let name = match count {
            1 => format!("{stem}.safetensors"),
            _ => format!("{stem}-{:05}-of-{count:05}.safetensors", i + 1),
        };
        for entry in shard {
            weight_map.insert(entry.target.clone(), json!(name));
        }
        let header = safetensors_header(shard, dtype);
        write_file(shard, &folder.join(name), &header, 1, dtype, progress)?;
    }
    if count > 1 {
        let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        write_json(
            &folder.join(format!("{stem}.safetensors.index.json")),
            &index,
        )?;
    }
    if options.burnpack {
        let path = folder.join(format!("{stem}.bpk"));
        let list = entries.iter().map(|e| {
            let dtype = out_dtype(e, dtype);
            (
                e.target.as_str(),
                dtype,
                e.shape.as_slice(),
                length(e, Some(dtype)),
            )
        });
        let header = burnpack::header(list).map_err(ConvertError::io(&path))?;
        write_file(
            &entries,
            &path,
            &header,
            burnpack::ALIGNMENT,
            dtype,
            progress,
        )?;
    }
    Ok(())
}

/// Bytes that [`write`] will write, without headers.
pub(crate) fn bytes(plan: &Plan, options: &Options) -> u64 {
    let once: u64 = plan.entries.iter().map(|e| length(e, options.dtype)).sum();
    once * if options.burnpack { 2 } else { 1 }
}

/// Writes a file and waits until it is on the disk.
pub(crate) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), ConvertError> {
    let mut file = File::create(path).map_err(ConvertError::io(path))?;
    file.write_all(bytes).map_err(ConvertError::io(path))?;
    file.sync_all().map_err(ConvertError::io(path))
}

/// Writes JSON and waits until it is on the disk.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<(), ConvertError> {
    write_bytes(path, format!("{value:#}\n").as_bytes())
}

fn out_dtype(entry: &Entry, dtype: Option<Dtype>) -> Dtype {
    dtype.unwrap_or(entry.tensor.dtype)
}

fn length(entry: &Entry, dtype: Option<Dtype>) -> u64 {
    let size = number::size(out_dtype(entry, dtype)).unwrap_or(0);
    (entry.shape.iter().product::<usize>() * size) as u64
}

/// The first bytes of a safetensors file.
fn safetensors_header(entries: &[&Entry], dtype: Option<Dtype>) -> Vec<u8> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut at = 0;
    for entry in entries {
        let end = at + length(entry, dtype);
        let info = json!({
            "dtype": out_dtype(entry, dtype),
            "shape": entry.shape,
            "data_offsets": [at, end],
        });
        header.insert(entry.target.clone(), info);
        at = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.append(&mut header);
    out
}

/// Writes a header and after it the tensors, each at a multiple of `alignment`.
fn write_file(
    entries: &[&Entry],
    path: &Path,
    header: &[u8],
    alignment: u64,
    dtype: Option<Dtype>,
    progress: &mut dyn FnMut(u64),
) -> Result<(), ConvertError> {
    let mut file = File::create(path).map_err(ConvertError::io(path))?;
    let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(ConvertError::io(path));
    put(header)?;
    let mut at: u64 = 0;
    for entry in entries {
        let padding = at.next_multiple_of(alignment) - at;
        put(&vec![0; padding as usize])?;
        put_tensor(entry, out_dtype(entry, dtype), &mut put)?;
        at += padding + length(entry, dtype);
        progress(length(entry, dtype));
    }
    file.sync_all().map_err(ConvertError::io(path))
}

fn put_tensor(
    entry: &Entry,
    to: Dtype,
    put: &mut dyn FnMut(&[u8]) -> Result<(), ConvertError>,
) -> Result<(), ConvertError> {
    let from = entry.tensor.dtype;
    let size = number::size(from).unwrap_or(1);
    let broken = |e: std::io::Error| ConvertError::Damaged {
        tensor: entry.source.clone(),
        reason: e.to_string(),
    };
    let bytes = entry.tensor.read().map_err(broken)?;
    let bytes = entry.transform.apply(bytes, &entry.tensor.shape, size);
    let copied = from == to && entry.deltas.is_empty();
    if !copied && !number::fits_f32(&bytes, from) {
        return Err(ConvertError::Overflow {
            tensor: entry.target.clone(),
            dtype: "f32".to_owned(),
        });
    }
    let doubled = match entry.transform {
        Transform::DoubleInputs { from } => {
            let plane: usize = entry.shape[2..].iter().product();
            Some((from * plane, entry.shape[1] * plane))
        }
        _ => None,
    };
    if !entry.deltas.is_empty() {
        let mut values = number::widen(&bytes, from);
        drop(bytes);
        for delta in &entry.deltas {
            delta.add_to(&mut values)?;
        }
        return put_values(entry, &values, to, put);
    }
    if from == to && doubled.is_none() {
        return put(&bytes);
    }
    for (part, bytes) in bytes.chunks(GRAIN * size).enumerate() {
        let mut values = number::widen(bytes, from);
        if let Some((start, period)) = doubled {
            for (i, value) in values.iter_mut().enumerate() {
                if (part * GRAIN + i) % period >= start {
                    *value *= 2.0;
                }
            }
        }
        put_values(entry, &values, to, put)?;
    }
    Ok(())
}

fn put_values(
    entry: &Entry,
    values: &[f32],
    to: Dtype,
    put: &mut dyn FnMut(&[u8]) -> Result<(), ConvertError>,
) -> Result<(), ConvertError> {
    for part in values.chunks(GRAIN) {
        let narrow = number::narrow(part, to).ok_or_else(|| ConvertError::Overflow {
            tensor: entry.target.clone(),
            dtype: format!("{to:?}").to_lowercase(),
        })?;
        put(&narrow)?;
    }
    Ok(())
}
