//! `torch.Generator("cpu")`: one stream of words shared by every kind of draw.

use std::fmt;

use crate::{
    half::{bf16_bits, f16_bits},
    mt19937::Mt19937,
    normal::{BLOCK, block_f32, block_f64},
};

/// torch's CPU generator. Clone it to keep a state to return to.
#[derive(Clone)]
pub struct Generator {
    engine: Mt19937,
    seed: u64,
    /// The second normal of a pair, kept for the next draw of fewer than 16 values.
    spare: Option<f64>,
}

impl Generator {
    /// A generator seeded as by `torch.manual_seed(seed)`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            engine: Mt19937::new(seed),
            seed,
            spare: None,
        }
    }

    /// Starts over with another seed. Seeds that agree in their low 32 bits give the same numbers, as in torch.
    pub fn manual_seed(&mut self, seed: u64) {
        *self = Self::new(seed);
    }

    /// The seed last set: `initial_seed()` in torch.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// `torch.randn(n)`: n values of the standard normal distribution.
    pub fn randn_f32(&mut self, n: usize) -> Vec<f32> {
        if n < BLOCK {
            return self.short(n, |x| x as f32);
        }
        let mut out = self.rand_f32(n);
        out.chunks_exact_mut(BLOCK).for_each(block_f32);
        if !n.is_multiple_of(BLOCK) {
            // The last 16 values are drawn anew, over those that already are normal.
            let tail = &mut out[n - BLOCK..];
            tail.fill_with(|| self.engine.uniform_f32());
            block_f32(tail);
        }
        out
    }

    /// `torch.randn(n, dtype=torch.float64)`.
    pub fn randn_f64(&mut self, n: usize) -> Vec<f64> {
        if n < BLOCK {
            return self.short(n, |x| x);
        }
        let mut out = self.rand_f64(n);
        out.chunks_exact_mut(BLOCK).for_each(block_f64);
        if !n.is_multiple_of(BLOCK) {
            let tail = &mut out[n - BLOCK..];
            tail.fill_with(|| self.engine.uniform_f64());
            block_f64(tail);
        }
        out
    }

    /// The bits of `torch.randn(n, dtype=torch.float16)`.
    pub fn randn_f16_bits(&mut self, n: usize) -> Vec<u16> {
        self.randn_half(n, f16_bits)
    }

    /// The bits of `torch.randn(n, dtype=torch.bfloat16)`.
    pub fn randn_bf16_bits(&mut self, n: usize) -> Vec<u16> {
        self.randn_half(n, bf16_bits)
    }

    /// `torch.rand(n)`: n values spread evenly over `[0, 1)`.
    pub fn rand_f32(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.engine.uniform_f32()).collect()
    }

    /// `torch.rand(n, dtype=torch.float64)`.
    pub fn rand_f64(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.engine.uniform_f64()).collect()
    }

    /// The bits of `torch.rand(n, dtype=torch.float16)`.
    pub fn rand_f16_bits(&mut self, n: usize) -> Vec<u16> {
        self.rand_half(n, f16_bits)
    }

    /// The bits of `torch.rand(n, dtype=torch.bfloat16)`.
    pub fn rand_bf16_bits(&mut self, n: usize) -> Vec<u16> {
        self.rand_half(n, bf16_bits)
    }

    /// The f32 values rounded, except that those that would round to 1 become 0: the interval is half-open.
    fn rand_half(&mut self, n: usize, round: fn(f32) -> u16) -> Vec<u16> {
        let one = round(1.0);
        let wrap = |bits| if bits == one { 0 } else { bits };
        (0..n)
            .map(|_| wrap(round(self.engine.uniform_f32())))
            .collect()
    }

    /// Half types are computed in f32, but unlike f32 their words are drawn block by block.
    fn randn_half(&mut self, n: usize, round: fn(f32) -> u16) -> Vec<u16> {
        if n < BLOCK {
            return self.short(n, |x| round(x as f32));
        }
        let mut out = vec![0; n];
        let mut block = [0.0; BLOCK];
        let mut start = 0;
        while start < n {
            block.fill_with(|| self.engine.uniform_f32());
            block_f32(&mut block);
            let at = start.min(n - BLOCK);
            for (bits, value) in out[at..at + BLOCK].iter_mut().zip(block) {
                *bits = round(value);
            }
            start += BLOCK;
        }
        out
    }

    /// Fewer than 16 values: in f64, one pair at a time.
    fn short<T>(&mut self, n: usize, cast: impl Fn(f64) -> T) -> Vec<T> {
        (0..n).map(|_| cast(self.normal())).collect()
    }

    fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let u1 = self.engine.uniform_f64();
        let u2 = self.engine.uniform_f64();
        let radius = (-2.0 * (-u2).ln_1p()).sqrt();
        let angle = std::f64::consts::TAU * u1;
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

impl fmt::Debug for Generator {
    /// Without the 624 words of state.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generator")
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}
