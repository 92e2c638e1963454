use burn::tensor::{Tensor, backend::Backend};
use rayon::prelude::*;

use super::{eligible, from_vec, unwrap, values, zeros};
use crate::resize::nearest_index;

pub(crate) fn try_nearest_resize<B: Backend>(
    x: Tensor<B, 4>,
    height: usize,
    width: usize,
) -> Result<Tensor<B, 4>, Tensor<B, 4>> {
    if !eligible(&x) {
        return Err(x);
    }
    let [n, h, w, c] = x.dims();
    let x = unwrap(x);
    let x = values(&x);
    let mut y = zeros(n * height * width * c);
    y.par_chunks_mut(width * c)
        .enumerate()
        .for_each(|(line, y)| {
            let source = (line / height) * h + nearest_index(line % height, h, height);
            let row = &x[source * w * c..(source + 1) * w * c];
            for (j, pixel) in y.chunks_exact_mut(c).enumerate() {
                let j = nearest_index(j, w, width);
                pixel.copy_from_slice(&row[j * c..(j + 1) * c]);
            }
        });
    Ok(from_vec(y, [n, height, width, c]))
}
