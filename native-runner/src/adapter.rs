//! Adapters in folders and files.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Result, bail, ensure};
use engram::formats::adapter::{CONFIG_FILE, Layout, read, read_gguf};
use engram::generate::{Engine, LoadedAdapter};
use engram::model::{AdapterTensors, AnyAdapter, ModelConfig};

use crate::export;
use crate::source::{self, FileSource};
use crate::staged::Staged;

/// What a `peft_type` may be besides LORA.
const KINDS: [&str; 1] = ["BOTTLENECK"];

/// An adapter and how much of it, as people write it: a path, and after a colon a weight.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterSpec {
    /// A folder, or a GGUF file.
    pub path: PathBuf,
    /// 1 is all of it.
    pub weight: f32,
}

impl FromStr for AdapterSpec {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let weighted = text.rsplit_once(':').and_then(|(path, weight)| {
            Some(Self { path: path.into(), weight: weight.parse().ok()? })
        });
        Ok(weighted.unwrap_or_else(|| Self { path: text.into(), weight: 1.0 }))
    }
}

/// One candidate of several: an adapter, or some that are added up, `a:0.7,b:0.3`.
#[derive(Debug, Clone, PartialEq)]
pub struct Blend(pub Vec<AdapterSpec>);

impl From<PathBuf> for Blend {
    fn from(path: PathBuf) -> Self {
        Self(vec![AdapterSpec { path, weight: 1.0 }])
    }
}

impl FromStr for Blend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains(',') && Path::new(text).exists() {
            return Ok(PathBuf::from(text).into());
        }
        let specs: Vec<AdapterSpec> =
            text.split(',').map(str::parse).collect::<Result<_, _>>().unwrap_or_default();
        match specs.iter().all(|spec| !spec.path.as_os_str().is_empty()) {
            true => Ok(Self(specs)),
            false => Err("an adapter's path is empty; blends are written a:0.7,b:0.3".to_owned()),
        }
    }
}

impl Blend {
    /// The name of its folder; of several, or of a part of one, each with its weight, `a:0.7+b:0.3`.
    /// None where a folder has no name of its own.
    pub fn name(&self) -> Option<String> {
        let name = |spec: &AdapterSpec| Some(spec.path.file_name()?.to_string_lossy().into_owned());
        if let [spec @ AdapterSpec { weight: 1.0, .. }] = self.0.as_slice() {
            return name(spec);
        }
        let parts = self.0.iter().map(|spec| Some(format!("{}:{}", name(spec)?, spec.weight)));
        Some(parts.collect::<Option<Vec<_>>>()?.join("+"))
    }
}

/// The adapters, each times its weight, as one on the engine's device; none if there are none.
pub fn load(engine: &Engine, specs: &[AdapterSpec]) -> Result<Option<LoadedAdapter>> {
    let mut read = Vec::new();
    for AdapterSpec { path, weight } in specs {
        let adapter = read_for(path, engine.config())?;
        read.push((path.display().to_string(), adapter, *weight));
    }
    Ok(match &read[..] {
        [] => None,
        [(name, adapter, 1.0)] => Some(engine.load_adapter(name, adapter)?),
        several => {
            let mut parts = Vec::new();
            for (name, adapter, weight) in several {
                let tensors = adapter.lora(name)?;
                tensors.check(name, engine.config())?;
                parts.push((name.as_str(), tensors, *weight));
            }
            let blend = AnyAdapter::Lora(AdapterTensors::blend(&parts)?);
            Some(engine.load_adapter("the blended adapters", &blend)?)
        }
    })
}

/// The adapter of a model of `config` at `path`: a folder, or a GGUF file, whose rows lie as the
/// model's heads have them.
pub fn read_for(path: &Path, config: &ModelConfig) -> Result<AnyAdapter> {
    if !is_gguf(path) {
        return read_folder(path, Some(config));
    }
    let file = FileSource::open(path)?;
    Ok(AnyAdapter::Lora(pollster::block_on(read_gguf(&file, Some(config)))?))
}

/// The files of the adapter at `path`: its configuration and its weights, or one that is both.
pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if is_gguf(path) {
        return Ok(vec![path.to_owned()]);
    }
    // One of several in a folder, as MLX-LM leaves them on the way.
    if path.extension().is_some_and(|extension| extension == "safetensors") && path.is_file() {
        return Ok(vec![path.with_file_name(CONFIG_FILE), path.to_owned()]);
    }
    let shown = path.display();
    ensure!(path.is_dir(), "{shown}: no such folder; give one with an adapter, or a .gguf file");
    let config = source::required(path, CONFIG_FILE)?;
    let name = path.join(CONFIG_FILE);
    let weights = path.join(Layout::detect(&name.display().to_string(), &config)?.weights_file());
    Ok(vec![name, weights])
}

/// The adapter in a folder, in MLX's files or PEFT's, or its weights' file there; of `model`, or as the
/// files have it.
pub fn read_folder(from: &Path, model: Option<&ModelConfig>) -> Result<AnyAdapter> {
    let files = files(from)?;
    let [path, weights] = &files[..] else { bail!("{}: not a folder", from.display()) };
    let config = source::required(path.parent().unwrap_or(Path::new("")), CONFIG_FILE)?;
    let weights = Box::new(FileSource::open(weights)?);
    let name = path.display().to_string();
    Ok(pollster::block_on(read(&name, &config, weights, &KINDS, model))?)
}

/// Whether the adapter at `path` is one file.
pub fn is_gguf(path: &Path) -> bool {
    !path.is_dir() && export::is_gguf(path)
}

/// Writes files, each a name and its content, into `folder`, which is made if it is not there;
/// other files of the folder stay, and whatever goes wrong leaves the older ones as they were.
pub fn write_folder(folder: &Path, files: &[(&str, &[u8])]) -> Result<()> {
    let mut staged = Staged::new(folder)?;
    files.iter().try_for_each(|(name, content)| staged.write(*name, content))?;
    staged.publish()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use engram::formats::adapter::write_named;
    use engram::model::{NamedAdapter, NamedTensor};

    use super::*;

    fn error<T>(result: Result<T>) -> String {
        format!("{:#}", result.err().unwrap())
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_number_after_a_colon_is_a_weight() {
        for (text, path, weight) in [
            ("runs/a", "runs/a", 1.0),
            ("runs/a:0.7", "runs/a", 0.7),
            ("a.gguf:-2", "a.gguf", -2.0),
            ("C:\\runs\\a", "C:\\runs\\a", 1.0),
            ("C:\\a:0.5", "C:\\a", 0.5),
        ] {
            let Ok(spec) = text.parse::<AdapterSpec>();
            assert_eq!(spec, AdapterSpec { path: path.into(), weight });
        }
    }

    #[test]
    fn a_blend_is_named_by_its_parts() {
        for (text, parts, name) in [
            ("runs/a", 1, Some("a")),
            ("runs/a:0.5", 1, Some("a:0.5")),
            ("runs/a:0.7,b.gguf:0.3", 2, Some("a:0.7+b.gguf:0.3")),
            ("a,b", 2, Some("a:1+b:1")),
            ("..", 1, None),
            ("a,..", 2, None),
        ] {
            let blend: Blend = text.parse().unwrap();
            assert_eq!((blend.0.len(), blend.name().as_deref()), (parts, name), "{text}");
        }
        for text in ["", "a,", ",a", "a:1,,b", "a,:0.5"] {
            assert!(text.parse::<Blend>().is_err(), "{text}");
        }
    }

    #[test]
    fn files_are_replaced_and_others_stay() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("runs/adapters");
        write_folder(&folder, &[("a", &b"1"[..]), ("b", b"2")]).unwrap();
        fs::write(folder.join("notes.txt"), "mine").unwrap();
        write_folder(&folder, &[("a", &b"one"[..]), ("b", b"two")]).unwrap();
        assert_eq!(names(&folder), ["a", "b", "notes.txt"]);
        assert_eq!(fs::read(folder.join("a")).unwrap(), b"one");
        assert_eq!(fs::read(folder.join("b")).unwrap(), b"two");
    }

    #[test]
    fn a_failed_write_leaves_the_folder_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("adapters");
        write_folder(&folder, &[("a", &b"1"[..])]).unwrap();
        // The second file can't be made.
        let failed = write_folder(&folder, &[("a", &b"one"[..]), ("no/folder", b"two")]);
        assert!(error(failed).contains("no/folder: "));
        assert_eq!(fs::read(folder.join("a")).unwrap(), b"1");
        assert_eq!(names(&folder), ["a"]);

        let new = root.path().join("new");
        assert!(write_folder(&new, &[("no/folder", &b"two"[..])]).is_err());
        assert!(!new.exists());
    }

    #[test]
    fn a_folder_that_can_not_be_is_one_clear_line() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let problem = error(write_folder(&file, &[("a", &b"1"[..])]));
        assert!(problem.ends_with("; name another output folder"), "{problem}");
    }

    #[test]
    fn what_is_no_adapter_says_why() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path();
        assert!(error(read_folder(&folder.join("no"), None)).contains("no: no such folder"));
        assert!(error(read_folder(folder, None)).contains("adapter_config.json: missing"));
        fs::write(folder.join(CONFIG_FILE), r#"{"peft_type":"LORA","r":1,"lora_alpha":1}"#)
            .unwrap();
        assert!(error(read_folder(folder, None)).contains("adapter_model.safetensors: "));
        fs::write(folder.join("adapter_model.safetensors"), "no").unwrap();
        assert!(
            error(read_folder(folder, None)).contains("adapter_model.safetensors: ends at byte 2")
        );
    }

    #[test]
    fn another_kind_of_adapter_is_read_but_is_no_lora() {
        let folder = tempfile::tempdir().unwrap();
        let name = "model.layers.0.mlp.down_proj.gain".to_owned();
        let named = NamedAdapter {
            kind: "BOTTLENECK".into(),
            config: Default::default(),
            tensors: [(name, NamedTensor { shape: vec![1], values: vec![2.0] })].into(),
        };
        let files = write_named(&named, "m").unwrap();
        write_folder(folder.path(), &files.iter().collect::<Vec<_>>()).unwrap();
        let read = read_folder(folder.path(), None).unwrap();
        assert_eq!(read.count(), 1);
        // Another file of weights in the folder, by its own name.
        let weights = folder.path().join("adapter_model.safetensors");
        let step = folder.path().join("0000100_adapters.safetensors");
        fs::rename(&weights, &step).unwrap();
        assert_eq!(read_folder(&step, None).unwrap(), read);
        assert!(error(read_folder(&weights, None)).contains("no such folder"));
        let problem = read.lora("mine").unwrap_err().to_string();
        assert_eq!(problem, "mine: is a BOTTLENECK adapter, which needs --engine burn");
    }
}
