//! Counts parameters, multiply-adds and living values of a forward pass on shapes alone.
//!
//! Everything is counted in `f64`: exact below 2⁵³, and absurd sizes give an absurd estimate rather than an overflow.

/// A tensor that is alive: `n` images (or videos) of `s` positions with `c` channels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Map {
    pub(super) n: f64,
    pub(super) s: f64,
    pub(super) c: f64,
}

impl Map {
    pub(super) fn rows(self) -> f64 {
        self.n * self.s
    }

    pub(super) fn values(self) -> f64 {
        self.rows() * self.c
    }

    /// Its place in [`Classes`].
    pub(super) fn class(self) -> usize {
        class(self.values())
    }
}

/// Amounts of small and of large tensors. The allocator keeps the memory of small ones for others, while that of large
/// ones goes back to the system.
pub(super) type Classes = [f64; 2];

/// What a walk has met so far. A walk mirrors its module's `forward`: an operation makes a [`Map`], which lives until it is
/// given to [`Meter::free`].
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// Values of all weights.
    pub(super) parameters: Classes,
    /// Most values while the weights are loaded in this order.
    pub(super) loading: f64,
    /// Two per multiply-add of convolutions, linear layers and attention; what goes element by element is not counted.
    pub(super) flops: f64,
    /// Values that are alive …
    live: Classes,
    /// … and those that were when they were most.
    pub(super) most: Classes,
    /// Most values of small tensors, which may have been at another moment.
    pub(super) most_small: f64,
    /// Values of the largest weight.
    pub(super) largest_weight: f64,
    /// Values of the largest other tensor.
    pub(super) largest: f64,
}

/// Larger tensors get pages of their own from the system (glibc's largest threshold for that, 32 MiB, in f32).
const LARGE: f64 = (8 << 20) as f64;

/// Patches that a convolution of `kernels` builds at once, in values.
const PATCH_BUDGET: f64 = (2 << 20) as f64;
/// While a weight is read, it is there as often besides itself: in the file's format and being converted.
const LOAD_COPIES: f64 = 1.5;
/// The hidden values of the feed-forward layers of `unet3d`.
#[derive(Clone, Copy)]
pub(super) struct Hidden {
    /// Those that exist at once.
    pub(super) budget: f64,
    /// How many there are for each that a gate gives.
    pub(super) by_gate: f64,
}

impl Hidden {
    pub(super) const OF_CPU: Self = Self {
        budget: (16 << 20) as f64,
        by_gate: 2.0,
    };
}

/// Of both classes.
pub(super) fn total(values: Classes) -> f64 {
    values.iter().sum()
}

fn class(values: f64) -> usize {
    usize::from(values > LARGE)
}

impl Meter {
    pub(super) fn make(&mut self, n: f64, s: f64, c: f64) -> Map {
        let map = Map { n, s, c };
        self.change(map.values(), 1.0);
        map
    }

    pub(super) fn free(&mut self, map: Map) {
        self.change(map.values(), -1.0);
    }

    /// So many tensors of this size more, or fewer.
    fn change(&mut self, values: f64, count: f64) {
        let class = class(values);
        self.live[class] += count * values;
        self.largest = self.largest.max(values);
        self.reached(self.live);
    }

    /// So much was alive at once.
    fn reached(&mut self, live: Classes) {
        self.most_small = self.most_small.max(live[0]);
        if total(live) > total(self.most) {
            self.most = live;
        }
    }

    /// A weight.
    pub(super) fn own(&mut self, values: f64) {
        self.parameters[class(values)] += values;
        self.largest_weight = self.largest_weight.max(values);
        let now = total(self.parameters) + LOAD_COPIES * values;
        self.loading = self.loading.max(now);
    }

    /// Values that exist only during an operation.
    fn scratch(&mut self, values: f64) {
        self.change(values, 1.0);
        self.change(values, -1.0);
    }

    /// Counts `part`, which frees everything, as often as it is run: its weights once.
    pub(super) fn add_part(&mut self, part: Self, times: f64) {
        self.flops += part.flops * times;
        self.parameters = part.parameters;
        self.loading = part.loading;
        self.largest_weight = part.largest_weight;
        self.largest = self.largest.max(part.largest);
        self.reached([part.most_small, 0.0]);
        self.reached(part.most);
    }

    /// Results of parts, which are kept while other parts run until they make up the `whole`. `also` is kept, too.
    pub(super) fn join(&mut self, also: f64, whole: f64) {
        let class = class(whole);
        self.largest = self.largest.max(whole);
        self.most[class] += also + whole;
        self.reached(self.most);
        let mut joined = [0.0; 2];
        joined[class] = also + 2.0 * whole;
        self.reached(joined);
    }

    /// What was counted for one image is done for so many, one after the other, each of which gives `values`.
    pub(super) fn repeat(&mut self, images: f64, values: f64) {
        self.flops *= images;
        self.join(0.0, images * values);
    }

    pub(super) fn norm(&mut self, x: Map) -> Map {
        self.own(x.c);
        self.own(x.c);
        self.make(x.n, x.s, x.c)
    }

    pub(super) fn linear(&mut self, x: Map, out: f64, bias: bool) -> Map {
        self.own(x.c * out);
        self.own(if bias { out } else { 0.0 });
        self.flops += 2.0 * x.values() * out;
        self.make(x.n, x.s, out)
    }

    /// A square kernel with bias; `s` is the number of positions of the result.
    pub(super) fn conv(&mut self, x: Map, out: f64, kernel: f64, s: f64) -> Map {
        let taps = x.c * kernel * kernel;
        self.own(taps * out);
        self.own(out);
        let y = self.make(x.n, s, out);
        self.flops += 2.0 * y.values() * taps;
        if kernel > 1.0 {
            self.scratch((y.rows() * taps).min(PATCH_BUDGET));
        }
        y
    }

    /// Kernel 3 along the frames, whose first and last see one frame less.
    pub(super) fn frame_conv(&mut self, x: Map) -> Map {
        self.own(3.0 * x.c * x.c);
        self.own(x.c);
        self.flops += 2.0 * x.values() * x.c * 3.0;
        self.make(x.n, x.s, x.c)
    }

    /// From queries `q` to `keys` keys and values each. The scores stay in the cache.
    pub(super) fn attention(&mut self, q: Map, keys: f64) -> Map {
        self.flops += 4.0 * q.values() * keys;
        self.make(q.n, q.s, q.c)
    }

    /// Between the frames of every position: the result is built in blocks and then copied.
    pub(super) fn frame_attention(&mut self, q: Map, frames: f64) -> Map {
        let y = self.attention(q, frames);
        self.scratch(y.values());
        y
    }

    /// The feed-forward layer of `unet3d`, done in turns. Frees `x`.
    pub(super) fn feed_forward(&mut self, x: Map, inner: f64, gated: bool, hidden: Hidden) -> Map {
        let width = if gated { 2.0 * inner } else { inner };
        for weight in [x.c * width, width, inner * x.c, x.c] {
            self.own(weight);
        }
        self.flops += 2.0 * x.values() * (width + inner);
        // A turn's hidden values and, gated, their product with the gate.
        let gate = if gated { inner } else { 0.0 };
        let width = if gated { hidden.by_gate * inner } else { inner };
        let turn = (hidden.budget / width.max(gate)).floor().max(1.0);
        if x.rows() <= turn {
            let hidden = self.make(1.0, x.rows(), width);
            self.scratch(x.rows() * gate);
            self.free(hidden);
            let y = self.make(x.n, x.s, x.c);
            self.free(x);
            return y;
        }
        // The turns' results, a copy of a turn's input; then the results are joined.
        let parts = (x.rows() / turn).ceil();
        let part = x.values() / parts;
        self.change(part, parts);
        let copy = self.make(1.0, turn, x.c);
        let hidden = self.make(1.0, turn, width);
        self.scratch(turn * gate);
        self.free(hidden);
        self.free(copy);
        self.free(x);
        let y = self.make(x.n, x.s, x.c);
        self.change(part, -parts);
        y
    }

    /// Queries, keys, values, `mix`, and the projection back to the width of `x`. Frees `x`.
    pub(super) fn self_attention(
        &mut self,
        x: Map,
        inner: f64,
        bias: bool,
        mix: impl FnOnce(&mut Self, Map) -> Map,
    ) -> Map {
        let q = self.linear(x, inner, bias);
        let k = self.linear(x, inner, bias);
        let v = self.linear(x, inner, bias);
        self.free(x);
        let y = mix(self, q);
        for map in [q, k, v] {
            self.free(map);
        }
        let out = self.linear(y, x.c, true);
        self.free(y);
        out
    }

    /// Linear layers one after the other, with biases; for a few rows only. The widths include the input's.
    pub(super) fn mlp(&mut self, rows: f64, widths: [f64; 3]) {
        let x = self.make(rows, 1.0, widths[0]);
        let h = self.linear(x, widths[1], true);
        let y = self.linear(h, widths[2], true);
        for map in [x, h, y] {
            self.free(map);
        }
    }
}
