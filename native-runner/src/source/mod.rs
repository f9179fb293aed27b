//! Where a model comes from: the one `--model` argument, resolved to files on this machine.

pub mod builtin;
pub mod checksum;
mod file;
mod folder;
mod hub;
mod local;
mod package;
mod spec;

use std::path::PathBuf;

use anyhow::Result;

pub use file::FileSource;
pub use folder::{read_folder, required, side_files};
pub use hub::Hub;
pub use local::{WEIGHTS, WEIGHTS_INDEX, ggufs};
pub use spec::{HubSpec, ModelSpec, is_plain};

use crate::terminal::Terminal;

/// A model on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelFiles {
    /// One GGUF file, which holds everything.
    Gguf(PathBuf),
    /// A folder with `config.json`, `tokenizer.json` and safetensors.
    Folder(PathBuf),
}

impl ModelFiles {
    /// Every file of it that is read.
    pub fn paths(&self) -> Result<Vec<PathBuf>> {
        match self {
            ModelFiles::Gguf(path) => Ok(vec![path.clone()]),
            ModelFiles::Folder(folder) => local::checkpoint_paths(folder),
        }
    }
}

/// The files of the model that `spec` names, downloaded if they have to be.
pub fn resolve(spec: &ModelSpec, terminal: Terminal) -> Result<ModelFiles> {
    match spec {
        ModelSpec::Builtin => Ok(ModelFiles::Gguf(builtin::fetch(terminal)?)),
        ModelSpec::Path(path) => local::find(path),
        ModelSpec::Hub(repository) => hub::Hub::from_env()?.fetch(repository, terminal),
    }
}
