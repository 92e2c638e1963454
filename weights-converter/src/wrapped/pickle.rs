//! A pickle as data: containers, strings and tensors are understood, everything else is a blank. Nothing is ever called.

use std::collections::HashMap;

use safetensors::Dtype;

/// A tensor of a `state_dict`: a view of a storage, in elements.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) dtype: Dtype,
    pub(crate) storage: String,
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

type Id = usize;

#[derive(Clone, Debug)]
enum Value {
    Text(String),
    Number(i64),
    Sequence(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Name(String),
    Storage(Option<Dtype>, String),
    Tensor(Tensor),
    /// Something of no interest, with what it is.
    Blank(String),
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
}

type Step<T> = Option<T>;

impl Pickle {
    /// Reads a pickle of any protocol.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut machine = Machine {
            bytes,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        let root = machine.run().ok_or("its data.pkl is damaged")?;
        Ok(Self {
            values: machine.values,
            root,
        })
    }

    /// The tensors under the top-level key `state_dict`.
    pub(crate) fn state_dict(&self) -> Result<Vec<(String, Tensor)>, String> {
        let entries = |id: Id| match &self.values[id] {
            Value::Dict(entries) => Some(entries),
            _ => None,
        };
        let text = |id: Id| match &self.values[id] {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        };
        let top = entries(self.root).ok_or("it is not a dictionary")?;
        let inner = top
            .iter()
            .rev()
            .find(|(key, _)| text(*key) == Some("state_dict"));
        let inner = inner
            .and_then(|(_, value)| entries(*value))
            .ok_or("it has no state_dict")?;
        let mut tensors = Vec::new();
        for (key, value) in inner {
            let Some(key) = text(*key) else {
                return Err("a key of its state_dict is not a string".into());
            };
            match &self.values[*value] {
                Value::Tensor(tensor) => tensors.push((key.to_owned(), tensor.clone())),
                Value::Blank(what) => return Err(format!("'{key}' is a {what}, not a tensor")),
                _ => return Err(format!("'{key}' is not a tensor")),
            }
        }
        Ok(tensors)
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

    fn blank(&mut self, what: &str) {
        self.push(Value::Blank(what.to_owned()));
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
                b'N' => self.blank("None"),
                0x88 | 0x89 => self.blank("bool"),
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
                        true => self.blank("int"),
                        false => self.push(Value::Number(n)),
                    }
                }
                0x8b => {
                    self.counted(4)?;
                    self.blank("int");
                }
                b'I' | b'L' => {
                    let line = self.line()?;
                    match line.trim_end_matches('L').parse() {
                        Ok(n) => self.push(Value::Number(n)),
                        Err(_) => self.blank("int"),
                    }
                }
                b'G' => {
                    self.take(8)?;
                    self.blank("float");
                }
                b'F' => {
                    self.line()?;
                    self.blank("float");
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
                    self.blank("bytes");
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
                    let name = format!("{}.{}", self.line()?, self.line()?);
                    self.push(Value::Name(name));
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    match (&self.values[module], &self.values[name]) {
                        (Value::Text(module), Value::Text(name)) => {
                            let name = format!("{module}.{name}");
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
                    self.blank(&what);
                }
                b'i' => {
                    let what = format!("{}.{}", self.line()?, self.line()?);
                    self.pop_mark()?;
                    self.blank(&what);
                }
                b'o' => {
                    let items = self.pop_mark()?;
                    let what = self.name(*items.first()?);
                    self.blank(&what);
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
                    self.blank("persistent object");
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
            Err(_) if matches!(op, b'U' | b'T') => self.blank("bytes"),
            Err(_) => return None,
        }
        Some(())
    }

    fn name(&self, id: Id) -> String {
        match &self.values[id] {
            Value::Name(name) | Value::Blank(name) => name.clone(),
            _ => "object".to_owned(),
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

    /// What the few known functions give; any other call is a blank.
    fn called(&self, callable: Id, arguments: Id) -> Value {
        let name = self.name(callable);
        let arguments = self.sequence(arguments).unwrap_or_default();
        let known = match name.as_str() {
            "collections.OrderedDict" => Some(Value::Dict(Vec::new())),
            "torch._utils._rebuild_tensor_v2" => self.tensor(arguments),
            "torch._utils._rebuild_parameter" => {
                arguments.first().map(|data| self.values[*data].clone())
            }
            _ => None,
        };
        known.unwrap_or(Value::Blank(name))
    }

    fn tensor(&self, arguments: &[Id]) -> Step<Value> {
        let [storage, offset, shape, stride, ..] = arguments else {
            return None;
        };
        let (Value::Storage(Some(dtype), key), Value::Number(offset)) =
            (&self.values[*storage], &self.values[*offset])
        else {
            return None;
        };
        let (shape, stride) = (self.sizes(*shape)?, self.sizes(*stride)?);
        (shape.len() == stride.len()).then(|| {
            Some(Value::Tensor(Tensor {
                dtype: *dtype,
                storage: key.clone(),
                offset: usize::try_from(*offset).ok()?,
                shape,
                stride,
            }))
        })?
    }

    /// `("storage", torch.FloatStorage, key, device, count)`.
    fn storage(&self, id: Id) -> Value {
        let blank = Value::Blank("persistent object".to_owned());
        let Some([_, class, key, ..]) = self.sequence(id) else {
            return blank;
        };
        let Value::Text(key) = &self.values[*key] else {
            return blank;
        };
        let dtype = match self.name(*class).as_str() {
            "torch.DoubleStorage" => Some(Dtype::F64),
            "torch.FloatStorage" => Some(Dtype::F32),
            "torch.HalfStorage" => Some(Dtype::F16),
            "torch.BFloat16Storage" => Some(Dtype::BF16),
            "torch.LongStorage" => Some(Dtype::I64),
            "torch.IntStorage" => Some(Dtype::I32),
            "torch.ShortStorage" => Some(Dtype::I16),
            "torch.CharStorage" => Some(Dtype::I8),
            "torch.ByteStorage" => Some(Dtype::U8),
            "torch.BoolStorage" => Some(Dtype::BOOL),
            _ => None,
        };
        Value::Storage(dtype, key.clone())
    }
}
