//! f32 to the 16-bit types, rounding to nearest even.

/// The bits of an IEEE half.
pub(crate) fn f16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    sign | match magnitude {
        0x7f80_0001.. => 0x7e00,
        // At 65520 and above the nearest half is infinite.
        0x477f_f000.. => 0x7c00,
        // Normal: rebias the exponent from 127 to 15 and round 13 bits away; a carry moves into the exponent as it should.
        0x3880_0000.. => {
            let odd = (magnitude >> 13) & 1;
            ((magnitude - 0x3800_0000 + 0xfff + odd) >> 13) as u16
        }
        // Subnormal: adding 0.5 puts units of 2^-24 into the last bit, and the addition rounds to nearest even.
        _ => (f32::from_bits(magnitude) + 0.5)
            .to_bits()
            .wrapping_sub(0x3f00_0000) as u16,
    }
}

/// The bits of a bfloat16.
pub(crate) fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return 0x7fc0;
    }
    let odd = (bits >> 16) & 1;
    ((bits + 0x7fff + odd) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_round_to_nearest_even() {
        let cases = [
            (0.0, 0x0000),
            (-0.0, 0x8000),
            (1.0, 0x3c00),
            (1.0 + 1.0 / 2048.0, 0x3c00),  // tie to even
            (1.0 + 3.0 / 2048.0, 0x3c02),  // tie to even
            (-2.0 + 1.0 / 2048.0, 0xc000), // carry into the exponent, tie to even
            (65504.0, 0x7bff),
            (65519.0, 0x7bff),
            (65520.0, 0x7c00),
            (2f32.powi(-14), 0x0400),       // smallest normal
            (2f32.powi(-24), 0x0001),       // smallest subnormal
            (2f32.powi(-25), 0x0000),       // half of it: tie to even
            (3.0 * 2f32.powi(-25), 0x0002), // one and a half of it: tie to even
            (f32::NEG_INFINITY, 0xfc00),
        ];
        for (value, bits) in cases {
            assert_eq!(f16_bits(value), bits, "{value}");
        }
        assert_eq!(bf16_bits(1.0), 0x3f80);
        assert_eq!(bf16_bits(1.0 + 1.0 / 256.0), 0x3f80);
        assert_eq!(bf16_bits(1.0 + 3.0 / 256.0), 0x3f82);
        assert_eq!(bf16_bits(f32::MAX), 0x7f80);
    }
}
