//! Matrices as tiles of bf16, as many for each as keep all of its bits: high, middle and low part.

use std::arch::x86_64::*;

use burn::tensor::{bf16, f16};
use bytemuck::Pod;

use super::{PANEL, PART, PARTS, STEP};

/// A number that is the sum of one, two or three bf16.
pub(in crate::flex) trait Value: Pod + Sync {
    const PARTS: usize;
}

impl Value for f32 {
    const PARTS: usize = 3;
}

/// 11 significant bits.
impl Value for f16 {
    const PARTS: usize = 2;
}

impl Value for bf16 {
    const PARTS: usize = 1;
}

/// The first `count` of 32 numbers, or fewer with zeros after them, in bf16 parts; those that a value lacks are zero.
///
/// # Safety
/// There are `count` numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn load<T: Value>(numbers: *const T, count: usize) -> [__m512i; 3] {
    let mask = u32::MAX.checked_shr(32 - count as u32).unwrap_or(0);
    let zero = _mm512_setzero_si512();
    // SAFETY: the masks leave out what is beyond the end.
    unsafe {
        match T::PARTS {
            3 => {
                let numbers = numbers.cast::<f32>();
                split(
                    _mm512_maskz_loadu_ps(mask as u16, numbers),
                    _mm512_maskz_loadu_ps((mask >> 16) as u16, numbers.wrapping_add(16)),
                )
            }
            2 => {
                let x = _mm512_maskz_loadu_epi16(mask, numbers.cast());
                let a = _mm512_cvtph_ps(_mm512_castsi512_si256(x));
                let b = _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(x));
                let (high, [a, b]) = take(a, b);
                [high, take(a, b).0, zero]
            }
            _ => [_mm512_maskz_loadu_epi16(mask, numbers.cast()), zero, zero],
        }
    }
}

/// 32 numbers in three bf16 each: high, middle, low.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn split(a: __m512, b: __m512) -> [__m512i; 3] {
    let (high, [a, b]) = take(a, b);
    let (middle, [a, b]) = take(a, b);
    [high, middle, take(a, b).0]
}

/// 32 numbers in bf16, and what is left of them.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn take(a: __m512, b: __m512) -> (__m512i, [__m512; 2]) {
    // A bf16 is the upper half of an f32.
    let widen = |x: __m512i| {
        let low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(x));
        let high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64::<1>(x));
        [low, high].map(|x| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x)))
    };
    // SAFETY: both are 512 bits without invalid values.
    let high = unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(b, a)) };
    let [c, d] = widen(high);
    (high, [_mm512_sub_ps(a, c), _mm512_sub_ps(b, d)])
}

/// Packs `count` rows as left operands: per panel and step, the parts of two tiles of 16 rows × 32.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn pack_rows<X: Value>(
    count: usize,
    depth: usize,
    fill: &dyn Fn(usize, &mut [X]),
) -> Vec<u16> {
    let steps = depth.div_ceil(STEP);
    let mut packed = vec![0; count.div_ceil(PANEL) * steps * X::PARTS * PART];
    let mut row = [X::zeroed(); PARTS * STEP];
    for i in 0..count {
        fill(i, &mut row[..depth]);
        let panel = &mut packed[i / PANEL * steps * X::PARTS * PART..];
        for (step, part) in row[..steps * STEP].chunks_exact(STEP).enumerate() {
            let place = step * X::PARTS * PART + i % PANEL * STEP;
            // SAFETY: a part has 32 numbers.
            let parts = unsafe { load(part.as_ptr(), STEP) };
            for (t, part) in parts.into_iter().take(X::PARTS).enumerate() {
                let place = &mut panel[place + t * PART..][..STEP];
                // SAFETY: the place has 32 numbers of 16 bits.
                unsafe { _mm512_storeu_si512(place.as_mut_ptr().cast(), part) };
            }
        }
    }
    packed
}

/// Packs up to 32 columns, which are the rows of `weight` (`k` apart), as right operands: per step, the parts of two
/// tiles of 16 pairs × 16 columns. Tells whether any low part is not zero: those of an f32 that comes from a file in half
/// precision all are.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn pack_columns<W: Value>(
    packed: &mut [u16],
    weight: &[W],
    k: usize,
    start: usize,
    depth: usize,
) -> bool {
    let count = weight.len() / k;
    let mut low = _mm512_setzero_si512();
    for (step, packed) in packed.chunks_exact_mut(W::PARTS * PART).enumerate() {
        let first = start + step * STEP;
        let len = STEP.min(start + depth - first);
        for half in 0..2 {
            let mut tiles = [[_mm512_setzero_si512(); 16]; 3];
            for i in 0..16.min(count.saturating_sub(16 * half)) {
                let part = weight[(16 * half + i) * k + first..][..len].as_ptr();
                // SAFETY: the part has as many numbers.
                let parts = unsafe { load(part, len) };
                low = _mm512_or_si512(low, parts[2]);
                for (tile, part) in tiles.iter_mut().zip(parts) {
                    tile[i] = part;
                }
            }
            for (t, tile) in tiles.into_iter().take(W::PARTS).enumerate() {
                let place = &mut packed[(2 * t + half) * 16 * STEP..][..16 * STEP];
                for (line, place) in transpose(tile)
                    .into_iter()
                    .zip(place.chunks_exact_mut(STEP))
                {
                    // SAFETY: the place has 32 numbers of 16 bits.
                    unsafe { _mm512_storeu_si512(place.as_mut_ptr().cast(), line) };
                }
            }
        }
    }
    _mm512_test_epi32_mask(low, low) != 0
}

/// Transposes 16 × 16 numbers of 32 bits.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(x: [__m512i; 16]) -> [__m512i; 16] {
    let zero = _mm512_setzero_si512();
    // Within the four quarters of the registers: 4 × 4 transpositions of groups of four rows.
    let mut y = [zero; 16];
    for i in 0..4 {
        let [a, b, c, d] = [x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]];
        let (p, q) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (r, s) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        y[4 * i] = _mm512_unpacklo_epi64(p, r);
        y[4 * i + 1] = _mm512_unpackhi_epi64(p, r);
        y[4 * i + 2] = _mm512_unpacklo_epi64(q, s);
        y[4 * i + 3] = _mm512_unpackhi_epi64(q, s);
    }
    // Then the quarters themselves.
    let mut z = [zero; 16];
    for j in 0..4 {
        let [a, b, c, d] = [y[j], y[4 + j], y[8 + j], y[12 + j]];
        let (p, q) = (
            _mm512_shuffle_i32x4::<0x88>(a, b),
            _mm512_shuffle_i32x4::<0xdd>(a, b),
        );
        let (r, s) = (
            _mm512_shuffle_i32x4::<0x88>(c, d),
            _mm512_shuffle_i32x4::<0xdd>(c, d),
        );
        z[j] = _mm512_shuffle_i32x4::<0x88>(p, r);
        z[8 + j] = _mm512_shuffle_i32x4::<0xdd>(p, r);
        z[4 + j] = _mm512_shuffle_i32x4::<0x88>(q, s);
        z[12 + j] = _mm512_shuffle_i32x4::<0xdd>(q, s);
    }
    z
}
