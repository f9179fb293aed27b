//! [`Ops`] on burn's tensors.

use std::ops::Range;
use std::rc::Rc;

use burn::tensor::activation::{silu, softmax};
use burn::tensor::{Int, Tensor, TensorData};

use super::{Device, FrozenLinear, LinearUpdate};
use crate::data::token::Token;
use crate::kernels::attention::AttentionShape;
use crate::ops::Ops;
use crate::{Error, Result};

/// What the scores of keys that a token may not see are lowered by.
const UNSEEN: f32 = -1e30;

/// The tokens of one forward pass, as burn's operations want them.
#[derive(Debug)]
pub struct Packed {
    /// (T)
    ids: Tensor<1, Int>,
    /// Cosine and sine of each token's angles, (T, 1, head_dim / 2).
    rotation: [Tensor<3>; 2],
    /// The rows of each sequence.
    sequences: Vec<Range<usize>>,
    /// For each sequence what is added to its scores, (1, 1, T, S); none where every key is seen.
    masks: Vec<Option<Tensor<4>>>,
}

impl Packed {
    /// Sequences one after another, without a cache: a sequence is a run of tokens with the same
    /// first key. `rope_table` is [`rope_table`](crate::model::rope_table)'s for every position.
    ///
    /// # Errors
    /// A position beyond the table.
    pub fn new(
        device: &Device,
        tokens: &[Token],
        rope_table: &[f32],
        head_dim: usize,
    ) -> Result<Self> {
        let mut sequences: Vec<Range<usize>> = Vec::new();
        for (row, token) in tokens.iter().enumerate() {
            match sequences.last_mut().filter(|last| last.start == token.first_key as usize) {
                Some(last) => last.end = row + 1,
                None => sequences.push(row..row + 1),
            }
        }
        let masks = sequences.iter().map(|rows| causal(device, rows.len(), rows.len()));
        let masks = masks.collect();
        let ids: Vec<i32> = tokens.iter().map(|token| token.id as i32).collect();
        let positions = tokens.iter().map(|token| token.position as usize);
        Ok(Self {
            ids: Tensor::from_data(TensorData::new(ids, [tokens.len()]), device.burn()),
            rotation: rotation(device, positions, rope_table, head_dim)?,
            sequences,
            masks,
        })
    }

    /// One sequence that goes on from `start` tokens in a cache.
    ///
    /// # Errors
    /// A position beyond the table.
    pub fn after(
        device: &Device,
        ids: &[u32],
        start: usize,
        rope_table: &[f32],
        head_dim: usize,
    ) -> Result<Self> {
        let end = start + ids.len();
        let wanted: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        Ok(Self {
            ids: Tensor::from_data(TensorData::new(wanted, [ids.len()]), device.burn()),
            rotation: rotation(device, start..end, rope_table, head_dim)?,
            sequences: std::iter::once(start..end).collect(),
            masks: vec![causal(device, ids.len(), end)],
        })
    }
}

/// Lets each of the last `rows` of `keys` tokens see those up to itself; none if that is all.
fn causal(device: &Device, rows: usize, keys: usize) -> Option<Tensor<4>> {
    if rows == 1 {
        return None;
    }
    let first = keys - rows;
    let row = |row| (0..keys).map(move |key| if key <= first + row { 0.0 } else { UNSEEN });
    let values: Vec<f32> = (0..rows).flat_map(row).collect();
    Some(Tensor::from_data(TensorData::new(values, [1, 1, rows, keys]), device.burn()))
}

fn rotation(
    device: &Device,
    positions: impl Iterator<Item = usize>,
    rope_table: &[f32],
    head_dim: usize,
) -> Result<[Tensor<3>; 2]> {
    let (mut cos, mut sin) = (Vec::new(), Vec::new());
    for position in positions {
        let row = rope_table.get(position * head_dim..(position + 1) * head_dim);
        let row = row.ok_or_else(|| {
            Error::invalid(format!("position {position} is beyond the table of rotations"))
        })?;
        for pair in row.chunks_exact(2) {
            cos.push(pair[0]);
            sin.push(pair[1]);
        }
    }
    let half = head_dim / 2;
    let rows = cos.len() / half.max(1);
    Ok([cos, sin]
        .map(|values| Tensor::from_data(TensorData::new(values, [rows, 1, half]), device.burn())))
}

/// Keys and values of the tokens so far, for every block: (kv_heads, capacity, head_dim) each.
///
/// A block's tensors have no other holder while they are written, so that burn writes in place.
#[derive(Debug)]
pub struct BurnCache {
    layers: Vec<Option<[Tensor<3>; 2]>>,
    capacity: usize,
}

impl BurnCache {
    /// A cache for `capacity` tokens.
    pub fn new(device: &Device, blocks: usize, capacity: usize, shape: AttentionShape) -> Self {
        let sides = [shape.kv_heads, capacity, shape.head_dim];
        let empty = || Tensor::zeros(sides, device.burn());
        Self { layers: (0..blocks).map(|_| Some([empty(), empty()])).collect(), capacity }
    }

    /// Tokens it has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes room for `capacity` tokens in all.
    pub fn grow(&mut self, device: &Device, capacity: usize) {
        for layer in self.layers.iter_mut().flatten() {
            for tensor in layer {
                let [heads, old, dim] = tensor.dims();
                let grown = Tensor::zeros([heads, capacity, dim], device.burn());
                *tensor = grown.slice_assign([0..heads, 0..old, 0..dim], tensor.clone());
            }
        }
        self.capacity = capacity;
    }

    /// Writes keys and values (kv_heads, T, head_dim) of block `layer` at `rows` and returns those
    /// of all tokens up to them.
    fn append(
        &mut self,
        layer: usize,
        rows: Range<usize>,
        new: [Tensor<3>; 2],
    ) -> Result<[Tensor<3>; 2]> {
        let Some([keys, values]) = self.layers.get_mut(layer).and_then(Option::take) else {
            return Err(Error::invalid(format!("the cache has no block {layer}")));
        };
        let [new_keys, new_values] = new;
        let [heads, _, dim] = new_keys.dims();
        let place = [0..heads, rows.clone(), 0..dim];
        let keys = keys.slice_assign(place.clone(), new_keys);
        let values = values.slice_assign(place, new_values);
        let seen = [&keys, &values].map(|all| all.clone().slice([0..heads, 0..rows.end, 0..dim]));
        self.layers[layer] = Some([keys, values]);
        Ok(seen)
    }
}

/// Computes a model's operations on the spot.
///
/// What is combined with a tensor that requires gradients joins burn's autodiff graph; the weights
/// never do.
#[derive(Debug)]
pub struct BurnOps<'a> {
    batch: &'a Packed,
    cache: Option<&'a mut BurnCache>,
}

impl<'a> BurnOps<'a> {
    /// Over the tokens of `batch`, without a cache.
    pub fn new(batch: &'a Packed) -> Self {
        Self { batch, cache: None }
    }

    /// Over the tokens of `batch`, which was made by [`Packed::after`] what `cache` holds.
    pub fn with_cache(batch: &'a Packed, cache: &'a mut BurnCache) -> Self {
        Self { batch, cache: Some(cache) }
    }
}

impl Ops for BurnOps<'_> {
    type Matrix = Tensor<2>;
    type Vector = Tensor<1>;
    type Update = Rc<dyn LinearUpdate>;
    type Tensor = Tensor<2>;

    fn embedding(&mut self, table: &Tensor<2>, update: Option<&Self::Update>) -> Result<Tensor<2>> {
        if update.is_some() {
            return Err(Error::invalid("burn has no updates of the embedding; use --engine wgpu"));
        }
        Ok(table.clone().select(0, self.batch.ids.clone()))
    }

    fn rms_norm(&mut self, x: &Tensor<2>, weight: &Tensor<1>, eps: f32) -> Result<Tensor<2>> {
        let square = x.clone().square().mean_dim(1);
        Ok(x.clone() / square.add_scalar(eps).sqrt() * weight.clone().unsqueeze())
    }

    fn linear(
        &mut self,
        x: &Tensor<2>,
        layer: &FrozenLinear,
        update: Option<&Rc<dyn LinearUpdate>>,
        residual: Option<&Tensor<2>>,
    ) -> Result<Tensor<2>> {
        let mut y = x.clone().matmul(layer.weight.clone().transpose());
        if let Some(bias) = &layer.bias {
            y = y + bias.clone().unsqueeze();
        }
        if let Some(update) = update {
            y = update.forward(layer, x, y);
        }
        Ok(match residual {
            Some(residual) => y + residual.clone(),
            None => y,
        })
    }

    fn rope(&mut self, x: Tensor<2>, head_dim: usize) -> Result<Tensor<2>> {
        let [rows, features] = x.dims();
        let heads = features / head_dim;
        let x = x.reshape([rows, heads, head_dim]);
        let half = head_dim / 2;
        let low = x.clone().slice([0..rows, 0..heads, 0..half]);
        let high = x.slice([0..rows, 0..heads, half..head_dim]);
        let [cos, sin] = self.batch.rotation.clone();
        let turned =
            [low.clone() * cos.clone() - high.clone() * sin.clone(), high * cos + low * sin];
        Ok(Tensor::cat(turned.into(), 2).reshape([rows, features]))
    }

    fn attention(
        &mut self,
        layer: usize,
        q: &Tensor<2>,
        k: &Tensor<2>,
        v: &Tensor<2>,
        shape: AttentionShape,
    ) -> Result<Tensor<2>> {
        // (kv_heads, T, head_dim)
        let by_head = |x: &Tensor<2>| {
            let [rows, _] = x.dims();
            x.clone().reshape([rows, shape.kv_heads, shape.head_dim]).swap_dims(0, 1)
        };
        let (sequences, masks) = (&self.batch.sequences, &self.batch.masks);
        if let (Some(cache), [rows], [mask]) = (&mut self.cache, &sequences[..], &masks[..]) {
            let [keys, values] = cache.append(layer, rows.clone(), [by_head(k), by_head(v)])?;
            return Ok(attend(q.clone(), keys, values, mask.as_ref(), shape));
        }
        if let ([_], [mask]) = (&sequences[..], &masks[..]) {
            return Ok(attend(q.clone(), by_head(k), by_head(v), mask.as_ref(), shape));
        }
        let parts = sequences.iter().zip(masks).map(|(rows, mask)| {
            let part = |x: &Tensor<2>| x.clone().slice(rows.clone());
            attend(part(q), by_head(&part(k)), by_head(&part(v)), mask.as_ref(), shape)
        });
        Ok(Tensor::cat(parts.collect(), 0))
    }

    fn silu_mul(&mut self, gate: &Tensor<2>, up: &Tensor<2>) -> Result<Tensor<2>> {
        Ok(silu(gate.clone()) * up.clone())
    }
}

/// Attention of one sequence: `q` (T, heads · head_dim) over keys and values
/// (kv_heads, S, head_dim). The query heads of one key head stand together as rows of one product.
fn attend(
    q: Tensor<2>,
    keys: Tensor<3>,
    values: Tensor<3>,
    mask: Option<&Tensor<4>>,
    shape: AttentionShape,
) -> Tensor<2> {
    let AttentionShape { heads, kv_heads, head_dim } = shape;
    let [rows, features] = q.dims();
    let [_, seen, _] = keys.dims();
    let group = heads / kv_heads;
    let q = q.mul_scalar(1.0 / (head_dim as f32).sqrt());
    let q = q.reshape([rows, kv_heads, group, head_dim]).permute([1, 2, 0, 3]);
    let q = q.reshape([kv_heads, group * rows, head_dim]);
    let mut scores = q.matmul(keys.swap_dims(1, 2)).reshape([kv_heads, group, rows, seen]);
    if let Some(mask) = mask {
        scores = scores + mask.clone();
    }
    let weights = softmax(scores, 3).reshape([kv_heads, group * rows, seen]);
    let mixed = weights.matmul(values).reshape([kv_heads, group, rows, head_dim]);
    mixed.permute([2, 0, 1, 3]).reshape([rows, features])
}
