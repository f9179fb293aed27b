//! The figures as a table on the terminal, and in a file.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Result, bail};
use engram::bench::{Figure, Profiled};
use engram::generate::Engine;
use serde_json::{Value, json};

use crate::cli::{Global, Quantize};
use crate::memory::Peak;
use crate::staged::Staged;

/// Kernels shown of each work; the file has all.
const SHOWN: usize = 12;

/// What was found so far.
pub struct Report {
    /// Its folder can be written.
    file: Option<(Staged, String)>,
    subject: Value,
    format: Option<String>,
    figures: Vec<Value>,
    kernels: Vec<Value>,
}

impl Report {
    pub fn begin(path: Option<&Path>) -> Result<Self> {
        let file = path.map(open).transpose()?;
        let (figures, kernels) = (Vec::new(), Vec::new());
        Ok(Self { file, subject: json!({}), format: None, figures, kernels })
    }

    /// What the figures that follow are of.
    pub fn subject(&mut self, global: &Global, engine: &Engine) -> Result<()> {
        let place = engine.model().place();
        self.subject = json!({
            "model": global.model.name(),
            "quantize": global.quantize.map(Quantize::name),
            "engine": place.engine,
            "device": place.device,
        });
        let (model, device) = (global.model.name(), place.device);
        writeln!(std::io::stdout(), "{model} on {device}, {} engine", place.engine)?;
        Ok(())
    }

    /// The weights of the figures that follow.
    pub fn format(&mut self, format: Quantize) {
        self.format = Some(format.name());
    }

    pub fn figures(&mut self, figures: Vec<Figure>) -> Result<()> {
        let mut out = std::io::stdout().lock();
        for mut figure in figures {
            if let Some(format) = &self.format {
                figure.name = format!("{format}: {}", figure.name);
            }
            let Figure { name, unit, values } = &figure;
            write!(out, "{name:<40} {:>10.2} {unit:<11}", figure.median())?;
            if values.len() > 1 {
                let low = values.iter().copied().fold(f64::MAX, f64::min);
                let high = values.iter().copied().fold(0.0, f64::max);
                write!(out, " {low:.2} to {high:.2}")?;
            }
            writeln!(out)?;
            self.figures.push(serde_json::to_value(&figure)?);
        }
        Ok(())
    }

    pub fn peak(&mut self, peak: Peak) -> Result<()> {
        let figure = Figure::counted(peak.what(), "MB", peak.bytes as f64 / 1e6);
        self.figures(vec![figure])
    }

    pub fn kernels(&mut self, works: Vec<Profiled>) -> Result<()> {
        let mut out = std::io::stdout().lock();
        for Profiled { name, kernels } in works {
            let seconds: f64 = kernels.iter().map(|kernel| kernel.seconds).sum();
            let dispatches: usize = kernels.iter().map(|kernel| kernel.dispatches).sum();
            writeln!(out, "\n{name}: {:.2} ms of the GPU, {dispatches} dispatches", seconds * 1e3)?;
            writeln!(
                out,
                "{:<32} {:>10} {:>10} {:>10} {:>8}",
                "kernel", "workgroups", "dispatches", "ms", "%"
            )?;
            for kernel in kernels.iter().take(SHOWN) {
                writeln!(
                    out,
                    "{:<32} {:>10} {:>10} {:>10.3} {:>8.1}",
                    kernel.kernel,
                    kernel.workgroups,
                    kernel.dispatches,
                    kernel.seconds * 1e3,
                    100.0 * kernel.seconds / seconds
                )?;
            }
            let row = |kernel: &engram::gpu::KernelTime| {
                json!({
                    "kernel": kernel.kernel,
                    "workgroups": kernel.workgroups,
                    "dispatches": kernel.dispatches,
                    "seconds": kernel.seconds,
                })
            };
            let rows: Vec<Value> = kernels.iter().map(row).collect();
            self.kernels.push(json!({ "work": name, "seconds": seconds, "kernels": rows }));
        }
        Ok(())
    }

    /// Writes the file, if one is wanted.
    pub fn write(self) -> Result<()> {
        let Some((mut file, name)) = self.file else { return Ok(()) };
        let mut report = self.subject;
        report["figures"] = self.figures.into();
        if !self.kernels.is_empty() {
            report["kernels"] = self.kernels.into();
        }
        file.write(name, format!("{report:#}\n"))?;
        file.publish()
    }
}

fn open(path: &Path) -> Result<(Staged, String)> {
    let path = std::path::absolute(path)?;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        bail!("{}: no file; name one for the figures", path.display())
    };
    Ok((Staged::new(folder)?, name.to_string_lossy().into_owned()))
}
