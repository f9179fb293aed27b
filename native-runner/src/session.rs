//! What most commands begin with: a device, and a model on it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use engram::formats::Checkpoint;
use engram::generate::Engine;
use engram::gpu::{Context, ContextOptions};
use engram::model::Quantize;
use engram::text::LocalTime;

use crate::cli::Global;
use crate::engine::{self, Chosen};
use crate::interrupt;
use crate::self_test;
use crate::source::{self, FileSource, ModelFiles};
use crate::terminal::Terminal;
use crate::variants;

/// Opens the device that the options name.
pub fn open_device(global: &Global) -> Result<Context> {
    Ok(pollster::block_on(Context::new(&device_options(global)))?)
}

fn device_options(global: &Global) -> ContextOptions {
    ContextOptions { adapter: global.adapter.clone(), ..Default::default() }
}

/// Finds the model, opens the device and loads the one onto the other.
pub fn load_engine(global: &Global) -> Result<Engine> {
    // Whatever is wrong with the choice shows before the model is fetched.
    let chosen = engine::choose(global, Terminal::new(global))?;
    load_on(global, chosen, false)
}

/// [`load_engine`] on a GPU that measures what each dispatch takes.
pub fn load_engine_to_profile(global: &Global) -> Result<Engine> {
    load_on(global, Chosen::Wgpu, true)
}

fn load_on(global: &Global, chosen: Chosen, profile: bool) -> Result<Engine> {
    let terminal = Terminal::new(global);
    let checkpoint = open_checkpoint(&source::resolve(&global.model, terminal)?)?;
    let mut meter = None;
    let mut on_progress = |done, total| {
        if interrupt::requested() {
            return Err(engram::Error::Cancelled);
        }
        meter.get_or_insert_with(|| terminal.bytes("loading", total)).set(done);
        Ok(())
    };
    let mut engine = match chosen {
        Chosen::Wgpu => {
            let options = ContextOptions { profile, ..device_options(global) };
            let context = pollster::block_on(Context::new(&options))?;
            let adapter = context.adapter();
            terminal.note(format_args!("{} ({})", adapter.name, adapter.backend));
            self_test::on_new_adapter(&context)?;
            if !global.no_autotune {
                variants::choose(&context, terminal)?;
            }
            let quantize = global.quantize.map(Quantize::try_from).transpose()?;
            let engine = Engine::load(&context, &checkpoint, quantize, &mut on_progress);
            pollster::block_on(engine)?
        }
        #[cfg(feature = "burn")]
        Chosen::Burn(device) => {
            pollster::block_on(Engine::load_burn(&device, &checkpoint, &mut on_progress))?
        }
    };
    drop(meter);
    engine.set_time(now());
    engine.set_cache_type(global.cache_type.into());
    Ok(engine)
}

/// Opens a model's files without loading its weights.
pub fn open_checkpoint(files: &ModelFiles) -> Result<Checkpoint> {
    match files {
        ModelFiles::Gguf(path) => {
            Ok(pollster::block_on(Checkpoint::from_gguf(Box::new(FileSource::open(path)?)))?)
        }
        ModelFiles::Folder(folder) => {
            Ok(pollster::block_on(Checkpoint::from_safetensors(source::read_folder(folder)?))?)
        }
    }
}

/// Seconds since the program's first call.
pub fn clock() -> f64 {
    thread_local!(static START: Instant = Instant::now());
    START.with(|start| start.elapsed().as_secs_f64())
}

/// What time it is, for chat templates that ask.
pub fn now() -> LocalTime {
    let unix_seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
    LocalTime { unix_seconds: unix_seconds as i64, utc_offset_seconds: 0 }
}
