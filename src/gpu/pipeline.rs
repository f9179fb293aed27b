//! Kernels, each compiled once for a device and its constants; several at a time where there are threads.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use super::{Access, Context, Kernel};

type Constants = Vec<(&'static str, f64)>;
type Key = (&'static str, Vec<(&'static str, u64)>);

/// Every kernel that was asked for.
#[derive(Debug, Default)]
pub(super) struct Pipelines(RefCell<HashMap<Key, Rc<Pipeline>>>);

/// A kernel's layout, and the kernel once it is compiled.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) layout: wgpu::BindGroupLayout,
    compute: OnceCell<wgpu::ComputePipeline>,
    source: Source,
}

/// What there is to compile.
#[derive(Debug, Clone)]
struct Source {
    kernel: Kernel,
    constants: Constants,
    layout: wgpu::PipelineLayout,
}

impl Source {
    /// What is wrong with it, the device reports.
    fn compile(&self, device: &wgpu::Device) -> wgpu::ComputePipeline {
        let Self { kernel, constants, layout } = self;
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(kernel.name),
            source: wgpu::ShaderSource::Wgsl(text(kernel).into()),
        });
        device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.name),
            layout: Some(layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants,
                // Every kernel writes its workgroup memory before it reads it.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        })
    }
}

/// A kernel's text. A browser wants to be told of subgroups, which naga has not learnt to read.
fn text(kernel: &Kernel) -> String {
    let text = kernel.source.concat();
    let has_subgroups =
        ["subgroupBroadcast(", "subgroupAdd(", "quadSwapX("].iter().any(|call| text.contains(call));
    match cfg!(target_arch = "wasm32") && has_subgroups {
        true => format!("enable subgroups;\n{text}"),
        false => text,
    }
}

impl Pipeline {
    /// The compiled kernel: [`Pipelines::compile`] did it, or it is done now.
    pub(super) fn compute(&self, device: &wgpu::Device) -> &wgpu::ComputePipeline {
        self.compute.get_or_init(|| self.source.compile(device))
    }
}

impl Pipelines {
    /// The pipeline of `kernel` with `constants` for its `override`s, not compiled yet.
    pub(super) fn get(
        &self,
        context: &Context,
        kernel: &Kernel,
        constants: &[(&'static str, f64)],
    ) -> Rc<Pipeline> {
        let key = (kernel.name, constants.iter().map(|&(n, v)| (n, v.to_bits())).collect());
        if let Some(found) = self.0.borrow().get(&key) {
            return found.clone();
        }
        let device = context.device();
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(kernel.name),
            entries: &layout_entries(kernel.storage),
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(kernel.name),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let source =
            Source { kernel: *kernel, constants: constants.to_vec(), layout: pipeline_layout };
        let pipeline = Rc::new(Pipeline { layout, compute: OnceCell::new(), source });
        self.0.borrow_mut().insert(key, pipeline.clone());
        pipeline
    }

    /// Compiles all that were asked for and are not compiled yet.
    pub(super) fn compile(&self, device: &wgpu::Device) {
        let pipelines = self.0.borrow();
        let missing = pipelines.values().filter(|pipeline| pipeline.compute.get().is_none());
        let missing: Vec<&Rc<Pipeline>> = missing.collect();
        let sources: Vec<Source> = missing.iter().map(|pipeline| pipeline.source.clone()).collect();
        for (pipeline, compiled) in missing.into_iter().zip(compile_all(device, &sources)) {
            if let Some(compiled) = compiled {
                // It was empty a moment ago, and nobody else is here.
                let _ = pipeline.compute.set(compiled);
            }
        }
    }
}

/// On as many threads as there are processors: drivers take from milliseconds to seconds a kernel. None
/// where a thread broke down; the first use compiles those.
#[cfg(not(target_arch = "wasm32"))]
fn compile_all(device: &wgpu::Device, sources: &[Source]) -> Vec<Option<wgpu::ComputePipeline>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = sources.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let compile = |some: &[Source]| some.iter().map(|s| Some(s.compile(device))).collect();
        let spawned = sources.chunks(share).map(|some| (some, scope.spawn(move || compile(some))));
        let spawned: Vec<_> = spawned.collect();
        let joined = |(some, thread): (&[Source], std::thread::ScopedJoinHandle<'_, Vec<_>>)| {
            thread.join().unwrap_or_else(|_| vec![None; some.len()])
        };
        spawned.into_iter().flat_map(joined).collect()
    })
}

/// The browser compiles where it likes.
#[cfg(target_arch = "wasm32")]
fn compile_all(device: &wgpu::Device, sources: &[Source]) -> Vec<Option<wgpu::ComputePipeline>> {
    sources.iter().map(|source| Some(source.compile(device))).collect()
}

fn layout_entries(storage: &[Access]) -> Vec<wgpu::BindGroupLayoutEntry> {
    let uniform = wgpu::BufferBindingType::Uniform;
    let storage =
        storage.iter().map(|a| wgpu::BufferBindingType::Storage { read_only: *a == Access::Read });
    let entry = |(binding, ty)| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    };
    (0..).zip([uniform, uniform].into_iter().chain(storage)).map(entry).collect()
}
