//! The tensors in a pickle, and whether anything is among them that should not be.

use std::{borrow::Cow, collections::BTreeMap};

use super::pickle::{Id, Pickle, Tensor, Value};
use crate::source::MAX_NAME;

/// Checkpoints nest less than ten deep; what contains itself nests without end.
const MAX_DEPTH: usize = 100;

/// Values looked at. Shared containers are looked at wherever they appear.
const MAX_VISITS: usize = 1 << 21;

/// Tensors in a file. This model's checkpoints have up to 1,600, with an optimiser three times as many.
const MAX_TENSORS: usize = 1 << 16;

/// Tensors with their names.
pub(crate) type Tensors = Vec<(String, Tensor)>;

/// The tensors under the top-level key `state_dict`, or all; and that key, if it is used. `None` if the root is no dictionary.
///
/// Names are the keys on the way, joined with dots. Objects beside a `state_dict` are of no interest, inside it they are an error.
pub(crate) fn tensors(pickle: &Pickle) -> Result<Option<(Option<&'static str>, Tensors)>, String> {
    let Value::Dict(top) = pickle.value(pickle.root()) else {
        return Ok(None);
    };
    let named = |id: Id| matches!(pickle.value(id), Value::Text(text) if text == "state_dict");
    let inner = top.iter().rev().find(|(key, _)| named(*key));
    let inner = inner.filter(|(_, value)| matches!(pickle.value(*value), Value::Dict(_)));
    if let Some((_, value)) = inner {
        let found = walked(pickle, *value)?;
        if !found.is_empty() {
            return Ok(Some((Some("state_dict"), found)));
        }
    }
    Ok(Some((None, walked(pickle, pickle.root())?)))
}

fn walked(pickle: &Pickle, root: Id) -> Result<Tensors, String> {
    let mut walk = Walk {
        pickle,
        visits: 0,
        found: Vec::new(),
    };
    walk.visit(root, "", 0)?;
    let mut found = walk.found;
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    match found.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(format!("two of its tensors are called '{}'", pair[0].0)),
        None => Ok(found),
    }
}

struct Walk<'a> {
    pickle: &'a Pickle,
    visits: usize,
    found: Tensors,
}

impl Walk<'_> {
    fn visit(&mut self, id: Id, name: &str, depth: usize) -> Result<(), String> {
        self.visits += 1;
        if depth > MAX_DEPTH || self.visits > MAX_VISITS {
            return Err("its containers contain themselves, or nest too deeply".into());
        }
        match self.pickle.value(id) {
            Value::Tensor(_) if self.found.len() == MAX_TENSORS => {
                return Err("it has too many tensors".into());
            }
            Value::Tensor(tensor) => self.found.push((name.to_owned(), tensor.clone())),
            Value::Dict(entries) => {
                self.visits += entries.len();
                // As in Python, the last of several values under one key counts.
                let mut last = BTreeMap::new();
                for (key, value) in entries {
                    let (text, number) = match self.pickle.value(*key) {
                        Value::Text(text) if text.len() > MAX_NAME => {
                            return Err("a name in it is too long".into());
                        }
                        Value::Text(text) => (Cow::Borrowed(text.as_str()), false),
                        Value::Number(n) => (Cow::Owned(n.to_string()), true),
                        _ => return Err(format!("a key under '{name}' is not a string")),
                    };
                    if let Some((_, other)) = last.insert(text.clone(), (*value, number))
                        && other != number
                    {
                        return Err(format!("'{name}' has the key '{text}' as text and number"));
                    }
                }
                for (key, (value, _)) in last {
                    self.enter(value, name, &key, depth)?;
                }
            }
            Value::Sequence(items) => {
                for (i, item) in items.iter().enumerate() {
                    self.enter(*item, name, &i.to_string(), depth)?;
                }
            }
            Value::Object(what) => {
                return Err(format!(
                    "'{name}' is an object of {what}; only tensors in plain containers are read"
                ));
            }
            Value::Name(what) => return Err(format!("'{name}' is {what}, not a tensor")),
            Value::Storage(..) => return Err(format!("'{name}' is a storage, not a tensor")),
            Value::Text(_) | Value::Number(_) | Value::Blank => {}
        }
        Ok(())
    }

    fn enter(&mut self, id: Id, name: &str, key: &str, depth: usize) -> Result<(), String> {
        let dot = if depth == 0 { "" } else { "." };
        let name = format!("{name}{dot}{key}");
        if name.len() > MAX_NAME {
            return Err("a name in it is too long".into());
        }
        self.visit(id, &name, depth + 1)
    }
}
