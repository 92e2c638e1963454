//! `scale · up · down`, computed when it is added.

use crate::{ConvertError, SourceTensor, number};

/// What one LoRA adds to one weight.
#[derive(Clone, Debug)]
pub struct Delta {
    /// The layer, for messages.
    pub(crate) name: String,
    /// `[rank, in, …]`.
    pub(crate) down: SourceTensor,
    /// `[out, rank, 1…]`.
    pub(crate) up: SourceTensor,
    /// Which of how many equal blocks of rows of `up` is meant.
    pub(crate) rows: (usize, usize),
    /// Strength times alpha over rank.
    pub(crate) scale: f32,
}

impl Delta {
    /// Whether the matrices fit a weight of this shape.
    pub(crate) fn check(&self, target: &str, shape: &[usize]) -> Result<(), String> {
        let (up, down) = (&self.up.shape, &self.down.shape);
        let floats = [&self.up, &self.down].map(|t| number::size(t.dtype).is_some());
        let fits = match (up.as_slice(), down.as_slice()) {
            ([out, rank, taps @ ..], [r, rest @ ..]) => {
                // Without a rank there are no values, and then the other sizes may be anything.
                let columns = rest.iter().try_fold(1_usize, |n, d| n.checked_mul(*d));
                rank == r
                    && *rank > 0
                    && taps.iter().all(|n| *n == 1)
                    && shape.first().map(|n| n * self.rows.1) == Some(*out)
                    && Some(shape[1..].iter().product::<usize>()) == columns
            }
            _ => false,
        };
        if fits && floats == [true, true] && self.scale.is_finite() {
            return Ok(());
        }
        let name = &self.name;
        Err(format!(
            "layer '{name}' (up {up:?}, down {down:?}, {:?}) does not fit '{target}' {shape:?}; it was trained for another model",
            self.up.dtype
        ))
    }

    /// Adds it to the weight's values, which are in row-major order.
    ///
    /// # Errors
    /// If the file is damaged or unreadable.
    pub fn add_to(&self, values: &mut [f32]) -> Result<(), ConvertError> {
        let read = |tensor: &SourceTensor| match tensor.read() {
            Ok(bytes) => Ok(number::widen(&bytes, tensor.dtype)),
            Err(e) => Err(ConvertError::Damaged {
                tensor: self.name.clone(),
                reason: e.to_string(),
            }),
        };
        let (up, down) = (read(&self.up)?, read(&self.down)?);
        let rank = self.down.shape[0];
        let columns = down.len() / rank;
        if columns == 0 || !values.len().is_multiple_of(columns) {
            return Ok(());
        }
        let rows = values.len() / columns;
        let up = &up[self.rows.0 * rows * rank..];
        let mut sum = vec![0.0; columns];
        for (row, out) in values.chunks_exact_mut(columns).enumerate() {
            sum.fill(0.0);
            for (up, down) in up[row * rank..(row + 1) * rank]
                .iter()
                .zip(down.chunks_exact(columns))
            {
                for (sum, down) in sum.iter_mut().zip(down) {
                    *sum += up * down;
                }
            }
            for (out, sum) in out.iter_mut().zip(&sum) {
                *out += self.scale * sum;
            }
        }
        Ok(())
    }
}
