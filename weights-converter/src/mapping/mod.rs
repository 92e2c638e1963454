//! From the names of each source format to diffusers' names: one table per format.

pub mod diffusers;
pub mod ldm_vae;
pub mod open_clip;
pub mod vgen_unet;

/// How a tensor changes on its way.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Transform {
    /// Not at all.
    Copy,
    /// A 1-tap convolution becomes a linear layer: `[o, i, 1…]` to `[o, i]`.
    Squeeze,
    /// One of `of` equal blocks of rows: `[of·n, …]` to `[n, …]`.
    Rows {
        /// Which, from 0.
        part: usize,
        /// Of how many.
        of: usize,
    },
    /// `[a, b]` to `[b, a]`.
    Transpose,
    /// Input channels of a convolution from `from` on are doubled (the authors' concat gain).
    DoubleInputs {
        /// The first doubled channel.
        from: usize,
    },
}

/// What becomes of one source tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Mapped {
    /// It gives these target tensors.
    To(Vec<(String, Transform)>),
    /// Known, and not needed.
    Ignored,
    /// Not a name of this format.
    Foreign,
}

impl Mapped {
    pub(crate) fn one(key: impl Into<String>, transform: Transform) -> Self {
        Self::To(vec![(key.into(), transform)])
    }
}

/// Replaces the first matching prefix of `table`.
pub(crate) fn replace_prefix(table: &[(&str, &str)], key: &str) -> Option<String> {
    table
        .iter()
        .find_map(|(from, to)| key.strip_prefix(from).map(|rest| format!("{to}{rest}")))
}

/// Splits `12.rest` into 12 and `rest`.
pub(crate) fn index(key: &str) -> Option<(usize, &str)> {
    let (number, rest) = key.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

impl Transform {
    /// The shape after the change, if the change fits the shape before.
    pub fn shape(self, shape: &[usize]) -> Option<Vec<usize>> {
        match self {
            Self::Copy => Some(shape.to_vec()),
            Self::Squeeze => {
                let [o, i, taps @ ..] = shape else {
                    return None;
                };
                taps.iter().all(|n| *n == 1).then(|| vec![*o, *i])
            }
            Self::Rows { part, of } => {
                let (rows, rest) = shape.split_first()?;
                (rows % of == 0 && part < of).then(|| [&[rows / of], rest].concat())
            }
            Self::Transpose => match shape {
                [a, b] => Some(vec![*b, *a]),
                _ => None,
            },
            Self::DoubleInputs { from } => {
                (shape.len() == 4 && shape[1] > from).then(|| shape.to_vec())
            }
        }
    }

    /// Moves the elements of `size` bytes each; doubling is left to the caller, who knows the number format.
    pub(crate) fn apply(self, bytes: Vec<u8>, shape: &[usize], size: usize) -> Vec<u8> {
        match self {
            Self::Rows { part, of } => {
                let len = bytes.len() / of;
                bytes[part * len..(part + 1) * len].to_vec()
            }
            Self::Transpose => {
                let (rows, columns) = (shape[0], shape[1]);
                let mut out = Vec::with_capacity(bytes.len());
                for column in 0..columns {
                    for row in 0..rows {
                        let at = (row * columns + column) * size;
                        out.extend_from_slice(&bytes[at..at + size]);
                    }
                }
                out
            }
            Self::Copy | Self::Squeeze | Self::DoubleInputs { .. } => bytes,
        }
    }
}
