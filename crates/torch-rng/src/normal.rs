//! Box-Muller over blocks of 16, with the f32 `ln`, `sin` and `cos` that torch's AVX2 kernels use.
//!
//! Those are the Cephes single-precision polynomials; which products are fused with the following sum is a property of
//! torch's binaries and decides the last bits. `f32::mul_add` rounds once on every machine, so the bits do not depend on it.

pub(crate) const BLOCK: usize = 16;
const HALF: usize = BLOCK / 2;

/// Turns 16 uniforms into 16 normals: value j gives the radius, value j + 8 the angle.
pub(crate) fn block_f32(d: &mut [f32]) {
    for j in 0..HALF {
        let radius = (-2.0 * ln(1.0 - d[j])).sqrt();
        let (sin, cos) = sin_cos(std::f32::consts::TAU * d[j + HALF]);
        d[j] = radius * cos;
        d[j + HALF] = radius * sin;
    }
}

/// The same in f64, where torch calls the C library.
pub(crate) fn block_f64(d: &mut [f64]) {
    for j in 0..HALF {
        let radius = (-2.0 * (1.0 - d[j]).ln()).sqrt();
        let angle = std::f64::consts::TAU * d[j + HALF];
        d[j] = radius * angle.cos();
        d[j + HALF] = radius * angle.sin();
    }
}

/// Natural logarithm of a positive normal number.
#[allow(clippy::excessive_precision)] // digits as in Cephes
fn ln(x: f32) -> f32 {
    let bits = x.max(f32::MIN_POSITIVE).to_bits();
    // x = m * 2^e with m in [0.5, 1)
    let mut e = ((bits >> 23) as i32 - 126) as f32;
    let mut m = f32::from_bits((bits & 0x007f_ffff) | 0x3f00_0000);
    if m < std::f32::consts::FRAC_1_SQRT_2 {
        e -= 1.0;
        m = (m - 1.0) + m;
    } else {
        m -= 1.0;
    }
    let z = m * m;
    let p = [
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    ]
    .into_iter()
    .fold(7.0376836292e-2f32, |p, c| p.mul_add(m, c));
    let p = (p * m).mul_add(z, e * -2.12194440e-4);
    let p = (-z).mul_add(0.5, p);
    e.mul_add(0.693359375, m + p)
}

/// Sine and cosine of an angle in `[0, 2π)`.
#[allow(clippy::excessive_precision)] // digits as in Cephes
fn sin_cos(angle: f32) -> (f32, f32) {
    // The nearest even multiple of π/4 below or above, subtracted in three parts.
    let k = ((angle * 1.27323954473516) as i32 + 1) & !1;
    let y = k as f32;
    let x = y.mul_add(-0.78515625, angle);
    let x = y.mul_add(-2.4187564849853515625e-4, x);
    let x = y.mul_add(-3.77489497744594108e-8, x);
    let z = x * x;

    let c = z.mul_add(2.443315711809948e-5, -1.388731625493765e-3);
    let c = c.mul_add(z, 4.166664568298827e-2) * z;
    let c = c.mul_add(z, -(z * 0.5)) + 1.0;

    let s = z.mul_add(-1.9515295891e-4, 8.3321608736e-3);
    let s = s.mul_add(z, -1.6666654611e-1) * z;
    let s = s.mul_add(x, x);

    let (sin, cos) = if k & 2 == 0 { (s, c) } else { (c, s) };
    (
        if k & 4 != 0 { -sin } else { sin },
        if (k - 2) & 4 == 0 { -cos } else { cos },
    )
}
