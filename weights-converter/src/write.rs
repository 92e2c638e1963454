//! Streaming safetensors: one tensor in memory at a time.

use std::{fs::File, io::Write, path::Path};

use safetensors::Dtype;
use serde_json::{Map, Value, json};

use crate::{ConvertError, Plan, mapping::Transform, number, plan::Entry};

/// Elements converted at once.
const GRAIN: usize = 1 << 20;

/// Writes a plan as `{stem}.safetensors`, or in shards with an index if it is larger than `shard_size` bytes.
///
/// `progress` is told the bytes written.
///
/// # Errors
/// If a source cannot be read, a value does not fit the format, or the disk is full.
pub(crate) fn write(
    plan: &Plan,
    folder: &Path,
    dtype: Option<Dtype>,
    shard_size: Option<u64>,
    progress: &mut dyn FnMut(u64),
) -> Result<(), ConvertError> {
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
    for entry in entries {
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
        write_file(shard, &folder.join(name), dtype, progress)?;
    }
    if count > 1 {
        let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        write_json(
            &folder.join(format!("{stem}.safetensors.index.json")),
            &index,
        )?;
    }
    Ok(())
}

/// Writes JSON and waits until it is on the disk.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<(), ConvertError> {
    let text = format!("{value:#}\n");
    let mut file = File::create(path).map_err(ConvertError::io(path))?;
    file.write_all(text.as_bytes())
        .map_err(ConvertError::io(path))?;
    file.sync_all().map_err(ConvertError::io(path))
}

fn out_dtype(entry: &Entry, dtype: Option<Dtype>) -> Dtype {
    dtype.unwrap_or(entry.tensor.dtype)
}

fn length(entry: &Entry, dtype: Option<Dtype>) -> u64 {
    let size = number::size(out_dtype(entry, dtype)).unwrap_or(0);
    (entry.shape.iter().product::<usize>() * size) as u64
}

fn write_file(
    entries: &[&Entry],
    path: &Path,
    dtype: Option<Dtype>,
    progress: &mut dyn FnMut(u64),
) -> Result<(), ConvertError> {
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
    let mut file = File::create(path).map_err(ConvertError::io(path))?;
    let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(ConvertError::io(path));
    put(&(header.len() as u64).to_le_bytes())?;
    put(&header)?;
    for entry in entries {
        put_tensor(entry, out_dtype(entry, dtype), &mut put)?;
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
