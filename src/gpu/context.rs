//! One device: opened once, shared by everything that runs on it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use super::buffer::{Buffer, Memory};
use super::pipeline::Pipelines;
use super::profile::Profile;
use super::variant::{Lanes, Variant, Variants};
use crate::{Error, Result};

/// How to open a [`Context`].
#[derive(Debug, Clone, Default)]
pub struct ContextOptions {
    /// Part of the adapter's name (any case) or its index in [`Context::adapters`]; the best one if
    /// `None`.
    pub adapter: Option<String>,
    /// Takes at most these limits, as if the adapter had no more: a test of small devices.
    pub limits: Option<wgpu::Limits>,
    /// Leaves subgroups unused: a test of the kernels that need none.
    pub without_subgroups: bool,
    /// Opens it with every feature and limit that the adapter has, which burn's kernels are chosen
    /// by; ours need neither.
    pub whole_adapter: bool,
    /// Measures what each dispatch takes, for [`Context::kernel_times`]. Everything takes longer.
    pub profile: bool,
}

/// One line of `engram devices`.
#[derive(Debug, Clone)]
pub struct AdapterSummary {
    /// What the driver calls it.
    pub name: String,
    /// `Vulkan`, `Metal`, `Dx12`, `BrowserWebGpu`.
    pub backend: String,
    /// `DiscreteGpu`, `IntegratedGpu`, `Cpu`, …
    pub device_type: String,
    /// Driver and its version.
    pub driver: String,
    /// Largest storage binding in bytes.
    pub max_storage_binding: u64,
    /// Whether it computes on the CPU.
    pub is_software: bool,
}

/// A compute shader: WGSL parts that are compiled as one module, whose entry point is `main`.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    /// Its name, for errors and profiles.
    pub name: &'static str,
    /// The source: shared preludes first, the kernel's own file last.
    pub source: &'static [&'static str],
    /// Its storage buffers, from binding 2 on.
    pub storage: &'static [Access],
}

/// What a kernel does with a storage buffer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Access {
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`
    Write,
}

/// The open device with its queue, pipelines and memory count. A clone is another handle of it.
#[derive(Debug, Clone)]
pub struct Context(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    adapter: AdapterSummary,
    /// wgpu's own, for whoever shares the device.
    handles: (wgpu::Instance, wgpu::Adapter),
    is_whole: bool,
    device: wgpu::Device,
    queue: wgpu::Queue,
    limits: wgpu::Limits,
    lanes: Option<Lanes>,
    variants: Cell<Variants>,
    pipelines: Pipelines,
    memory: Rc<Memory>,
    bind_groups: Cell<u64>,
    submits: Cell<u64>,
    profile: Option<Profile>,
    /// Kept from one reading back to the next, so that those of a token or a report make none.
    staging: RefCell<Option<Buffer>>,
    fault: Arc<Mutex<Option<Fault>>>,
}

/// What is read back for a token or a report fits in.
const STAGING_BYTES: u64 = 4096;

#[derive(Debug, Clone)]
enum Fault {
    Lost(String),
    OutOfMemory(String),
    Other(String),
}

impl Context {
    /// Every adapter wgpu sees (the environment variable `WGPU_BACKEND` narrows it), best first.
    pub async fn adapters() -> Vec<AdapterSummary> {
        ranked_adapters().await.1.iter().map(summary).collect()
    }

    /// Opens the adapter that `options` names, or the best one: discrete before integrated before
    /// virtual before software.
    ///
    /// # Errors
    /// [`Error::Gpu`] if there is no adapter, none of that name, or it is below the limits that
    /// the kernels need.
    pub async fn new(options: &ContextOptions) -> Result<Self> {
        let (instance, adapters) = ranked_adapters().await;
        let adapter = choose(&adapters, options.adapter.as_deref())?;
        let offered = adapter.limits();
        let ceiling = options.limits.clone().unwrap_or_else(|| offered.clone());
        let limits = match options.whole_adapter {
            true => offered,
            false => wanted_limits(&offered, &ceiling),
        };
        let lanes = software_lanes(adapter).filter(|_| !options.without_subgroups);
        let mut features = match (options.whole_adapter, lanes.is_some()) {
            // Those beyond WebGPU's own may break wgpu's promises of safety.
            (true, _) => adapter.features() & !wgpu::Features::all_experimental_mask(),
            (false, true) => adapter.features() & wgpu::Features::SUBGROUP,
            (false, false) => wgpu::Features::empty(),
        };
        if options.profile {
            let stamps = wgpu::Features::TIMESTAMP_QUERY;
            if !adapter.features().contains(stamps) {
                return Err(Error::Gpu("the adapter has no timestamps to measure with".into()));
            }
            features |= stamps;
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("engram"),
            required_limits: limits.clone(),
            required_features: features,
            ..Default::default()
        };
        let (device, queue) =
            adapter.request_device(&descriptor).await.map_err(|e| Error::Gpu(e.to_string()))?;
        let lanes = lanes.filter(|_| has_subgroups(&device));

        let fault = Arc::new(Mutex::new(None));
        let on_error = fault.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let found = match &error {
                wgpu::Error::OutOfMemory { .. } => Fault::OutOfMemory(error.to_string()),
                _ => Fault::Other(error.to_string()),
            };
            note(&on_error, found);
        }));
        let on_loss = fault.clone();
        device.set_device_lost_callback(move |reason, message| {
            let why = match message.trim().trim_end_matches('.') {
                "" => format!("{reason:?}"),
                message => message.to_owned(),
            };
            note(&on_loss, Fault::Lost(why));
        });

        let context = Self(Rc::new(Inner {
            adapter: summary(adapter),
            handles: (instance, adapter.clone()),
            is_whole: options.whole_adapter,
            device,
            queue,
            limits,
            lanes,
            variants: Cell::new(Variants::all(default_variant(adapter, lanes))),
            pipelines: Pipelines::default(),
            memory: Rc::default(),
            bind_groups: Cell::default(),
            submits: Cell::default(),
            profile: options.profile.then(Profile::default),
            staging: RefCell::default(),
            fault,
        }));
        let staging = context.staging(STAGING_BYTES)?;
        *context.0.staging.borrow_mut() = Some(staging);
        Ok(context)
    }

    /// The adapter it runs on.
    pub fn adapter(&self) -> &AdapterSummary {
        &self.0.adapter
    }

    /// The limits it was opened with.
    pub fn limits(&self) -> &wgpu::Limits {
        &self.0.limits
    }

    /// The lanes that load for one another, on a software adapter where loads cost far more than arithmetic
    /// and subgroups have a size that there are kernels for.
    pub(crate) fn lanes(&self) -> Option<Lanes> {
        self.0.lanes
    }

    /// The variants that recordings take from now on.
    pub fn variants(&self) -> Variants {
        self.0.variants.get()
    }

    /// Whether the device can run a variant.
    pub fn has_variant(&self, variant: Variant) -> bool {
        match variant {
            Variant::Tile | Variant::Loads => true,
            Variant::Broadcast => self.0.lanes == Some(Lanes::Eight),
            Variant::Quads => self.0.lanes == Some(Lanes::Four),
        }
    }

    /// Chooses the variants of the recordings that follow, such as those that
    /// [`tune`](crate::kernels::tune::tune) found to be the fastest.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the device can't run one of them.
    pub fn set_variants(&self, variants: Variants) -> Result<()> {
        if let Some(other) = variants.each().into_iter().find(|&v| !self.has_variant(v)) {
            return Err(Error::invalid(format!("the adapter has no subgroups for {other:?}")));
        }
        self.0.variants.set(variants);
        Ok(())
    }

    /// The memory its buffers take.
    pub fn memory(&self) -> &Memory {
        &self.0.memory
    }

    /// Bind groups made so far: one for each recorded dispatch.
    pub fn bind_groups(&self) -> u64 {
        self.0.bind_groups.get()
    }

    /// Submits so far, those of reading back included.
    pub fn submits(&self) -> u64 {
        self.0.submits.get()
    }

    /// Submits what was encoded.
    pub(crate) fn submit(&self, encoder: wgpu::CommandEncoder) {
        self.0.submits.set(self.0.submits.get() + 1);
        self.0.queue.submit([encoder.finish()]);
    }

    /// What is measured, if it was opened for that.
    pub(super) fn profile(&self) -> Option<&Profile> {
        self.0.profile.as_ref()
    }

    /// Makes a bind group.
    pub(super) fn bind_group(&self, group: &wgpu::BindGroupDescriptor<'_>) -> wgpu::BindGroup {
        self.0.bind_groups.set(self.0.bind_groups.get() + 1);
        self.0.device.create_bind_group(group)
    }

    /// wgpu's device.
    pub fn device(&self) -> &wgpu::Device {
        &self.0.device
    }

    /// wgpu's instance and adapter.
    pub fn handles(&self) -> &(wgpu::Instance, wgpu::Adapter) {
        &self.0.handles
    }

    /// Whether it was opened with [`ContextOptions::whole_adapter`].
    pub fn is_whole(&self) -> bool {
        self.0.is_whole
    }

    /// wgpu's queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.0.queue
    }

    /// The first fault the device reported since the context was opened, if any.
    ///
    /// Errors other than a lost device are reported once, so that the context stays usable.
    pub fn check(&self) -> Result<()> {
        let Ok(mut fault) = self.0.fault.lock() else { return Ok(()) };
        match fault.clone() {
            None => Ok(()),
            Some(Fault::Lost(why)) => Err(Error::DeviceLost(why)),
            Some(Fault::OutOfMemory(why)) => {
                *fault = None;
                Err(Error::OutOfMemory(format!("{why} ({} bytes in use)", self.0.memory.now())))
            }
            Some(Fault::Other(why)) => {
                *fault = None;
                Err(Error::Gpu(why))
            }
        }
    }

    /// A zeroed storage buffer of at least `bytes` bytes, a multiple of 16.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], also if it is larger than a buffer or binding may be here.
    pub fn storage(&self, label: &str, bytes: u64) -> Result<Buffer> {
        let usage = wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST;
        let limits = &self.0.limits;
        let most = limits.max_buffer_size.min(limits.max_storage_buffer_binding_size);
        self.buffer(label, bytes, usage, most)
    }

    /// A storage buffer that holds `values`.
    pub fn storage_from<T: bytemuck::NoUninit>(&self, label: &str, values: &[T]) -> Result<Buffer> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let buffer = self.storage(label, bytes.len() as u64)?;
        self.write(&buffer, 0, bytes);
        Ok(buffer)
    }

    /// A zeroed uniform buffer of at least `bytes` bytes.
    pub fn uniform(&self, label: &str, bytes: u64) -> Result<Buffer> {
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        self.buffer(label, bytes, usage, self.0.limits.max_uniform_buffer_binding_size)
    }

    /// A buffer for the results of queries.
    pub(super) fn query_results(&self, bytes: u64) -> Result<Buffer> {
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        self.buffer("timestamps", bytes, usage, self.0.limits.max_buffer_size)
    }

    fn buffer(
        &self,
        label: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
        limit: u64,
    ) -> Result<Buffer> {
        let size = bytes.max(16).next_multiple_of(16);
        if size > limit {
            return Err(Error::OutOfMemory(format!(
                "{label} needs a buffer of {size} bytes, this adapter allows {limit}"
            )));
        }
        let buffer = self.0.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage,
            mapped_at_creation: false,
        });
        self.check()?;
        Ok(Buffer::new(buffer, self.0.memory.clone()))
    }

    /// Queues a write of `bytes` at `offset`; a length that is no multiple of 4 is padded with 0.
    pub fn write(&self, buffer: &Buffer, offset: u64, bytes: &[u8]) {
        let whole = bytes.len() & !3;
        if whole > 0 {
            self.0.queue.write_buffer(buffer, offset, &bytes[..whole]);
        }
        if whole < bytes.len() {
            let mut last = [0; 4];
            last[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
            self.0.queue.write_buffer(buffer, offset + whole as u64, &last);
        }
    }

    /// Reads `count` values back, starting at value `start`, once the queue has done its work.
    pub async fn read<T: bytemuck::Pod>(
        &self,
        buffer: &Buffer,
        start: usize,
        count: usize,
    ) -> Result<Vec<T>> {
        let offset = (start * size_of::<T>()) as u64;
        let bytes = (count * size_of::<T>()) as u64;
        if bytes == 0 {
            return Ok(Vec::new());
        }
        let staging = self.staging(bytes)?;
        let mut encoder = self.0.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, Some(bytes));
        self.submit(encoder);
        let (done, mapped) = futures_channel::oneshot::channel();
        staging.map_async(wgpu::MapMode::Read, ..bytes, move |result| {
            // The receiver is gone only if the caller dropped the read; nobody is left to tell.
            let _ = done.send(result);
        });
        self.wait();
        match mapped.await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => {
                self.check()?;
                return Err(Error::Gpu(format!("reading back failed: {e}")));
            }
            Err(_) => {
                self.check()?;
                return Err(Error::Gpu("reading back was dropped".into()));
            }
        }
        let view = staging
            .get_mapped_range(..bytes)
            .map_err(|e| Error::Gpu(format!("reading back: {e}")))?;
        let values = bytemuck::pod_collect_to_vec::<u8, T>(&view);
        drop(view);
        staging.unmap();
        if staging.size() == STAGING_BYTES {
            *self.0.staging.borrow_mut() = Some(staging);
        }
        self.check()?;
        Ok(values)
    }

    /// A buffer to read `bytes` back through: the kept one if they fit and nobody reads.
    fn staging(&self, bytes: u64) -> Result<Buffer> {
        let kept = if bytes <= STAGING_BYTES { self.0.staging.take() } else { None };
        let usage = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ;
        let limit = self.0.limits.max_buffer_size;
        kept.map_or_else(|| self.buffer("read back", bytes.max(STAGING_BYTES), usage, limit), Ok)
    }

    /// Waits until everything queued so far is done, writes included.
    pub async fn drain(&self) -> Result<()> {
        self.0.submits.set(self.0.submits.get() + 1);
        self.0.queue.submit([]);
        self.settle().await
    }

    /// Waits until everything submitted so far is done.
    pub async fn settle(&self) -> Result<()> {
        let (done, finished) = futures_channel::oneshot::channel();
        self.0.queue.on_submitted_work_done(move || {
            // The receiver is gone only if the caller dropped the wait; nobody is left to tell.
            let _ = done.send(());
        });
        self.wait();
        // An error means that the device is gone, which `check` says better.
        let _ = finished.await;
        self.check()
    }

    /// Natively, blocks until the queue is idle; a page must not block and has nothing to do here.
    fn wait(&self) {
        #[cfg(not(target_arch = "wasm32"))]
        if let Err(e) = self.0.device.poll(wgpu::PollType::wait_indefinitely()) {
            note(&self.0.fault, Fault::Other(e.to_string()));
        }
    }

    /// The compiled kernels.
    pub(super) fn pipelines(&self) -> &Pipelines {
        &self.0.pipelines
    }
}

fn note(slot: &Mutex<Option<Fault>>, found: Fault) {
    if let Ok(mut slot) = slot.lock() {
        let lost = matches!(found, Fault::Lost(_));
        if slot.is_none() || lost {
            *slot = Some(found);
        }
    }
}

async fn ranked_adapters() -> (wgpu::Instance, Vec<wgpu::Adapter>) {
    let instance =
        wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let mut adapters = enumerate(&instance).await;
    adapters.retain(|a| {
        let flags = a.get_downlevel_capabilities().flags;
        flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS)
    });
    adapters.sort_by_key(|a| match a.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    });
    (instance, adapters)
}

#[cfg(not(target_arch = "wasm32"))]
async fn enumerate(instance: &wgpu::Instance) -> Vec<wgpu::Adapter> {
    instance.enumerate_adapters(wgpu::Backends::all()).await
}

/// A page is given one adapter, not a list.
#[cfg(target_arch = "wasm32")]
async fn enumerate(instance: &wgpu::Instance) -> Vec<wgpu::Adapter> {
    let options = wgpu::RequestAdapterOptions {
        power_preference: wgpu::PowerPreference::HighPerformance,
        ..Default::default()
    };
    instance.request_adapter(&options).await.into_iter().collect()
}

fn choose<'a>(adapters: &'a [wgpu::Adapter], wanted: Option<&str>) -> Result<&'a wgpu::Adapter> {
    let Some(best) = adapters.first() else {
        return Err(Error::Gpu(
            "no adapter found; install a Vulkan, Metal or DX12 driver \
             (on Debian the package mesa-vulkan-drivers has a software one)"
                .into(),
        ));
    };
    let Some(wanted) = wanted else { return Ok(best) };
    let by_index = wanted.parse::<usize>().ok().and_then(|i| adapters.get(i));
    let lower = wanted.to_lowercase();
    by_index
        .or_else(|| adapters.iter().find(|a| a.get_info().name.to_lowercase().contains(&lower)))
        .ok_or_else(|| {
            let names: Vec<String> = adapters.iter().map(|a| summary(a).name).collect();
            Error::Gpu(format!("no adapter `{wanted}`; there are: {}", names.join(", ")))
        })
}

fn summary(adapter: &wgpu::Adapter) -> AdapterSummary {
    let info = adapter.get_info();
    // A browser may keep the name to itself.
    let name = if info.name.is_empty() { "unnamed adapter".into() } else { info.name };
    AdapterSummary {
        name,
        backend: format!("{:?}", info.backend),
        device_type: format!("{:?}", info.device_type),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        max_storage_binding: adapter.limits().max_storage_buffer_binding_size,
        is_software: info.device_type == wgpu::DeviceType::Cpu,
    }
}

/// How many lanes of a software adapter share what they load, if it is a number that there are kernels for
/// and its device has subgroups.
fn software_lanes(adapter: &wgpu::Adapter) -> Option<Lanes> {
    let info = adapter.get_info();
    if info.device_type != wgpu::DeviceType::Cpu {
        return None;
    }
    match (info.subgroup_min_size, info.subgroup_max_size, info.backend) {
        (4, 4, _) => Some(Lanes::Four),
        // Nobody has tried eight there.
        (8, 8, wgpu::Backend::BrowserWebGpu) => None,
        (8, 8, _) => Some(Lanes::Eight),
        _ => None,
    }
}

#[cfg(not(target_arch = "wasm32"))]
fn has_subgroups(device: &wgpu::Device) -> bool {
    device.features().contains(wgpu::Features::SUBGROUP)
}

/// wgpu neither asks a browser for them nor tells of them; whoever opens the device may have.
#[cfg(target_arch = "wasm32")]
fn has_subgroups(device: &wgpu::Device) -> bool {
    device.as_webgpu().is_some_and(|device| device.features().has("subgroups"))
}

/// What is safe to take without measuring.
fn default_variant(adapter: &wgpu::Adapter, lanes: Option<Lanes>) -> Variant {
    match (lanes, adapter.get_info().device_type) {
        (Some(Lanes::Eight), _) => Variant::Broadcast,
        (Some(Lanes::Four), _) => Variant::Quads,
        (_, wgpu::DeviceType::Cpu) => Variant::Loads,
        (_, _) => Variant::Tile,
    }
}

/// WebGPU's guaranteed limits, which are all the kernels need, with the memory limits raised to
/// what the adapter offers (and `ceiling` allows); never more than it has.
fn wanted_limits(offered: &wgpu::Limits, ceiling: &wgpu::Limits) -> wgpu::Limits {
    let mut limits = wgpu::Limits::default().or_worse_values_from(offered);
    limits.max_buffer_size = offered.max_buffer_size.min(ceiling.max_buffer_size);
    limits.max_storage_buffer_binding_size =
        offered.max_storage_buffer_binding_size.min(ceiling.max_storage_buffer_binding_size);
    limits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::check::test_context;
    use crate::testing::async_test;

    #[async_test]
    async fn a_buffer_over_the_limits_is_an_error_and_the_context_stays_usable() {
        let context = test_context().await;
        let most = context.limits().max_storage_buffer_binding_size;
        let error = context.storage("huge", most + 16).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
        assert!(error.to_string().contains("huge needs a buffer of"), "{error}");
        assert!(context.storage("small", 16).is_ok());
    }

    #[async_test]
    async fn a_lost_device_says_so_from_then_on() {
        let context = test_context().await;
        let buffer = context.storage_from("values", &[1u32, 2]).unwrap();
        context.device().destroy();
        let error = context.read::<u32>(&buffer, 0, 2).await.unwrap_err();
        assert!(matches!(error, Error::DeviceLost(_)), "{error}");
        assert!(matches!(context.storage("more", 16), Err(Error::DeviceLost(_))));
    }

    #[async_test]
    async fn an_unknown_adapter_names_those_there_are() {
        let options = ContextOptions { adapter: Some("nosuch".into()), ..Default::default() };
        let error = Context::new(&options).await.unwrap_err().to_string();
        let names = Context::adapters().await;
        assert!(error.contains("nosuch") && error.contains(&names[0].name), "{error}");
    }

    #[async_test]
    async fn memory_is_counted_until_the_last_handle_is_dropped() {
        let context = test_context().await;
        let before = context.memory().now();
        let buffer = context.storage("values", 1000).unwrap();
        let other = buffer.clone();
        assert_eq!(context.memory().now(), before + 1008);
        drop(buffer);
        assert_eq!(context.memory().now(), before + 1008);
        drop(other);
        assert_eq!(context.memory().now(), before);
        assert!(context.memory().peak() >= before + 1008);
    }
}
