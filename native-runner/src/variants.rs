//! The kernels' variants for an adapter: the fastest, found at its first use and remembered.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use anyhow::Result;
use engram::gpu::{AdapterSummary, Context, Variants};
use engram::kernels::tune::tune;

use crate::session;
use crate::source::builtin;
use crate::terminal::Terminal;

/// In the folder for caches: the variants by adapter.
const FILE: &str = "variants.json";

type Known = BTreeMap<String, Variants>;

/// Takes the fastest variants on the context's device: those that the file has, or those that are
/// found now.
pub fn choose(context: &Context, terminal: Terminal) -> Result<()> {
    let name = name(context.adapter());
    // Without a folder, or a file that can't be read or written, they are just found each time.
    let path = builtin::cache_folder().ok().map(|folder| folder.join(FILE));
    let mut known = path.as_deref().map(read).unwrap_or_default();
    if let Some(&found) = known.get(&name)
        && context.set_variants(found).is_ok()
    {
        return Ok(());
    }
    let start = session::clock();
    let found = pollster::block_on(tune(context, &session::clock))?;
    context.set_variants(found)?;
    let seconds = session::clock() - start;
    terminal
        .note(format_args!("tried the kernels' variants on this adapter: {seconds:.1} s, once"));
    tracing::info!("variants: {found:?}");
    known.insert(name, found);
    if let Some(Err(error)) = path.map(|path| write(&path, &known)) {
        tracing::info!("the variants are tried again next time: {error}");
    }
    Ok(())
}

/// Another version of any of them may differ.
fn name(adapter: &AdapterSummary) -> String {
    let AdapterSummary { name, backend, driver, .. } = adapter;
    format!("engram {}, {name}, {backend}, {driver}", env!("CARGO_PKG_VERSION"))
}

/// Nothing if the file is missing or is not what [`write`] wrote.
fn read(path: &Path) -> Known {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Beside it first, so that another process never reads half a file.
fn write(path: &Path, known: &Known) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    serde_json::to_writer_pretty(&mut file, known)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use engram::gpu::Variant;

    use super::*;

    #[test]
    fn what_was_written_is_read_and_anything_else_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below").join(FILE);
        assert_eq!(read(&path), Known::new());
        let known = Known::from([("a".into(), Variants::all(Variant::Loads))]);
        write(&path, &known).unwrap();
        assert_eq!(read(&path), known);
        std::fs::write(&path, r#"{"a": {"matmul": "other"}}"#).unwrap();
        assert_eq!(read(&path), Known::new());
    }
}
