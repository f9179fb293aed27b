//! An adapter's update added to the weights that it is for.

use crate::ops::Lora;
use crate::{Error, Result};

impl Lora<Vec<f32>> {
    /// Adds the update to `weight`, the rows from `first` on of the layer's matrix (out, in), so
    /// that the layer alone gives what it gave with the update beside it. With a magnitude each
    /// row gets that length, as PEFT's `merge_and_unload` does it; a bias stays as it is.
    ///
    /// # Errors
    /// Rows that the update does not have; with a magnitude, a row of length 0.
    pub fn fuse(&self, first: usize, weight: &mut [f32]) -> Result<()> {
        let (ins, outs) = (self.a.len() / self.rank.max(1), self.b.len() / self.rank.max(1));
        let rows = weight.len().checked_div(ins).unwrap_or(0);
        let whole = rows * ins == weight.len();
        if !whole || first.checked_add(rows).is_none_or(|end| end > outs) {
            return Err(Error::invalid(format!(
                "{} weights from row {first} on are not rows of a layer of ({outs}, {ins})",
                weight.len()
            )));
        }
        for (row, out) in weight.chunks_exact_mut(ins.max(1)).zip(first..) {
            let b: Vec<f64> = self.b[out..].iter().step_by(outs).map(|&b| b.into()).collect();
            let added = |(&w, a): (&f32, &[f32])| {
                let product: f64 = a.iter().zip(&b).map(|(&a, b)| f64::from(a) * b).sum();
                f64::from(w) + f64::from(self.scale) * product
            };
            let mut sums: Vec<f64> =
                row.iter().zip(self.a.chunks_exact(self.rank)).map(added).collect();
            if let Some(magnitude) = &self.magnitude {
                let length = sums.iter().map(|sum| sum * sum).sum::<f64>().sqrt();
                if length == 0.0 {
                    return Err(Error::invalid(format!(
                        "row {out} of the updated weight is zero, and DoRA divides by its length"
                    )));
                }
                let ratio = f64::from(magnitude[out]) / length;
                sums.iter_mut().for_each(|sum| *sum *= ratio);
            }
            for (weight, sum) in row.iter_mut().zip(sums) {
                *weight = sum as f32;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    /// (3, 2), its update [[1, 0, -1], [2, 0, -2]] times 0.5 in the rows of (out, in).
    fn lora(magnitude: Option<Vec<f32>>) -> Lora<Vec<f32>> {
        Lora { a: vec![1.0, 2.0], b: vec![1.0, 0.0, -1.0], rank: 1, scale: 0.5, magnitude }
    }

    #[test]
    fn the_product_is_added_to_its_rows() {
        let mut weight = [1.0; 6];
        lora(None).fuse(0, &mut weight).unwrap();
        assert_eq!(weight, [1.5, 2.0, 1.0, 1.0, 0.5, 0.0]);
        let mut last = [1.0; 2];
        lora(None).fuse(2, &mut last).unwrap();
        assert_eq!(last, [0.5, 0.0]);
    }

    #[test]
    fn a_magnitude_is_the_length_of_its_row() {
        let mut weight = [1.0; 6];
        lora(Some(vec![5.0, 2.0, 0.0])).fuse(0, &mut weight).unwrap();
        let root = 0.5_f32.sqrt();
        for (actual, expected) in weight.iter().zip([3.0, 4.0, 2.0 * root, 2.0 * root, 0.0, 0.0]) {
            assert!((actual - expected).abs() < 1e-6, "{weight:?}");
        }
        let mut weight = [-0.5, -1.0];
        let problem = lora(Some(vec![1.0; 3])).fuse(0, &mut weight).unwrap_err().to_string();
        assert!(problem.starts_with("row 0 of the updated weight is zero"), "{problem}");
    }

    #[test]
    fn other_rows_are_errors() {
        for (first, count) in [(0, 5), (2, 4), (3, 2), (usize::MAX, 2)] {
            assert!(lora(None).fuse(first, &mut vec![0.0; count]).is_err(), "{first} {count}");
        }
    }
}
