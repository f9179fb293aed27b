//! Weights that take the place of a model's on the GPU: those that are trained themselves, and those
//! that an adapter brings along.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::weights::{NamedWeight, Weight};
use super::{GpuLlama, NamedTensor};
use crate::gpu::{Buffer, Context, Recorder, Step};
use crate::kernels::embedding::embedding;
use crate::kernels::optimizer::Place;
use crate::kernels::weight::{BLOCK, Format, Matrix, PackedRows, pack_row};
use crate::kernels::{Rows, Tensor, Token};
use crate::ops::WeightGradients;
use crate::{Error, Result};

/// Rows that are copied at a time.
const ROWS: usize = 1024;

/// Weights in f32, in memory of their own.
#[derive(Debug, Clone)]
pub struct WeightSet {
    weights: Rc<Vec<NamedWeight<Matrix, Buffer>>>,
    /// Their shapes, those that are multiplied by one input together.
    groups: Rc<Vec<Vec<Shape>>>,
}

type Shape = Weight<(usize, usize), ()>;

/// Some of a model's weights in f32, and the model with them.
#[derive(Debug, Clone)]
pub struct GpuWeights {
    /// The model that has them; it shares everything else with the one it was made of.
    pub llama: Rc<GpuLlama>,
    /// The weights.
    pub set: WeightSet,
}

impl GpuWeights {
    /// Copies of the weights of `llama` whose names (`model.layers.0.mlp.up_proj.weight`) are
    /// `chosen`, dequantised.
    ///
    /// # Errors
    /// Too little memory.
    pub fn copied(
        context: &Context,
        llama: &GpuLlama,
        chosen: &dyn Fn(&str) -> bool,
    ) -> Result<Self> {
        let mut llama = llama.clone();
        let (mut weights, mut groups) = (Vec::new(), Vec::new());
        for mut group in llama.weights_mut() {
            group.retain(|(name, _)| chosen(name));
            let shape = |(_, weight): &NamedWeight<&mut Matrix, &mut Buffer>| match weight {
                Weight::Matrix(matrix) => Weight::Matrix((matrix.rows(), matrix.cols())),
                Weight::Vector(_, length) => Weight::Vector((), *length),
            };
            let shapes: Vec<Shape> = group.iter().map(shape).collect();
            for ((name, old), new) in group.into_iter().zip(zeros(context, &shapes)?) {
                match (old, &new) {
                    (Weight::Matrix(old), Weight::Matrix(new)) => {
                        dequantize(context, old, new)?;
                        *old = new.clone();
                    }
                    (Weight::Vector(old, length), Weight::Vector(new, _)) => {
                        let mut encoder =
                            context.device().create_command_encoder(&Default::default());
                        let bytes = Some((length * 4) as u64);
                        encoder.copy_buffer_to_buffer(old, 0, new, 0, bytes);
                        context.submit(encoder);
                        *old = new.clone();
                    }
                    _ => return Err(Error::invalid(format!("{name} changed its kind"))),
                }
                weights.push((name, new));
            }
            groups.push(shapes);
        }
        let set = WeightSet { weights: Rc::new(weights), groups: Rc::new(groups) };
        Ok(Self { llama: Rc::new(llama), set })
    }

    /// `llama` with `tensors` in the places of its own, and copies of what else is in `copied`;
    /// [`check`](super::Adapter::check) has seen that they fit.
    ///
    /// # Errors
    /// A tensor that the model does not have; too little memory.
    pub fn replaced(
        context: &Context,
        llama: &GpuLlama,
        tensors: &BTreeMap<String, NamedTensor>,
        copied: &BTreeSet<String>,
    ) -> Result<Self> {
        let chosen = |name: &str| tensors.contains_key(name) || copied.contains(name);
        let new = Self::copied(context, llama, &chosen)?;
        let known = |name: &String| new.set.weights.iter().any(|(found, _)| found == name);
        if let Some(name) = tensors.keys().find(|name| !known(name)) {
            return Err(Error::invalid(format!("the model has no weight `{name}` to replace")));
        }
        for (name, weight) in new.set.weights.iter() {
            let Some(tensor) = tensors.get(name) else { continue };
            match weight {
                Weight::Matrix(matrix) => {
                    let mut packed = PackedRows::default();
                    for row in tensor.values.chunks_exact(matrix.cols()) {
                        pack_row(Format::F32, row, &mut packed);
                    }
                    matrix.write_rows(context, 0, &packed);
                }
                Weight::Vector(vector, _) => {
                    context.write(vector, 0, bytemuck::cast_slice(&tensor.values));
                }
            }
        }
        Ok(new)
    }
}

impl WeightSet {
    /// Zeros of the same shapes, in the same arrangement, for their gradients.
    ///
    /// # Errors
    /// Too little memory.
    pub fn gradients(&self, context: &Context) -> Result<Self> {
        let mut new = Vec::new();
        for shapes in self.groups.iter() {
            new.extend(zeros(context, shapes)?);
        }
        let names = self.weights.iter().map(|(name, _)| name.clone());
        Ok(Self { weights: Rc::new(names.zip(new).collect()), groups: self.groups.clone() })
    }

    /// What a [`Tape`](crate::ops::Tape) needs to know to add up the gradients in `gradients`, which
    /// are [`Self::gradients`].
    pub fn onto(&self, gradients: &Self) -> WeightGradients {
        let mut pairs = WeightGradients::default();
        for ((_, weight), (_, gradient)) in self.weights.iter().zip(gradients.weights.iter()) {
            match (weight, gradient) {
                (Weight::Matrix(weight), Weight::Matrix(gradient)) => {
                    pairs.add_matrix(weight, gradient);
                }
                (Weight::Vector(weight, _), Weight::Vector(gradient, _)) => {
                    pairs.add_vector(weight, gradient);
                }
                _ => {}
            }
        }
        pairs
    }

    /// The buffers that hold them, each once, and how many f32 are in use of it. Matrices that are
    /// multiplied by one input may share one; what is between them is 0.
    pub fn buffers(&self) -> Vec<(Buffer, usize)> {
        let mut found: Vec<(Buffer, usize)> = Vec::new();
        let mut add = |buffer: &Buffer, count: usize| {
            if found.iter().all(|(known, _)| **known != **buffer) {
                found.push((buffer.clone(), count));
            }
        };
        for (_, weight) in self.weights.iter() {
            match weight {
                Weight::Matrix(matrix) => {
                    matrix.buffers().for_each(|b| add(b, (b.size() / 4) as usize));
                }
                Weight::Vector(vector, length) => add(vector, *length),
            }
        }
        found
    }

    /// What the values in one of [`Self::buffers`] are, for update rules that treat matrices as such.
    pub fn places(&self, buffer: &Buffer) -> Vec<Place> {
        let mut places = Vec::new();
        for (_, weight) in self.weights.iter() {
            match weight {
                Weight::Matrix(matrix) => places.extend(matrix.places(buffer)),
                Weight::Vector(vector, length) if **vector == **buffer => {
                    places.push(Place::vector(0, *length));
                }
                Weight::Vector(..) => {}
            }
        }
        places
    }

    /// Their names.
    pub fn weight_names(&self) -> impl Iterator<Item = &str> {
        self.weights.iter().map(|(name, _)| name.as_str())
    }

    /// Their names, by the buffers of [`Self::buffers`].
    pub fn buffer_names(&self) -> Vec<String> {
        let name_of = |buffer: &Buffer| {
            let holds = |weight: &Weight<Matrix, Buffer>| match weight {
                Weight::Matrix(matrix) => matrix.buffers().any(|found| **found == **buffer),
                Weight::Vector(vector, _) => **vector == **buffer,
            };
            let names = self.weights.iter().filter(|(_, weight)| holds(weight));
            names.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" or ")
        };
        self.buffers().iter().map(|(buffer, _)| name_of(buffer)).collect()
    }

    /// Numbers in them.
    pub fn count(&self) -> usize {
        let one = |(_, weight): &NamedWeight<Matrix, Buffer>| match weight {
            Weight::Matrix(matrix) => matrix.rows() * matrix.cols(),
            Weight::Vector(_, length) => *length,
        };
        self.weights.iter().map(one).sum()
    }

    /// Copies them back.
    pub async fn download(&self, context: &Context) -> Result<BTreeMap<String, NamedTensor>> {
        let mut tensors = BTreeMap::new();
        for (name, weight) in self.weights.iter() {
            let tensor = match weight {
                Weight::Matrix(matrix) => NamedTensor {
                    shape: vec![matrix.rows(), matrix.cols()],
                    values: matrix.read_f32(context).await?,
                },
                Weight::Vector(vector, length) => NamedTensor {
                    shape: vec![*length],
                    values: context.read(vector, 0, *length).await?,
                },
            };
            tensors.insert(name.clone(), tensor);
        }
        Ok(tensors)
    }
}

/// Zeroed weights of these shapes; matrices in one buffer where that can hold them.
fn zeros(
    context: &Context,
    shapes: &[Weight<(usize, usize), ()>],
) -> Result<Vec<Weight<Matrix, Buffer>>> {
    let mut rows = Vec::new();
    let mut columns = None;
    for shape in shapes {
        if let Weight::Matrix((out, cols)) = shape {
            rows.push(*out);
            columns = Some(*cols);
        }
    }
    if let (Some(cols), true) = (columns, rows.len() > 1)
        && let Some(stack) = Matrix::stacked(context, Format::F32, &rows, cols)?
    {
        return Ok(stack.into_iter().map(Weight::Matrix).collect());
    }
    let one = |shape: &Weight<(usize, usize), ()>| {
        Ok(match *shape {
            Weight::Matrix((rows, cols)) => {
                Weight::Matrix(Matrix::new(context, Format::F32, rows, cols)?)
            }
            Weight::Vector((), length) => {
                Weight::Vector(context.storage("vector", (length * 4) as u64)?, length)
            }
        })
    };
    shapes.iter().map(one).collect()
}

/// Copies `from` into `to`, of the same shape and in f32. Looking up every row is what dequantises it.
fn dequantize(context: &Context, from: &Matrix, to: &Matrix) -> Result<()> {
    let padded = from.cols().next_multiple_of(BLOCK);
    let chunk = ROWS.min(from.rows());
    let rows = Rc::new(context.storage("rows", (chunk * padded * 4) as u64)?);
    let tokens = context.storage("tokens", (chunk * size_of::<Token>()) as u64)?;
    let step = context.uniform("step", size_of::<Step>() as u64)?;
    let all = Rows { begin: 0, max: chunk as u32 };
    let mut recorder = Recorder::new(context, &step);
    let y = Tensor::in_buffer(rows.clone(), all, padded);
    embedding(&mut recorder, from, &tokens, &y)?;
    let lookup = recorder.finish();
    for first in (0..from.rows()).step_by(chunk) {
        let count = chunk.min(from.rows() - first);
        let token = |row: usize| Token { id: row as u32, ..Default::default() };
        let ids: Vec<Token> = (first..first + count).map(token).collect();
        context.write(&tokens, 0, bytemuck::cast_slice(&ids));
        let count = count as u32;
        context.write(&step, 0, bytemuck::bytes_of(&Step { tokens: count, ..Default::default() }));
        lookup.submit(count, 1)?;
        to.copy_rows(context, first, &rows, count as usize);
    }
    Ok(())
}
