//! The `--model` argument.

use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use super::builtin;

/// What `--model` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSpec {
    /// The model that `engram` knows by name.
    Builtin,
    /// A file or a folder.
    Path(PathBuf),
    /// A repository of the Hugging Face hub.
    Hub(HubSpec),
}

impl ModelSpec {
    /// What a report calls it: a name without the path.
    pub fn name(&self) -> String {
        match self {
            ModelSpec::Builtin => builtin::NAME.to_owned(),
            ModelSpec::Path(path) => path
                .canonicalize()
                .unwrap_or_else(|_| path.clone())
                .file_name()
                .map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned()),
            ModelSpec::Hub(hub) => hub.to_string(),
        }
    }
}

/// `hf:ORG/NAME[@REVISION][:FILE]`, a model or a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSpec {
    /// `ORG/NAME`.
    pub repository: String,
    /// A branch, tag or commit.
    pub revision: String,
    /// A GGUF file of the repository, where it has several; of a data set, a part.
    pub file: Option<String>,
    /// Which of the two.
    pub is_data_set: bool,
}

impl HubSpec {
    /// A data set, of `ORG/NAME[@REVISION]`.
    pub fn data_set(text: &str) -> Option<Self> {
        let spec = parse_hub(text).filter(|spec| spec.file.is_none())?;
        Some(Self { is_data_set: true, ..spec })
    }
}

impl std::fmt::Display for ModelSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ModelSpec::Builtin => f.write_str(builtin::NAME),
            ModelSpec::Path(path) => path.display().fmt(f),
            ModelSpec::Hub(hub) => hub.fmt(f),
        }
    }
}

impl std::fmt::Display for HubSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "hf:{}", self.repository)?;
        if self.revision != MAIN {
            write!(f, "@{}", self.revision)?;
        }
        self.file.iter().try_for_each(|file| write!(f, ":{file}"))
    }
}

const MAIN: &str = "main";

impl FromStr for ModelSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            Err("empty; leave the option out for the built-in model".to_owned())
        } else if text == builtin::NAME {
            Ok(ModelSpec::Builtin)
        } else if let Some(rest) = text.strip_prefix("hf:") {
            parse_hub(rest)
                .map(ModelSpec::Hub)
                .ok_or_else(|| "not of the form hf:ORG/NAME[@REVISION][:FILE]".to_owned())
        } else {
            Ok(ModelSpec::Path(text.into()))
        }
    }
}

fn parse_hub(text: &str) -> Option<HubSpec> {
    let (text, file) = match text.split_once(':') {
        Some((text, file)) => (text, Some(file)),
        None => (text, None),
    };
    let (repository, revision) = text.split_once('@').unwrap_or((text, MAIN));
    let is_valid = repository.split('/').count() <= 2
        && is_plain(repository)
        && is_plain(revision)
        && file.is_none_or(is_plain);
    is_valid.then(|| HubSpec {
        repository: repository.to_owned(),
        revision: revision.to_owned(),
        file: file.map(str::to_owned),
        is_data_set: false,
    })
}

/// Whether `name` is safe in a URL and as a path below a folder.
pub fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.split('/').all(|part| !part.is_empty())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+/".contains(&byte))
        && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(repository: &str, revision: &str, file: Option<&str>) -> ModelSpec {
        ModelSpec::Hub(HubSpec {
            repository: repository.into(),
            revision: revision.into(),
            file: file.map(Into::into),
            is_data_set: false,
        })
    }

    #[test]
    fn every_form_is_understood() {
        let cases = [
            ("smollm2-135m-instruct", ModelSpec::Builtin),
            ("./smollm2-135m-instruct", ModelSpec::Path("./smollm2-135m-instruct".into())),
            ("C:\\m.gguf", ModelSpec::Path("C:\\m.gguf".into())),
            ("hf:a/b", hub("a/b", "main", None)),
            ("hf:gpt2", hub("gpt2", "main", None)),
            ("hf:a/b@refs/pr/1", hub("a/b", "refs/pr/1", None)),
            ("hf:a/b:q/m.gguf", hub("a/b", "main", Some("q/m.gguf"))),
            ("hf:a/b@v1.0:m-Q8_0.gguf", hub("a/b", "v1.0", Some("m-Q8_0.gguf"))),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn names_that_leave_their_folder_are_refused() {
        for text in [
            "hf:",
            "hf:a/b/c",
            "hf:/b",
            "hf:a/..",
            "hf:a/b@",
            "hf:a/b:",
            "hf:a/b:../x",
            "hf:a b",
            "",
        ] {
            assert!(text.parse::<ModelSpec>().is_err(), "{text}");
        }
    }

    #[test]
    fn is_written_as_it_is_read() {
        for text in ["hf:a/b", "hf:a/b@v1", "hf:a/b@v1:m.gguf"] {
            let Ok(ModelSpec::Hub(spec)) = text.parse() else { panic!("{text}") };
            assert_eq!(spec.to_string(), text);
        }
    }
}
