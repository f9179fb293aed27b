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
use serde_json::{Map, json};

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
    /// Most bytes of tensors in a file of safetensors; one file has all if there is none.
    pub max_shard_size: Option<u64>,
}

/// Bytes as Hugging Face writes them: `5GB` is 5 · 10⁹, `5GiB` 5 · 2³⁰.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, unit) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit.to_ascii_uppercase().as_str() {
        "KB" => Some(1_000),
        "MB" => Some(1_000_000),
        "GB" => Some(1_000_000_000),
        "KIB" => Some(1 << 10),
        "MIB" => Some(1 << 20),
        "GIB" => Some(1 << 30),
        _ => None,
    };
    let bytes = factor.and_then(|factor: u64| digits.parse::<u64>().ok()?.checked_mul(factor));
    bytes.filter(|&bytes| bytes > 0).ok_or_else(|| "not a size such as 5GB or 500MB".to_owned())
}

impl Job<'_> {
    /// Writes the model to `out`, whole or not at all, and says in a line what is there now. Ctrl-C
    /// ends it and leaves nothing.
    pub fn write(&self, out: &Path, terminal: Terminal) -> Result<()> {
        let _deferred = interrupt::defer();
        check_place(out, self.format, self.files)?;
        ensure!(
            self.max_shard_size.is_none() || self.format == ModelFormat::Safetensors,
            "--max-shard-size is of safetensors; a GGUF model is one file"
        );
        let export = match self.format {
            ModelFormat::Gguf => {
                let (adapter, dtype) = (self.adapter, self.dtype);
                pollster::block_on(Export::gguf(self.checkpoint, adapter, dtype, self.name))?
            }
            ModelFormat::Safetensors => {
                Export::safetensors(self.checkpoint, self.adapter, self.dtype)?
            }
        };
        let (mut staged, weights) = match self.format {
            ModelFormat::Gguf => Staged::of_file(out)?,
            ModelFormat::Safetensors => (Staged::new(out)?, source::WEIGHTS.to_owned()),
        };
        let contents = contents(&export);
        if self.format == ModelFormat::Safetensors {
            for (name, content) in self.side_files(&export)? {
                staged.write(name, content)?;
            }
        }
        let exports = match self.max_shard_size {
            Some(most) => export.sharded(most)?,
            None => vec![export],
        };
        let parts = exports.len();
        let names: Vec<String> = match parts {
            1 => vec![weights],
            _ => (1..=parts).map(|i| format!("model-{i:05}-of-{parts:05}.safetensors")).collect(),
        };
        if parts > 1 {
            let one = out.join(source::WEIGHTS);
            ensure!(!one.exists(), "{}: is there, and would be read; remove it", one.display());
            staged.write(source::WEIGHTS_INDEX, index(&names, &exports)?)?;
        }
        let total = exports.iter().map(Export::bytes).sum::<engram::Result<u64>>()?;
        let mut meter = terminal.bytes("writing", total);
        for (name, export) in names.into_iter().zip(&exports) {
            let mut file = staged.create(name)?;
            pollster::block_on(export.write(&mut |piece| {
                if interrupt::requested() {
                    return Err(engram::Error::Cancelled);
                }
                file.write(piece)?;
                meter.add(piece.len() as u64);
                Ok(())
            }))?;
            file.finish()?;
        }
        drop(meter);
        staged.publish()?;
        let (shown, size) = (out.display(), DecimalBytes(total));
        let files = if parts > 1 { format!(" in {parts} files") } else { String::new() };
        Ok(writeln!(io::stdout(), "{shown}: {size}{files}, {contents}")?)
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

/// `model.safetensors.index.json`: which tensor is in which file.
fn index(names: &[String], exports: &[Export<'_>]) -> Result<Vec<u8>> {
    let (mut map, mut total) = (Map::new(), 0);
    for (name, export) in names.iter().zip(exports) {
        for tensor in export.tensors() {
            total += tensor.bytes()?;
            map.insert(tensor.name.clone(), name.as_str().into());
        }
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    Ok(serde_json::to_vec_pretty(&index)?)
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
