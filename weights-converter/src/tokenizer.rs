//! The published CLIP tokenizer, for checkpoints that come without one (reference: `clip.md` §4).

use std::io::Read;

use serde_json::{Map, Value, json};

/// The byte-pair merges of OpenAI's CLIP (MIT licence), in order, one `a b` per line.
const MERGES: &[u8] = include_bytes!("clip_merges.gz");

const BOS: &str = "<|startoftext|>";
const EOS: &str = "<|endoftext|>";

/// Entries of the vocabulary.
pub(crate) const VOCABULARY: usize = 49408;

/// The files of the published tokenizer folder: name and content.
///
/// # Errors
/// If the embedded vocabulary cannot be unpacked.
pub fn files() -> std::io::Result<Vec<(&'static str, Vec<u8>)>> {
    let mut merges = String::new();
    flate2::read::GzDecoder::new(MERGES).read_to_string(&mut merges)?;
    let bytes: Vec<String> = byte_symbols().map(String::from).collect();
    let ends = bytes.iter().map(|symbol| format!("{symbol}</w>"));
    let merged = merges.lines().map(|line| line.replace(' ', ""));
    let special = [BOS, EOS].map(str::to_owned);
    let tokens = bytes.iter().cloned().chain(ends).chain(merged);
    let vocabulary: Map<String, Value> =
        tokens.chain(special).zip((0..).map(Value::from)).collect();
    let config = json!({
        "add_prefix_space": false,
        "bos_token": BOS,
        "do_lower_case": true,
        "eos_token": EOS,
        "errors": "replace",
        "model_max_length": 77,
        "pad_token": EOS,
        "tokenizer_class": "CLIPTokenizer",
        "unk_token": EOS,
    });
    let special = json!({ "bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "unk_token": EOS });
    let text = |value: Value| format!("{value:#}\n").into_bytes();
    Ok(vec![
        (
            "merges.txt",
            format!("#version: 0.2\n{merges}").into_bytes(),
        ),
        ("special_tokens_map.json", text(special)),
        ("tokenizer_config.json", text(config)),
        (
            "vocab.json",
            Value::Object(vocabulary).to_string().into_bytes(),
        ),
    ])
}

/// One character per byte: printable bytes first, as themselves, then the others from code point 256 on.
fn byte_symbols() -> impl Iterator<Item = char> {
    let printable = (33..=126).chain(161..=172).chain(174..=255);
    printable
        .chain(256..324)
        .filter_map(|code: u32| char::from_u32(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vocabulary_has_every_id_once() {
        let files = files().unwrap();
        let vocabulary: Map<String, Value> = serde_json::from_slice(&files[3].1).unwrap();
        assert_eq!(vocabulary.len(), VOCABULARY);
        let mut ids: Vec<u64> = vocabulary.values().map(|v| v.as_u64().unwrap()).collect();
        ids.sort_unstable();
        assert!(ids.into_iter().eq(0..VOCABULARY as u64));
        // Known ids: reference/tokenizer_vectors.json and OpenAI's own.
        for (token, id) in [
            ("!", 0),
            ("!</w>", 256),
            ("papers</w>", 8204),
            ("the</w>", 518),
            (EOS, 49407),
        ] {
            assert_eq!(vocabulary[token], id, "{token}");
        }
    }
}
