//! A checkpoint's folder, opened for the library.

use std::path::Path;

use anyhow::{Context as _, Result};
use engram::formats::{ByteSource, SafetensorsFolder};

use super::local::{SIDE_FILES, WEIGHTS, WEIGHTS_INDEX, shards};
use super::{FileSource, builtin};

/// Largest of the JSON files that is read whole.
const MOST_JSON_BYTES: u64 = 256 << 20;

/// The files of the checkpoint in `folder`; the weights are opened, not read.
pub fn read_folder(folder: &Path) -> Result<SafetensorsFolder> {
    let index_json = optional(folder, WEIGHTS_INDEX)?;
    let names = match &index_json {
        Some(index) => {
            shards(index).with_context(|| folder.join(WEIGHTS_INDEX).display().to_string())?
        }
        None => vec![WEIGHTS.to_owned()],
    };
    let open = |name: String| -> Result<(String, Box<dyn ByteSource>)> {
        let source = FileSource::open(&folder.join(&name))?;
        Ok((name, Box::new(source)))
    };
    Ok(SafetensorsFolder {
        name: folder.display().to_string(),
        weights: names.into_iter().map(open).collect::<Result<_>>()?,
        index_json,
        config_json: required(folder, "config.json")?,
        generation_config_json: optional(folder, "generation_config.json")?,
        tokenizer_json: required(folder, "tokenizer.json")?,
        tokenizer_config_json: optional(folder, "tokenizer_config.json")?,
        chat_template_jinja: optional(folder, "chat_template.jinja")?,
    })
}

/// The files beside the weights that are in `folder`, names and contents.
pub fn side_files(folder: &Path) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut files = Vec::new();
    for name in SIDE_FILES {
        files.extend(optional(folder, name)?.map(|content| (name, content)));
    }
    Ok(files)
}

/// A file that has to be in `folder`, whole.
pub fn required(folder: &Path, name: &str) -> Result<Vec<u8>> {
    let path = folder.join(name);
    optional(folder, name)?.with_context(|| format!("{}: missing", path.display()))
}

fn optional(folder: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let path = folder.join(name);
    match std::fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(builtin::disk_error(&path, error)),
        Ok(found) if found.len() > MOST_JSON_BYTES => {
            anyhow::bail!("{}: {} bytes are too many for such a file", path.display(), found.len())
        }
        Ok(_) => Ok(Some(std::fs::read(&path).map_err(|error| builtin::disk_error(&path, error))?)),
    }
}
