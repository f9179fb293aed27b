//! [`Ops`] computed on the spot by the kernels' CPU references: slow, plain and in f64 where it
//! sums. What the GPU records is tested against this.

use super::{Linear, Lora, Ops};
use crate::Result;
use crate::kernels::attention::{self, AttentionShape};
use crate::kernels::{Token, dora, embedding, lora_embedding, matmul, rms_norm, rope, silu_mul};

/// Row-major f32 values and their columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    /// The values.
    pub values: Vec<f32>,
    /// Features of a row.
    pub cols: usize,
}

/// The CPU reference, over the tokens it was made with.
#[derive(Debug)]
pub struct Reference {
    tokens: Vec<Token>,
    rope_table: Vec<[f32; 2]>,
}

impl Reference {
    /// Computes for `tokens`, packed without a cache; `rope_table` is
    /// [`rope_table`](crate::model::rope_table)'s.
    pub fn new(tokens: &[Token], rope_table: &[f32]) -> Self {
        let rope_table = rope_table.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect();
        Self { tokens: tokens.to_vec(), rope_table }
    }
}

impl Ops for Reference {
    type Matrix = Rows;
    type Vector = Vec<f32>;
    type Update = Lora<Vec<f32>>;
    type Tensor = Rows;

    fn embedding(&mut self, table: &Rows, lora: Option<&Lora<Vec<f32>>>) -> Result<Rows> {
        let ids: Vec<u32> = self.tokens.iter().map(|t| t.id).collect();
        let mut values = embedding::reference(&table.values, table.cols, &ids);
        if let Some(lora) = lora {
            lora_embedding::reference(&ids, &lora.a, &lora.b, lora.rank, lora.scale, &mut values);
        }
        Ok(Rows { values, cols: table.cols })
    }

    fn rms_norm(&mut self, x: &Rows, weight: &Vec<f32>, eps: f32) -> Result<Rows> {
        Ok(Rows { values: rms_norm::reference(&x.values, weight, eps), cols: x.cols })
    }

    fn linear(
        &mut self,
        x: &Rows,
        layer: &Linear<Rows, Vec<f32>>,
        lora: Option<&Lora<Vec<f32>>>,
        residual: Option<&Rows>,
    ) -> Result<Rows> {
        let w = &layer.weight;
        let bias = layer.bias.as_deref();
        let mut values = matmul::reference(&x.values, &w.values, w.cols, bias, None);
        let outs = w.values.len() / w.cols;
        if let Some(lora) = lora {
            for (x, y) in x.values.chunks_exact(w.cols).zip(values.chunks_exact_mut(outs)) {
                let down: Vec<f64> =
                    (0..lora.rank).map(|j| column_dot(x, &lora.a, lora.rank, j)).collect();
                for (o, y) in y.iter_mut().enumerate() {
                    let up: f64 = down
                        .iter()
                        .enumerate()
                        .map(|(j, d)| d * f64::from(lora.b[j * outs + o]))
                        .sum();
                    *y = (f64::from(*y) + f64::from(lora.scale) * up) as f32;
                }
            }
            if let Some(magnitude) = &lora.magnitude {
                scale_rows(&mut values, w, bias, lora, magnitude);
            }
        }
        if let Some(residual) = residual {
            values.iter_mut().zip(&residual.values).for_each(|(y, r)| *y += r);
        }
        Ok(Rows { values, cols: outs })
    }

    fn rope(&mut self, mut x: Rows, head_dim: usize) -> Result<Rows> {
        let positions: Vec<u32> = self.tokens.iter().map(|t| t.position).collect();
        rope::reference(&mut x.values, &positions, &self.rope_table, head_dim, false);
        Ok(x)
    }

    fn attention(
        &mut self,
        _layer: usize,
        q: &Rows,
        k: &Rows,
        v: &Rows,
        shape: AttentionShape,
    ) -> Result<Rows> {
        let (values, _) =
            attention::reference(&q.values, &k.values, &v.values, &self.tokens, shape);
        Ok(Rows { values, cols: q.cols })
    }

    fn silu_mul(&mut self, gate: &Rows, up: &Rows) -> Result<Rows> {
        Ok(Rows { values: silu_mul::reference(&gate.values, &up.values), cols: gate.cols })
    }
}

fn column_dot(x: &[f32], a: &[f32], cols: usize, column: usize) -> f64 {
    x.iter().enumerate().map(|(i, &x)| f64::from(x) * f64::from(a[i * cols + column])).sum()
}

/// DoRA: what the weights made of `y` (T, out) is scaled by `magnitude` over the length of the updated
/// weight's row; the bias is not.
fn scale_rows(
    values: &mut [f32],
    weight: &Rows,
    bias: Option<&[f32]>,
    lora: &Lora<Vec<f32>>,
    magnitude: &[f32],
) {
    let outs = magnitude.len();
    let lengths =
        dora::lengths_reference(&weight.values, (&lora.a, &lora.b, lora.rank), lora.scale);
    for (o, length) in lengths.into_iter().enumerate() {
        let bias = bias.map_or(0.0, |bias| f64::from(bias[o]));
        for y in values.iter_mut().skip(o).step_by(outs) {
            *y = ((f64::from(*y) - bias) * f64::from(magnitude[o]) / length + bias) as f32;
        }
    }
}
