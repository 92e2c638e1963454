//! A pickle as data: containers, strings and tensors are understood, everything else is a blank. Nothing is ever called.

use std::{collections::HashMap, sync::Arc};

use safetensors::Dtype;

/// Values, stack places and memo places. Full training checkpoints have some hundred thousand.
const MAX_VALUES: usize = 1 << 21;

/// Bytes of a class's name or a storage's key.
const MAX_NAME: usize = 512;

/// Axes of a tensor, as in PyTorch.
const MAX_AXES: usize = 64;

/// A tensor: a view of a storage, in elements.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) dtype: Dtype,
    pub(crate) storage: Arc<str>,
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    pub(crate) stride: Vec<usize>,
}

impl Tensor {
    /// One past the last element that it touches.
    pub(crate) fn extent(&self) -> Option<usize> {
        if self.shape.contains(&0) {
            return Some(0);
        }
        let mut axes = self.shape.iter().zip(&self.stride);
        let last = axes.try_fold(self.offset, |sum, (n, s)| {
            sum.checked_add((n - 1).checked_mul(*s)?)
        });
        last?.checked_add(1)
    }
}

/// Number of a value.
pub(crate) type Id = usize;

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Text(String),
    Number(i64),
    Sequence(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A class or function.
    Name(Arc<str>),
    /// Its class, its key, and where it starts in what the key names (early legacy files have views of storages).
    Storage(Arc<str>, Arc<str>, usize),
    Tensor(Tensor),
    /// What a call of an unknown function would give.
    Object(Arc<str>),
    /// A constant of no interest.
    Blank,
}

/// All values of a pickle; containers refer to them by number, so that shared and cyclic ones cost nothing.
pub(crate) struct Pickle {
    values: Vec<Value>,
    root: Id,
}

struct Machine<'a> {
    bytes: &'a [u8],
    values: Vec<Value>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
    /// Entries copied from a list into a dictionary.
    copied: usize,
}

type Step<T> = Option<T>;

impl Pickle {
    /// Reads a pickle of any protocol; also says how many bytes it has.
    pub(crate) fn parse(bytes: &[u8]) -> Result<(Self, usize), String> {
        let mut machine = Machine {
            bytes,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            copied: 0,
        };
        let Some(root) = machine.run() else {
            return Err(match machine.is_full() {
                true => "its pickle is too large".into(),
                false => "its pickle is damaged; download it again".into(),
            });
        };
        let length = bytes.len() - machine.bytes.len();
        let values = machine.values;
        Ok((Self { values, root }, length))
    }

    /// Number of the outermost value.
    pub(crate) fn root(&self) -> Id {
        self.root
    }

    /// A value.
    pub(crate) fn value(&self, id: Id) -> &Value {
        &self.values[id]
    }
}

impl Machine<'_> {
    fn take(&mut self, n: usize) -> Step<&[u8]> {
        let (head, rest) = self.bytes.split_at_checked(n)?;
        self.bytes = rest;
        Some(head)
    }

    /// A little-endian number of `n` bytes.
    fn number(&mut self, n: usize) -> Step<u64> {
        Some(
            self.take(n)?
                .iter()
                .rev()
                .fold(0, |sum, b| sum << 8 | u64::from(*b)),
        )
    }

    /// Bytes after their length, which has `n` bytes.
    fn counted(&mut self, n: usize) -> Step<&[u8]> {
        let length = usize::try_from(self.number(n)?).ok()?;
        self.take(length)
    }

    fn line(&mut self) -> Step<String> {
        let end = self.bytes.iter().position(|b| *b == b'\n')?;
        let line = String::from_utf8(self.take(end)?.to_vec()).ok()?;
        self.take(1)?;
        Some(line)
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn blank(&mut self) {
        self.push(Value::Blank);
    }

    fn object(&mut self, what: Arc<str>) {
        self.push(Value::Object(what));
    }

    fn is_full(&self) -> bool {
        let sizes = [
            self.values.len(),
            self.stack.len(),
            self.marks.len(),
            self.memo.len(),
            self.copied,
        ];
        sizes.into_iter().any(|n| n > MAX_VALUES)
    }

    fn text(&mut self, bytes: Step<Vec<u8>>) -> Step<()> {
        self.push(Value::Text(String::from_utf8(bytes?).ok()?));
        Some(())
    }

    /// Pops, but not below the last mark.
    fn pop(&mut self) -> Step<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        (self.stack.len() > floor).then(|| self.stack.pop())?
    }

    fn pop_mark(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop()?;
        (mark <= self.stack.len()).then(|| self.stack.split_off(mark))
    }

    fn fill(&mut self, items: Vec<Id>) -> Step<()> {
        let target = *self.stack.last()?;
        match &mut self.values[target] {
            Value::Dict(entries) => {
                let (pairs, []) = items.as_chunks::<2>() else {
                    return None;
                };
                entries.extend(pairs.iter().map(|[k, v]| (*k, *v)));
            }
            Value::Sequence(list) => list.extend(items),
            _ => {}
        }
        Some(())
    }

    fn put(&mut self, at: u64) -> Step<()> {
        self.memo.insert(at, *self.stack.last()?);
        Some(())
    }

    fn get(&mut self, at: u64) -> Step<()> {
        self.stack.push(*self.memo.get(&at)?);
        Some(())
    }

    fn run(&mut self) -> Step<Id> {
        loop {
            if self.is_full() {
                return None;
            }
            let op = self.take(1)?[0];
            match op {
                b'.' => return self.stack.last().copied(),
                0x80 => drop(self.take(1)?),
                0x95 => drop(self.take(8)?),
                b'(' => self.marks.push(self.stack.len()),
                b'0' => match self.marks.last() {
                    Some(mark) if *mark == self.stack.len() => drop(self.marks.pop()),
                    _ => drop(self.pop()?),
                },
                b'1' => drop(self.pop_mark()?),
                b'2' => self.stack.push(*self.stack.last()?),
                b'N' => self.blank(),
                0x88 | 0x89 => self.blank(),
                b'J' => {
                    let n = self.number(4)? as u32 as i32;
                    self.push(Value::Number(n.into()));
                }
                b'K' => {
                    let n = self.number(1)? as i64;
                    self.push(Value::Number(n));
                }
                b'M' => {
                    let n = self.number(2)? as i64;
                    self.push(Value::Number(n));
                }
                0x8a => {
                    let bytes = self.counted(1)?;
                    let wide = bytes.len() > 8;
                    let sign = if bytes.last().is_some_and(|b| *b >= 0x80) {
                        -1
                    } else {
                        0
                    };
                    let n = bytes
                        .iter()
                        .rev()
                        .fold(sign, |sum, b| sum << 8 | i64::from(*b));
                    match wide {
                        true => self.blank(),
                        false => self.push(Value::Number(n)),
                    }
                }
                0x8b => {
                    self.counted(4)?;
                    self.blank();
                }
                b'I' | b'L' => {
                    let line = self.line()?;
                    match line.trim_end_matches('L').parse() {
                        Ok(n) => self.push(Value::Number(n)),
                        Err(_) => self.blank(),
                    }
                }
                b'G' => {
                    self.take(8)?;
                    self.blank();
                }
                b'F' => {
                    self.line()?;
                    self.blank();
                }
                0x8c | b'U' => {
                    let bytes = self.counted(1)?.to_vec();
                    self.text_or_bytes(op, bytes)?;
                }
                b'X' | b'T' => {
                    let bytes = self.counted(4)?.to_vec();
                    self.text_or_bytes(op, bytes)?;
                }
                0x8d => {
                    let bytes = self.counted(8).map(<[u8]>::to_vec);
                    self.text(bytes)?;
                }
                b'V' => {
                    let line = self.line()?;
                    self.push(Value::Text(line));
                }
                b'S' => {
                    let line = self.line()?;
                    let inner = line.trim_matches(['\'', '"']).to_owned();
                    self.push(Value::Text(inner));
                }
                b'C' | b'B' | 0x8e | 0x96 => {
                    self.counted(match op {
                        b'C' => 1,
                        b'B' => 4,
                        _ => 8,
                    })?;
                    self.blank();
                }
                b')' | b']' | 0x8f => self.push(Value::Sequence(Vec::new())),
                b'}' => self.push(Value::Dict(Vec::new())),
                b't' | b'l' | 0x91 => {
                    let items = self.pop_mark()?;
                    self.push(Value::Sequence(items));
                }
                b'd' => {
                    let items = self.pop_mark()?;
                    self.push(Value::Dict(Vec::new()));
                    self.fill(items)?;
                }
                0x85..=0x87 => {
                    let mut items = Vec::new();
                    for _ in 0x84..op {
                        items.insert(0, self.pop()?);
                    }
                    self.push(Value::Sequence(items));
                }
                b'a' => {
                    let item = self.pop()?;
                    self.fill(vec![item])?;
                }
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    self.fill(vec![key, value])?;
                }
                b'e' | b'u' | 0x90 => {
                    let items = self.pop_mark()?;
                    self.fill(items)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    let name = full_name(&module, &name)?;
                    self.push(Value::Name(name));
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    match (&self.values[module], &self.values[name]) {
                        (Value::Text(module), Value::Text(name)) => {
                            let name = full_name(module, name)?;
                            self.push(Value::Name(name));
                        }
                        _ => return None,
                    }
                }
                b'R' | 0x81 => {
                    let (arguments, callable) = (self.pop()?, self.pop()?);
                    let value = self.called(callable, arguments);
                    self.push(value);
                }
                0x92 => {
                    self.pop()?;
                    self.pop()?;
                    let class = self.pop()?;
                    let what = self.name(class);
                    self.object(what);
                }
                b'i' => {
                    let (module, name) = (self.line()?, self.line()?);
                    let what = full_name(&module, &name)?;
                    self.pop_mark()?;
                    self.object(what);
                }
                b'o' => {
                    let items = self.pop_mark()?;
                    let what = self.name(*items.first()?);
                    self.object(what);
                }
                // The state of an object: an OrderedDict's attributes, a foreign object's content.
                b'b' => drop(self.pop()?),
                b'Q' => {
                    let id = self.pop()?;
                    let storage = self.storage(id);
                    self.push(storage);
                }
                b'P' => {
                    self.line()?;
                    self.blank();
                }
                b'q' => {
                    let at = self.number(1)?;
                    self.put(at)?;
                }
                b'r' => {
                    let at = self.number(4)?;
                    self.put(at)?;
                }
                0x94 => self.put(self.memo.len() as u64)?,
                b'p' => {
                    let at = self.line()?.parse().ok()?;
                    self.put(at)?;
                }
                b'h' => {
                    let at = self.number(1)?;
                    self.get(at)?;
                }
                b'j' => {
                    let at = self.number(4)?;
                    self.get(at)?;
                }
                b'g' => {
                    let at = self.line()?.parse().ok()?;
                    self.get(at)?;
                }
                _ => return None,
            }
        }
    }

    /// Python 2 wrote text and bytes alike.
    fn text_or_bytes(&mut self, op: u8, bytes: Vec<u8>) -> Step<()> {
        match String::from_utf8(bytes) {
            Ok(text) => self.push(Value::Text(text)),
            Err(_) if matches!(op, b'U' | b'T') => self.blank(),
            Err(_) => return None,
        }
        Some(())
    }

    fn name(&self, id: Id) -> Arc<str> {
        match &self.values[id] {
            Value::Name(name) | Value::Object(name) => name.clone(),
            _ => "an unknown class".into(),
        }
    }

    fn sequence(&self, id: Id) -> Step<&[Id]> {
        match &self.values[id] {
            Value::Sequence(items) => Some(items),
            _ => None,
        }
    }

    fn sizes(&self, id: Id) -> Step<Vec<usize>> {
        let size = |id: &Id| match self.values[*id] {
            Value::Number(n) => usize::try_from(n).ok(),
            _ => None,
        };
        self.sequence(id)?.iter().map(size).collect()
    }

    /// What the few known functions give; nobody knows what any other would.
    fn called(&mut self, callable: Id, arguments: Id) -> Value {
        let name = self.name(callable);
        let items = self.sequence(arguments).unwrap_or_default();
        // A subclass of Tensor: the function that makes the tensor, and what it is given.
        if let ("torch._tensor._rebuild_from_type_v2", [function, _, inner, ..]) = (&*name, items) {
            let inner = self.sequence(*inner).unwrap_or_default();
            return self.rebuilt(&self.name(*function), inner);
        }
        if &*name == "collections.OrderedDict" {
            let list = items.first().and_then(|list| self.sequence(*list));
            let pair = |item: &Id| <[Id; 2]>::try_from(self.sequence(*item)?).ok();
            let pairs = list.unwrap_or_default().iter().map(pair);
            let Some(pairs) = pairs
                .map(|p| p.map(|[k, v]| (k, v)))
                .collect::<Step<Vec<_>>>()
            else {
                return Value::Object(name);
            };
            self.copied += pairs.len();
            return Value::Dict(pairs);
        }
        self.rebuilt(&name, items)
    }

    fn rebuilt(&self, function: &Arc<str>, arguments: &[Id]) -> Value {
        let known = match (&**function, arguments) {
            ("torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2", [storage, ..]) => {
                let class = match &self.values[*storage] {
                    Value::Storage(class, ..) => class.strip_prefix("torch.").and_then(typed),
                    _ => None,
                };
                self.tensor(class, arguments)
            }
            ("torch._utils._rebuild_tensor_v3", [_, _, _, _, _, _, name, ..]) => {
                let name = self.name(*name);
                self.tensor(name.strip_prefix("torch.").and_then(named), arguments)
            }
            (
                "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state",
                [data, ..],
            ) => match &self.values[*data] {
                Value::Tensor(tensor) => Some(Value::Tensor(tensor.clone())),
                _ => None,
            },
            (
                "builtins.set" | "builtins.frozenset" | "__builtin__.set" | "__builtin__.frozenset",
                _,
            ) => Some(Value::Blank),
            _ => None,
        };
        known.unwrap_or_else(|| Value::Object(function.clone()))
    }

    fn tensor(&self, dtype: Option<Dtype>, arguments: &[Id]) -> Step<Value> {
        let [storage, offset, shape, stride, ..] = arguments else {
            return None;
        };
        let (Value::Storage(_, key, start), Value::Number(offset)) =
            (&self.values[*storage], &self.values[*offset])
        else {
            return None;
        };
        let (shape, stride) = (self.sizes(*shape)?, self.sizes(*stride)?);
        if shape.len() != stride.len() || shape.len() > MAX_AXES {
            return None;
        }
        Some(Value::Tensor(Tensor {
            dtype: dtype?,
            storage: key.clone(),
            offset: usize::try_from(*offset).ok()?.checked_add(*start)?,
            shape,
            stride,
        }))
    }

    /// `("storage", torch.FloatStorage, key, device, count)`, in early files with a view `(key, offset, count)` after it.
    fn storage(&self, id: Id) -> Value {
        let blank = Value::Object("an unknown kind of storage".into());
        let Some([_, class, key, _, _, view @ ..]) = self.sequence(id) else {
            return blank;
        };
        let key: Arc<str> = match &self.values[*key] {
            Value::Text(key) if key.len() <= MAX_NAME => key.as_str().into(),
            Value::Number(key) => key.to_string().into(),
            _ => return blank,
        };
        let view = view.first().and_then(|view| self.sequence(*view));
        let start = match view {
            None => Some(0),
            Some([_, start, _]) => match &self.values[*start] {
                Value::Number(start) => usize::try_from(*start).ok(),
                _ => None,
            },
            Some(_) => None,
        };
        start.map_or(blank, |start| Value::Storage(self.name(*class), key, start))
    }
}

fn full_name(module: &str, name: &str) -> Step<Arc<str>> {
    (module.len() + name.len() < MAX_NAME).then(|| format!("{module}.{name}").into())
}

/// The numbers in a typed storage.
fn typed(class: &str) -> Option<Dtype> {
    Some(match class {
        "DoubleStorage" => Dtype::F64,
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        _ => return None,
    })
}

/// The numbers in an untyped storage, of formats that have no typed one.
fn named(dtype: &str) -> Option<Dtype> {
    Some(match dtype {
        "uint16" => Dtype::U16,
        "uint32" => Dtype::U32,
        "uint64" => Dtype::U64,
        _ => return None,
    })
}
