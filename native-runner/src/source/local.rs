//! A model in a file or a folder.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use engram::formats::ByteSource as _;

use super::{FileSource, ModelFiles};

/// Files of a checkpoint beside its weights; the first two have to be there.
pub const SIDE_FILES: [&str; 6] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
];
/// How many of [`SIDE_FILES`] have to be there.
pub const REQUIRED: usize = 2;
/// The weights in one file.
pub const WEIGHTS: &str = "model.safetensors";
/// The list of the files that the weights are spread over.
pub const WEIGHTS_INDEX: &str = "model.safetensors.index.json";

/// The model at `path`.
pub fn find(path: &Path) -> Result<ModelFiles> {
    let shown = path.display();
    let metadata = std::fs::metadata(path).with_context(|| {
        format!("{shown}: no model there (a Hugging Face repository is written hf:ORG/NAME)")
    })?;
    if metadata.is_dir() {
        return find_in_folder(path);
    }
    if path.extension().is_some_and(|extension| extension == "safetensors") {
        bail!("{shown}: give the folder, which has to hold config.json and tokenizer.json too");
    }
    let mut magic = [0; 4];
    let source = FileSource::open(path)?;
    if source.len() < 4 || source.read(0, &mut magic).is_err() || &magic != b"GGUF" {
        bail!("{shown}: not a GGUF file");
    }
    Ok(ModelFiles::Gguf(path.to_owned()))
}

fn find_in_folder(folder: &Path) -> Result<ModelFiles> {
    let shown = folder.display();
    if folder.join(WEIGHTS).exists() || folder.join(WEIGHTS_INDEX).exists() {
        checkpoint_paths(folder)?;
        return Ok(ModelFiles::Folder(folder.to_owned()));
    }
    match ggufs(folder)?.as_slice() {
        [one] => find(one),
        [] => bail!("{shown}: neither {WEIGHTS} nor a .gguf file in it"),
        several => bail!("{shown}: {} .gguf files in it, name one of them", several.len()),
    }
}

/// The GGUF files in `folder`, by their names.
pub fn ggufs(folder: &Path) -> Result<Vec<PathBuf>> {
    let shown = folder.display();
    let mut ggufs = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| shown.to_string())? {
        let path = entry.with_context(|| shown.to_string())?.path();
        if path.extension().is_some_and(|extension| extension == "gguf") {
            ggufs.push(path);
        }
    }
    Ok(ggufs)
}

/// The files of the checkpoint in `folder`; an error names the one that is missing.
pub fn checkpoint_paths(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for (index, name) in SIDE_FILES.iter().enumerate() {
        let path = folder.join(name);
        if path.is_file() {
            paths.push(path);
        } else {
            ensure!(index >= REQUIRED, "{}: {name} is missing", folder.display());
        }
    }
    let index = folder.join(WEIGHTS_INDEX);
    if index.is_file() {
        let text = std::fs::read(&index).with_context(|| index.display().to_string())?;
        let shards = shards(&text).with_context(|| index.display().to_string())?;
        paths.push(index);
        paths.extend(shards.iter().map(|shard| folder.join(shard)));
    } else {
        paths.push(folder.join(WEIGHTS));
    }
    for path in &paths {
        ensure!(path.is_file(), "{}: missing; fetch the model again", path.display());
    }
    Ok(paths)
}

/// The files that [`WEIGHTS_INDEX`] lists, in order, each once.
pub fn shards(index: &[u8]) -> Result<Vec<String>> {
    let index: serde_json::Value = serde_json::from_slice(index).context("not JSON")?;
    let map = index.get("weight_map").and_then(|map| map.as_object());
    let mut shards = Vec::new();
    for shard in map.context("no weight_map in it")?.values() {
        let shard = shard.as_str().context("weight_map names something that is no file")?;
        ensure!(super::spec::is_plain(shard), "weight_map names the file {shard:?}");
        shards.push(shard.to_owned());
    }
    shards.sort();
    shards.dedup();
    ensure!(!shards.is_empty(), "weight_map is empty");
    Ok(shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            std::fs::write(folder.path().join(file), b"GGUF").unwrap();
        }
        folder
    }

    fn error(path: &Path) -> String {
        format!("{:#}", find(path).unwrap_err())
    }

    #[test]
    fn a_gguf_is_found_by_its_name_or_its_folder() {
        let folder = folder(&["m.gguf", "README.md"]);
        let file = folder.path().join("m.gguf");
        let expected = ModelFiles::Gguf(file.clone());
        assert_eq!(find(&file).unwrap(), expected);
        assert_eq!(find(folder.path()).unwrap(), expected);
        assert_eq!(expected.paths().unwrap(), [file]);
    }

    #[test]
    fn a_checkpoint_needs_its_configuration_tokenizer_and_shards() {
        let folder = folder(&["config.json", WEIGHTS]);
        let path = folder.path();
        assert!(error(path).contains("tokenizer.json is missing"));
        std::fs::write(path.join("tokenizer.json"), b"{}").unwrap();
        assert_eq!(find(path).unwrap(), ModelFiles::Folder(path.to_owned()));

        let index =
            r#"{"weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}}"#;
        std::fs::write(path.join(WEIGHTS_INDEX), index).unwrap();
        std::fs::write(path.join("1.safetensors"), b"").unwrap();
        assert!(error(path).contains("2.safetensors: missing"), "{}", error(path));
        std::fs::write(path.join("2.safetensors"), b"").unwrap();
        assert_eq!(checkpoint_paths(path).unwrap().len(), 5);
    }

    #[test]
    fn what_is_no_model_says_why() {
        let none = folder(&["README.md"]);
        assert!(error(none.path()).contains("neither"));
        let two = folder(&["a.gguf", "b.gguf"]);
        assert!(error(two.path()).contains("2 .gguf files"));
        let weights = folder(&["x.safetensors"]);
        assert!(error(&weights.path().join("x.safetensors")).contains("give the folder"));
        let short = weights.path().join("short.gguf");
        std::fs::write(&short, b"GGU").unwrap();
        assert!(error(&short).contains("not a GGUF file"));
        assert!(error(Path::new("no/such")).contains("hf:ORG/NAME"));
    }

    #[test]
    fn an_index_that_leaves_its_folder_is_refused() {
        for index in [
            r#"{"weight_map": {"a": "../x"}}"#,
            r#"{"weight_map": {"a": 1}}"#,
            r#"{"weight_map": {}}"#,
            "{}",
            "[",
        ] {
            assert!(shards(index.as_bytes()).is_err(), "{index}");
        }
    }
}
