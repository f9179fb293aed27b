//! Which engine computes, and why.

use anyhow::{Result, ensure};
#[cfg(feature = "burn")]
use engram::burn;
use engram::gpu::{AdapterSummary, Context};

#[cfg(feature = "burn")]
use crate::cli::DeviceChoice;
use crate::cli::{EngineChoice, Global};
use crate::terminal::Terminal;

/// An engine and where it computes.
pub enum Chosen {
    /// Our kernels, on the GPU adapter that the options name.
    Wgpu,
    /// burn.
    #[cfg(feature = "burn")]
    Burn(burn::Device),
}

/// The engine that the options ask for; what `auto` came to is said in one line.
pub fn choose(global: &Global, terminal: Terminal) -> Result<Chosen> {
    match global.engine {
        EngineChoice::Wgpu => {
            ensure!(global.device.is_none(), "--device is where burn computes; add --engine burn");
            Ok(Chosen::Wgpu)
        }
        EngineChoice::Burn => burn_on(global),
        EngineChoice::Auto => {
            ensure!(global.device.is_none(), "--device is where burn computes; add --engine burn");
            let asked = match (&global.adapter, global.quantize) {
                (Some(_), _) => Some("--adapter names a GPU adapter"),
                (_, Some(_)) => Some("--quantize is of that engine"),
                _ => None,
            };
            let adapters = match asked {
                Some(_) => Vec::new(),
                None => pollster::block_on(Context::adapters()),
            };
            let (takes_wgpu, why) = decide(asked, &adapters, cfg!(feature = "burn"));
            match takes_wgpu {
                true => {
                    let other =
                        if cfg!(feature = "burn") { "; --engine burn takes the CPU" } else { "" };
                    terminal.note(format_args!("engine: wgpu, since {why}{other}"));
                    Ok(Chosen::Wgpu)
                }
                false => {
                    terminal.note(format_args!(
                        "engine: burn on the CPU, since {why}; --engine wgpu takes our kernels"
                    ));
                    burn_on(global)
                }
            }
        }
    }
}

/// Whether `auto` takes wgpu, and why; `asked` is why the options leave no choice.
fn decide(
    asked: Option<&'static str>,
    adapters: &[AdapterSummary],
    has_burn: bool,
) -> (bool, String) {
    match (asked, adapters.first()) {
        (Some(why), _) => (true, why.to_owned()),
        (None, Some(best)) if !best.is_software => (true, format!("there is {}", best.name)),
        (None, _) if !has_burn => (true, "this program was built without burn".to_owned()),
        (None, Some(best)) => (false, format!("the only GPU adapter, {}, is software", best.name)),
        (None, None) => (false, "there is no GPU adapter".to_owned()),
    }
}

#[cfg(feature = "burn")]
fn burn_on(global: &Global) -> Result<Chosen> {
    ensure!(
        global.quantize.is_none(),
        "--quantize is for --engine wgpu; burn holds the weights as 32-bit floats"
    );
    match global.device.unwrap_or(DeviceChoice::Cpu) {
        DeviceChoice::Cpu => {
            ensure!(
                global.adapter.is_none(),
                "--adapter names a GPU adapter, and burn computes on the CPU; add --device wgpu"
            );
            Ok(Chosen::Burn(burn::Device::cpu()))
        }
        DeviceChoice::Wgpu => on_wgpu(global),
    }
}

#[cfg(feature = "burn-wgpu")]
fn on_wgpu(global: &Global) -> Result<Chosen> {
    let options = engram::gpu::ContextOptions {
        adapter: global.adapter.clone(),
        whole_adapter: true,
        ..Default::default()
    };
    let context = pollster::block_on(Context::new(&options))?;
    Ok(Chosen::Burn(burn::Device::wgpu(&context)?))
}

#[cfg(all(feature = "burn", not(feature = "burn-wgpu")))]
fn on_wgpu(_: &Global) -> Result<Chosen> {
    anyhow::bail!("this program was built without burn-wgpu: build it with `--features burn-wgpu`")
}

#[cfg(not(feature = "burn"))]
fn burn_on(_: &Global) -> Result<Chosen> {
    anyhow::bail!("this program was built without burn: build it with `--features burn`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(name: &str, is_software: bool) -> AdapterSummary {
        AdapterSummary {
            name: name.into(),
            backend: "Vulkan".into(),
            device_type: "Cpu".into(),
            driver: "1".into(),
            max_storage_binding: 1,
            is_software,
        }
    }

    #[test]
    fn auto_takes_a_real_gpu_and_else_the_cpu() {
        let (gpu, cpu) = ([adapter("RTX", false)], [adapter("llvmpipe", true)]);
        for (asked, adapters, has_burn, wgpu, why) in [
            (None, &gpu[..], true, true, "there is RTX"),
            (None, &gpu[..], false, true, "there is RTX"),
            (None, &cpu[..], true, false, "llvmpipe, is software"),
            (None, &cpu[..], false, true, "without burn"),
            (None, &[], true, false, "no GPU adapter"),
            (None, &[], false, true, "without burn"),
            (Some("--adapter names it"), &[], true, true, "--adapter names it"),
        ] {
            let (takes_wgpu, because) = decide(asked, adapters, has_burn);
            assert_eq!(takes_wgpu, wgpu, "{because}");
            assert!(because.contains(why), "{because}");
        }
    }
}
