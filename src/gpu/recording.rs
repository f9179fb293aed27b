//! Dispatches recorded once and replayed often.
//!
//! A [`Recording`] owns its bind groups and uniforms; replaying it sets pipelines and bind groups
//! and nothing else. What changes from replay to replay lives in GPU buffers, above all in
//! [`Step`], so that one recording serves every number of tokens up to its capacity.

use std::rc::Rc;

use super::buffer::Buffer;
use super::context::{Context, Kernel};
use super::pipeline::Pipeline;
use crate::{Error, Result};

/// What every kernel may know of the present replay: binding 0 of every kernel.
///
/// The WGSL twin is in `kernels/step.wgsl`; every parity test reads through both.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Step {
    /// Tokens in this replay, T.
    pub tokens: u32,
    /// Learning rate of this step.
    pub learning_rate: f32,
    /// What the gradients are multiplied by before the optimizer sees them.
    pub gradient_scale: f32,
    /// Adam's bias correction of the first moment, `1 / (1 − β₁ᵗ)`, or 1.
    pub first_moment_scale: f32,
    /// Adam's bias correction of the second moment, `1 / (1 − β₂ᵗ)`, or 1.
    pub second_moment_scale: f32,
    /// Updates of the parameters, this one included.
    pub update: u32,
    /// Of what is drawn in this replay.
    pub seed: u32,
    /// Nothing; a uniform is a multiple of 16 bytes.
    pub pad: u32,
}

/// One side of a dispatch's grid.
#[derive(Debug, Clone, Copy)]
pub enum Extent {
    /// That many workgroups.
    Fixed(u32),
    /// Enough workgroups of `per` tokens for the replay's tokens, counted from `begin` and at most
    /// `max`.
    Tokens {
        /// First token.
        begin: u32,
        /// Most tokens.
        max: u32,
        /// Tokens a workgroup does.
        per: u32,
    },
}

impl Extent {
    /// Workgroups of `per` for `items`.
    pub fn cover(items: usize, per: usize) -> Self {
        Extent::Fixed(items.div_ceil(per) as u32)
    }

    fn at(self, tokens: u32) -> u32 {
        match self {
            Extent::Fixed(n) => n,
            Extent::Tokens { begin, max, per } => {
                tokens.saturating_sub(begin).min(max).div_ceil(per)
            }
        }
    }

    fn most(self) -> u32 {
        self.at(u32::MAX)
    }
}

/// A storage buffer, or a part of it, that a kernel reads or writes.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    buffer: &'a Buffer,
    offset: u64,
    size: Option<u64>,
}

impl<'a> Binding<'a> {
    /// `size` bytes of `buffer` at `offset`, a multiple of the device's storage offset alignment.
    pub fn part(buffer: &'a Buffer, offset: u64, size: u64) -> Self {
        Self { buffer, offset, size: Some(size) }
    }
}

impl<'a> From<&'a Buffer> for Binding<'a> {
    fn from(buffer: &'a Buffer) -> Self {
        Self { buffer, offset: 0, size: None }
    }
}

#[derive(Debug)]
pub(super) struct Dispatch {
    /// The kernel's.
    pub(super) name: &'static str,
    pipeline: Rc<Pipeline>,
    bind_group: wgpu::BindGroup,
    grid: [Extent; 3],
}

impl Dispatch {
    pub(super) fn encode(
        &self,
        device: &wgpu::Device,
        pass: &mut wgpu::ComputePass<'_>,
        [x, y, z]: [u32; 3],
    ) {
        pass.set_pipeline(self.pipeline.compute(device));
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}

/// Dispatches with everything bound, ready to be replayed.
#[derive(Debug)]
pub struct Recording {
    context: Context,
    dispatches: Vec<Dispatch>,
    /// What the bind groups refer to: held, so that its memory is counted and stays.
    _buffers: Vec<Buffer>,
}

impl Recording {
    /// Number of dispatches in one replay.
    pub fn len(&self) -> usize {
        self.dispatches.len()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.dispatches.is_empty()
    }

    /// Adds `replays` replays over `tokens` tokens each to `encoder`, in one compute pass.
    ///
    /// # Errors
    /// Only where the context [measures](super::ContextOptions::profile): too little memory.
    pub fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        tokens: u32,
        replays: usize,
    ) -> Result<()> {
        let grids = self.dispatches.iter().map(|d| (d, d.grid.map(|extent| extent.at(tokens))));
        let dispatches = grids.filter(|(_, grid)| grid.iter().all(|&side| side > 0));
        if let Some(profile) = self.context.profile() {
            let dispatches: Vec<_> = dispatches.collect();
            return (0..replays)
                .try_for_each(|_| profile.encode(&self.context, encoder, &dispatches));
        }
        let device = self.context.device();
        let mut pass = encoder.begin_compute_pass(&Default::default());
        for _ in 0..replays {
            dispatches
                .clone()
                .for_each(|(dispatch, grid)| dispatch.encode(device, &mut pass, grid));
        }
        Ok(())
    }

    /// Submits `replays` replays in one command buffer.
    ///
    /// # Errors
    /// As [`Self::encode`], and what the device has reported before.
    pub fn submit(&self, tokens: u32, replays: usize) -> Result<()> {
        let mut encoder = self.context.device().create_command_encoder(&Default::default());
        self.encode(&mut encoder, tokens, replays)?;
        self.context.submit(encoder);
        self.context.check()
    }
}

/// Space between two dispatches' uniforms: the largest alignment WebGPU lets a device ask for.
const UNIFORM_STRIDE: u64 = 256;
/// Dispatches whose uniforms share a buffer.
const UNIFORMS_PER_BUFFER: u64 = 64;

/// Builds a [`Recording`].
#[derive(Debug)]
pub struct Recorder {
    context: Context,
    step: Buffer,
    dispatches: Vec<Dispatch>,
    buffers: Vec<Buffer>,
    uniforms: Option<Buffer>,
    uniform_count: u64,
}

impl Recorder {
    /// An empty recording whose kernels read `step`, a uniform buffer with a [`Step`].
    pub fn new(context: &Context, step: &Buffer) -> Self {
        Self {
            context: context.clone(),
            step: step.clone(),
            dispatches: Vec::new(),
            buffers: vec![step.clone()],
            uniforms: None,
            uniform_count: 0,
        }
    }

    /// The device it records for.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Adds a dispatch: `step` at binding 0, `params` at binding 1, `bindings` from 2 on.
    ///
    /// # Errors
    /// [`Error::Gpu`] if the grid is larger than the device allows.
    pub fn dispatch<P: bytemuck::Pod>(
        &mut self,
        kernel: &Kernel,
        constants: &[(&'static str, f64)],
        params: &P,
        bindings: &[Binding<'_>],
        grid: [Extent; 3],
    ) -> Result<()> {
        let most = self.context.limits().max_compute_workgroups_per_dimension;
        // A token extent is bounded by its tensor, which is bounded by memory.
        if grid.iter().any(|e| matches!(e, Extent::Fixed(n) if *n > most)) {
            return Err(Error::Gpu(format!(
                "{}: a grid of {:?} workgroups is over the device's {most}",
                kernel.name,
                grid.map(Extent::most)
            )));
        }
        let pipeline = self.context.pipelines().get(&self.context, kernel, constants);
        let (uniforms, offset) = self.place(bytemuck::bytes_of(params))?;
        let mut entries = vec![
            wgpu::BindGroupEntry { binding: 0, resource: self.step.as_entire_binding() },
            wgpu::BindGroupEntry {
                binding: 1,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &uniforms,
                    offset,
                    size: wgpu::BufferSize::new(size_of::<P>() as u64),
                }),
            },
        ];
        entries.extend(bindings.iter().zip(2..).map(|(b, binding)| wgpu::BindGroupEntry {
            binding,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: b.buffer,
                offset: b.offset,
                size: b.size.and_then(wgpu::BufferSize::new),
            }),
        }));
        let bind_group = self.context.bind_group(&wgpu::BindGroupDescriptor {
            label: Some(kernel.name),
            layout: &pipeline.layout,
            entries: &entries,
        });
        self.context.check()?;
        self.buffers.extend(bindings.iter().map(|b| b.buffer.clone()));
        let name = kernel.name;
        self.dispatches.push(Dispatch { name, pipeline, bind_group, grid });
        Ok(())
    }

    fn place(&mut self, params: &[u8]) -> Result<(Buffer, u64)> {
        let slot = self.uniform_count % UNIFORMS_PER_BUFFER;
        if slot == 0 {
            let buffer = self.context.uniform("params", UNIFORM_STRIDE * UNIFORMS_PER_BUFFER)?;
            self.buffers.push(buffer.clone());
            self.uniforms = Some(buffer);
        }
        self.uniform_count += 1;
        let Some(buffer) = self.uniforms.clone() else {
            return Err(Error::Gpu("no uniform buffer".into()));
        };
        self.context.write(&buffer, slot * UNIFORM_STRIDE, params);
        Ok((buffer, slot * UNIFORM_STRIDE))
    }

    /// What was recorded, its kernels compiled. A shader that the adapter refuses shows in
    /// [`Context::check`].
    pub fn finish(self) -> Recording {
        self.context.pipelines().compile(self.context.device());
        Recording { context: self.context, dispatches: self.dispatches, _buffers: self.buffers }
    }
}
