//! Which names may become part of a path or a URL. Everything that a server or a user says goes through here.

use std::path::Path;

use crate::HubError;

/// Whether the text names a model on the Hub, as in `"ali-vilab/i2vgen-xl"`: `owner/name`, and no existing path.
pub fn is_model_id(text: &str) -> bool {
    is_id(text) && !Path::new(text).exists()
}

pub(crate) fn is_id(text: &str) -> bool {
    matches!(text.split_once('/'), Some((owner, name)) if is_id_part(owner) && is_id_part(name))
        && text.len() <= 96
}

// The cache's folder names write `/` as `--`.
fn is_id_part(text: &str) -> bool {
    is_word(text) && !text.starts_with('-') && !text.contains("--") && !text.ends_with(".git")
}

/// One component of a path that needs no escaping in URLs either.
pub(crate) fn is_word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !text.is_empty() && text.chars().all(plain) && !text.starts_with('.') && !text.ends_with('.')
}

/// A relative path of such components.
pub(crate) fn is_plain_path(text: &str) -> bool {
    text.split('/').all(is_word)
}

/// A relative path, of any letters, that stays inside its folder on every system.
pub(crate) fn stays_inside(text: &str) -> bool {
    !text.contains(['\\', '\0'])
        && !matches!(text.as_bytes(), [_, b':', ..])
        && text.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Refuses what the user cannot mean.
pub(crate) fn check(id: &str, revision: &str, variant: Option<&str>) -> Result<(), HubError> {
    let invalid = |what, value: &str, hint| {
        Err(HubError::Invalid {
            what,
            value: value.to_owned(),
            hint,
        })
    };
    if !is_id(id) {
        return invalid("model name", id, "it looks like 'ali-vilab/i2vgen-xl'");
    }
    if !is_plain_path(revision) {
        return invalid("revision", revision, "give a branch, tag or commit");
    }
    match variant {
        Some(variant) if !is_word(variant) => {
            invalid("variant", variant, "it is a word such as 'fp16'")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_ids() {
        for id in ["ali-vilab/i2vgen-xl", "a/b", "A_1/b.c-d"] {
            assert!(is_model_id(id), "{id}");
        }
        for text in [
            "", "a", "a/", "/a", "a/b/c", "../a", "a/..", "./a", "a b/c", "a/b.git", "a--b/c",
            "-a/b", "a\\b/c", "é/b", "a/b?c", "C:/x",
        ] {
            assert!(!is_model_id(text), "{text}");
        }
        assert!(!is_model_id(&format!("a/{}", "b".repeat(100))));
    }

    #[test]
    fn an_existing_path_is_no_model_id() {
        // Tests run in the crate's folder.
        assert!(is_id("src/names.rs") && !is_model_id("src/names.rs"));
    }

    #[test]
    fn paths_inside() {
        for path in ["a", "a/b.json", ".gitattributes", "a b/ü", "a..b", "x/..."] {
            assert!(stays_inside(path), "{path}");
        }
        for path in [
            "", "/a", "..", "a/../b", "../a", "a//b", "a/", "./a", "a\\..\\b", "C:x", "c:/x", "a\0",
        ] {
            assert!(!stays_inside(path), "{path:?}");
        }
    }
}
