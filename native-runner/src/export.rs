//! Models written to files.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use engram::convert::{Export, config_with_dtype, folder_files};
use engram::formats::{Checkpoint, DType};
use engram::model::AdapterTensors;
use indicatif::DecimalBytes;

use crate::interrupt;
use crate::source::{self, ModelFiles};
use crate::staged::Staged;
use crate::terminal::Terminal;

/// Which files a model is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModelFormat {
    /// One .gguf file, as llama.cpp reads it
    Gguf,
    /// A folder with model.safetensors, as transformers reads it
    Safetensors,
}

impl ModelFormat {
    /// What `out` is the name of, or else what `files` are.
    pub fn of(out: &Path, files: &ModelFiles) -> Self {
        match files {
            _ if is_gguf(out) => ModelFormat::Gguf,
            ModelFiles::Gguf(_) => ModelFormat::Gguf,
            ModelFiles::Folder(_) => ModelFormat::Safetensors,
        }
    }
}

/// Whether it is the name of a GGUF file.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gguf")
}

/// A model and what becomes of it.
pub struct Job<'a> {
    /// Its files.
    pub files: &'a ModelFiles,
    /// Its weights.
    pub checkpoint: &'a Checkpoint,
    /// What a GGUF file made of safetensors calls it.
    pub name: &'a str,
    /// What is fused into its weights.
    pub adapter: Option<&'a AdapterTensors>,
    /// The files to write.
    pub format: ModelFormat,
    /// The type of the matrices; their own if there is none.
    pub dtype: Option<DType>,
}

impl Job<'_> {
    /// Writes the model to `out`, whole or not at all, and says in a line what is there now. Ctrl-C
    /// ends it and leaves nothing.
    pub fn write(&self, out: &Path, terminal: Terminal) -> Result<()> {
        let _deferred = interrupt::defer();
        check_place(out, self.format, self.files)?;
        let export = match self.format {
            ModelFormat::Gguf => {
                let (adapter, dtype) = (self.adapter, self.dtype);
                pollster::block_on(Export::gguf(self.checkpoint, adapter, dtype, self.name))?
            }
            ModelFormat::Safetensors => {
                Export::safetensors(self.checkpoint, self.adapter, self.dtype)?
            }
        };
        let total = export.bytes()?;
        let (mut staged, weights) = match self.format {
            ModelFormat::Gguf => Staged::of_file(out)?,
            ModelFormat::Safetensors => (Staged::new(out)?, source::WEIGHTS.to_owned()),
        };
        if self.format == ModelFormat::Safetensors {
            for (name, content) in self.side_files(&export)? {
                staged.write(name, content)?;
            }
        }
        let mut file = staged.create(weights)?;
        let mut meter = terminal.bytes("writing", total);
        pollster::block_on(export.write(&mut |piece| {
            if interrupt::requested() {
                return Err(engram::Error::Cancelled);
            }
            file.write(piece)?;
            meter.add(piece.len() as u64);
            Ok(())
        }))?;
        drop(meter);
        file.finish()?;
        staged.publish()?;
        let (shown, size) = (out.display(), DecimalBytes(total));
        Ok(writeln!(io::stdout(), "{shown}: {size}, {}", contents(&export))?)
    }

    /// The files beside safetensors.
    fn side_files(&self, export: &Export<'_>) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let widest = export.tensors().max_by_key(|t| t.shape.iter().product::<usize>());
        let dtype = widest.map_or(DType::F32, |tensor| tensor.dtype);
        let ModelFiles::Folder(folder) = self.files else {
            return Ok(folder_files(self.checkpoint, dtype)?);
        };
        let mut files = source::side_files(folder)?;
        for (name, content) in &mut files {
            if *name == "config.json" {
                let shown = folder.join(*name).display().to_string();
                *content = config_with_dtype(&shown, content, dtype)?;
            }
        }
        Ok(files)
    }
}

/// Refuses a place where the model would not be found, or another one would be lost.
fn check_place(out: &Path, format: ModelFormat, files: &ModelFiles) -> Result<()> {
    let shown = out.display();
    match format {
        ModelFormat::Gguf => ensure!(is_gguf(out), "{shown}: name a file that ends in .gguf"),
        ModelFormat::Safetensors => {
            ensure!(
                !is_gguf(out),
                "{shown}: name a folder, for a model in safetensors is several files"
            );
            let index = out.join(source::WEIGHTS_INDEX);
            ensure!(
                !index.exists(),
                "{shown}: holds a model in several parts; name another folder"
            );
        }
    }
    let (ModelFiles::Gguf(from) | ModelFiles::Folder(from)) = files;
    if let (Ok(from), Ok(to)) = (from.canonicalize(), out.canonicalize())
        && from == to
    {
        bail!("{shown}: is what is read; give another --out");
    }
    Ok(())
}

/// How many tensors of which type, the most first.
fn contents(export: &Export<'_>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    export.tensors().for_each(|tensor| *counts.entry(tensor.dtype.name()).or_default() += 1);
    let total: usize = counts.values().sum();
    let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    let list: Vec<String> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    format!("{total} tensors ({})", list.join(", "))
}
