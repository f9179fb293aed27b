//! The `--data` argument.

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::slice::Slice;
use crate::source::HubSpec;

/// What a value of `--data` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataSpec {
    /// A file, a folder, or a pattern of either.
    Path(PathBuf),
    /// A data set of the Hugging Face hub; its `file` is the part of it that is wanted, and of each
    /// set's records maybe a slice.
    Hub(HubSpec, Option<Slice>),
}

impl FromStr for DataSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("hf:") {
            _ if text.is_empty() => Err("empty; name a file, a folder or hf:ORG/NAME".to_owned()),
            None => Ok(DataSpec::Path(text.into())),
            Some(rest) => {
                let (rest, slice) = Slice::split(rest)?;
                let (name, part) = match rest.split_once(':') {
                    Some((name, part)) => (name, Some(part)),
                    None => (rest, None),
                };
                HubSpec::data_set(name)
                    .filter(|_| part != Some(""))
                    .map(|spec| HubSpec { file: part.map(str::to_owned), ..spec })
                    .map(|spec| DataSpec::Hub(spec, slice))
                    .ok_or_else(|| "not of the form hf:ORG/NAME[@REVISION][:PART]".to_owned())
            }
        }
    }
}

impl std::fmt::Display for DataSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DataSpec::Path(path) => path.display().fmt(f),
            DataSpec::Hub(hub, slice) => {
                hub.fmt(f)?;
                slice.iter().try_for_each(|slice| slice.fmt(f))
            }
        }
    }
}

impl Serialize for DataSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_as_it_is_read() {
        for text in [
            "d",
            "d/*.csv",
            "hf:a/b",
            "hf:a/b@v1",
            "hf:a/b:train",
            "hf:a/b@v1:c/d-*.csv",
            "hf:a/b[:10%]",
            "hf:a/b:train[-5:]",
        ] {
            let spec: DataSpec = text.parse().unwrap();
            assert_eq!(spec.to_string(), text);
            assert_eq!(matches!(spec, DataSpec::Hub(..)), text.starts_with("hf:"));
        }
        for text in ["", "hf:", "hf:a/b:", "hf:a/b@", "hf:a/../b", "hf:a/b/c", "hf:a/b:train[5]"] {
            assert!(text.parse::<DataSpec>().is_err(), "{text}");
        }
    }
}
