//! The engine: Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998), seeded as torch and NumPy's `RandomState` do.

const N: usize = 624;
const M: usize = 397;

#[derive(Clone)]
pub(crate) struct Mt19937 {
    state: [u32; N],
    next: usize,
}

impl Mt19937 {
    /// Uses the low 32 bits of the seed only, like torch.
    pub(crate) fn new(seed: u64) -> Self {
        let mut state = [0u32; N];
        state[0] = seed as u32;
        for j in 1..N {
            let previous = state[j - 1];
            state[j] = 1_812_433_253u32
                .wrapping_mul(previous ^ (previous >> 30))
                .wrapping_add(j as u32);
        }
        Self { state, next: N }
    }

    pub(crate) fn u32(&mut self) -> u32 {
        if self.next == N {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// Two words, the high one first.
    pub(crate) fn u64(&mut self) -> u64 {
        let high = u64::from(self.u32());
        (high << 32) | u64::from(self.u32())
    }

    /// 24 random bits in `[0, 1)`.
    pub(crate) fn uniform_f32(&mut self) -> f32 {
        const ONE: u32 = 1 << 24;
        (self.u32() & (ONE - 1)) as f32 / ONE as f32
    }

    /// 53 random bits in `[0, 1)`.
    pub(crate) fn uniform_f64(&mut self) -> f64 {
        const ONE: u64 = 1 << 53;
        (self.u64() & (ONE - 1)) as f64 / ONE as f64
    }

    fn twist(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }
}
