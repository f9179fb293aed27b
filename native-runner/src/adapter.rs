//! Adapters in folders.

use std::path::Path;
use std::rc::Rc;

use anyhow::Result;
use engram::generate::Engine;
use engram::model::Adapter;
use engram::ops::Parameter;

/// The adapter in `folder`, on the engine's device; none if there is no folder.
pub fn load(_engine: &Engine, folder: Option<&Path>) -> Result<Option<Rc<Adapter<Parameter>>>> {
    anyhow::ensure!(folder.is_none(), "adapters can't be loaded yet");
    Ok(None)
}
