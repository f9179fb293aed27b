//! Data sets: which files make them up, and what is in them.

mod hub;
mod layout;
mod options;
mod parquet;
mod slice;
mod spec;

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, Result, bail, ensure};
use engram::data::file::RecordFile;
use engram::data::jsonl;
use engram::data::record::Features;
use engram::data::split::Splits;
use engram::data::tokens::{Encode, Example, LossOn};

pub use self::layout::{Set, is_data};
pub use self::options::{Data, DataOptions, FeatureOptions, records, shown};
use self::slice::Slice;
pub use self::spec::DataSpec;
use crate::source::{Hub, HubSpec};
use crate::staged::Staged;
use crate::terminal::Terminal;

/// Where a data file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On this machine.
    Local(PathBuf),
    /// On the hub, or in its cache.
    Hub(HubSpec),
    /// There, one of the files of what was named, of whose records together a part is taken.
    Slice(HubSpec, Rc<Part>),
}

/// What was named, and which of its records.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    name: String,
    slice: Slice,
}

impl Place {
    /// What errors call it.
    pub fn name(&self) -> String {
        match self {
            Place::Local(path) => path.display().to_string(),
            // By its own name: that of the commit would say nothing.
            Place::Hub(spec) | Place::Slice(spec, _) => {
                let file = spec.file.as_deref().unwrap_or_default();
                format!("hf:{}:{file}", spec.repository)
            }
        }
    }

    /// Whether it is on this machine for sure.
    pub fn is_here(&self) -> bool {
        matches!(self, Place::Local(_))
    }

    /// The file on this machine, downloaded if it has to be.
    pub fn fetch(&self, terminal: Terminal) -> Result<PathBuf> {
        match self {
            Place::Local(path) => Ok(path.clone()),
            Place::Hub(spec) | Place::Slice(spec, _) => {
                let file = spec.file.as_deref().unwrap_or_default();
                Hub::from_env()?.fetch_file(spec, file, None, terminal)
            }
        }
    }

    /// All its records; [`read`] takes the parts that slices are.
    pub fn read(&self, features: &Features, terminal: Terminal) -> Result<RecordFile> {
        let (path, name) = (self.fetch(terminal)?, self.name());
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet")) {
            return parquet::read(&path, &name, features);
        }
        let bytes = std::fs::read(&path).with_context(|| name.clone())?;
        Ok(RecordFile::parse(&name, &bytes, features)?)
    }
}

/// The files of each set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files([Vec<Place>; 3]);

impl Files {
    /// Those of one set.
    pub fn of(&self, set: Set) -> &[Place] {
        &self.0[set as usize]
    }
}

/// What one value of `--data` names.
#[derive(Debug, Default)]
struct Found {
    /// A folder or a whole data set, where names say which set a file is.
    is_whole: bool,
    /// Set, path below the root, place.
    files: Vec<(Option<Set>, String, Place)>,
}

impl Found {
    fn push(&mut self, set: Option<Set>, path: String, place: Place) {
        self.files.push((set, path, place));
    }

    /// Takes a part of each set's records.
    fn slice(&mut self, part: &Rc<Part>) {
        for (_, _, place) in &mut self.files {
            if let Place::Hub(file) = place {
                *place = Place::Slice(file.clone(), part.clone());
            }
        }
    }
}

/// Finds the files that `specs` name. Where these are files of one set only, or of none, they are
/// `wanted`, whatever they are called; but a folder's or a whole data set's names always count.
pub fn resolve(specs: &[DataSpec], wanted: Set, terminal: Terminal) -> Result<Files> {
    let mut files = Files::default();
    let mut found = Vec::new();
    for spec in specs {
        found.push(match spec {
            DataSpec::Path(path) => local(path)?,
            DataSpec::Hub(hub, slice) => {
                let mut found = hub::find(hub, terminal)?;
                if let Some(slice) = slice {
                    let part = Rc::new(Part { name: spec.to_string(), slice: slice.clone() });
                    found.slice(&part);
                }
                found
            }
        });
    }
    let mut sets = found.iter().flat_map(|found| &found.files).map(|(set, ..)| *set);
    let first = sets.next();
    let are_one = sets.all(|set| Some(set) == first) && !found.iter().any(|f| f.is_whole);
    for found in found {
        let mut of_set: [Vec<(String, Place)>; 3] = Default::default();
        for (set, path, place) in found.files {
            let set = if are_one { wanted } else { set.unwrap_or(wanted) };
            if set != wanted && !found.is_whole {
                terminal.note(format_args!(
                    "{}: the {} set, by its name",
                    place.name(),
                    set.name()
                ));
            }
            of_set[set as usize].push((path, place));
        }
        for (files, mut of_set) in files.0.iter_mut().zip(of_set) {
            if found.is_whole {
                of_set = layout::chosen(of_set, |(path, _)| path)?;
            }
            files.extend(of_set.into_iter().map(|(_, place)| place));
        }
    }
    Ok(files)
}

/// The files of a folder that are of a set, a file, or those that a pattern matches.
fn local(path: &Path) -> Result<Found> {
    if path.is_dir() {
        return folder(path);
    }
    let shown = path.display().to_string();
    let is_pattern = !path.exists() && shown.contains(['*', '?', '[']);
    ensure!(is_pattern || path.exists(), "{shown}: no such file or folder");
    let paths = match is_pattern {
        false => vec![path.to_owned()],
        true => glob::glob(&shown)
            .with_context(|| format!("{shown}: no pattern of files"))?
            .collect::<Result<Vec<_>, _>>()
            .with_context(|| shown.clone())?,
    };
    ensure!(!paths.is_empty(), "{shown}: no file there has such a name");
    let mut found = Found::default();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if is_pattern && !layout::is_data(&name) {
            continue;
        }
        found.push(Set::of_path(&name), name, Place::Local(path));
    }
    ensure!(!found.files.is_empty(), "{shown}: no .jsonl, .json, .csv or .parquet file among them");
    Ok(found)
}

fn folder(folder: &Path) -> Result<Found> {
    let context = || folder.display().to_string();
    let mut found = Found { is_whole: true, ..Found::default() };
    for entry in std::fs::read_dir(folder).with_context(context)? {
        let path = entry.with_context(context)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(set) = Set::of_path(&name).filter(|_| layout::is_data(&name)) {
            found.push(Some(set), name, Place::Local(path));
        }
    }
    found.files.sort_by(|(_, a, _), (_, b, _)| a.cmp(b));
    ensure!(
        !found.files.is_empty(),
        "{}: no train, valid or test with the end .jsonl, .json, .csv or .parquet in it",
        folder.display()
    );
    Ok(found)
}

/// The records of `files`.
pub fn read(files: &[Place], features: &Features, terminal: Terminal) -> Result<Vec<RecordFile>> {
    let part = |place: &Place| match place {
        Place::Slice(_, part) => Some(part.clone()),
        _ => None,
    };
    let mut all = Vec::new();
    for group in files.chunk_by(|a, b| part(a).is_some() && part(a) == part(b)) {
        let read = group.iter().map(|file| file.read(features, terminal));
        let read = read.collect::<Result<Vec<_>>>()?;
        match part(&group[0]) {
            Some(part) => all.extend(sliced(read, &part)?),
            None => all.extend(read),
        }
    }
    Ok(all)
}

/// Of the records of all files those that the part is.
fn sliced(files: Vec<RecordFile>, part: &Part) -> Result<Vec<RecordFile>> {
    let count = files.iter().map(|file| file.records.len()).sum();
    let (range, mut at) = (part.slice.of(&part.name, count)?, 0);
    let parts = files.into_iter().map(|file| {
        let first = at;
        at += file.records.len();
        let marks: Vec<bool> = (first..at).map(|i| range.contains(&i)).collect();
        file.part(&marks).1
    });
    Ok(parts.filter(|file| !file.records.is_empty()).collect())
}

/// The examples of all records of `files`.
pub fn tokenize(
    files: &[RecordFile],
    encode: &impl Encode,
    loss_on: LossOn,
    terminal: Terminal,
) -> Result<Vec<Example>> {
    let mut meter = terminal.steps(files.iter().map(|file| file.records.len()).sum());
    let mut examples = Vec::new();
    for file in files {
        for example in file.examples(encode, loss_on) {
            examples.push(example?);
            meter.set(examples.len(), "tokenizing");
        }
    }
    Ok(examples)
}

/// Writes the three files into `folder`, all or none; files that are there are kept unless `force`.
pub fn write(folder: &Path, splits: &Splits, force: bool) -> Result<()> {
    let names = Set::ALL.map(|set| format!("{}.jsonl", set.name()));
    if let Some(there) = names.iter().find(|name| !force && folder.join(name).exists()) {
        bail!("{}: is there already; --force writes over it", folder.join(there).display());
    }
    let mut staged = Staged::new(folder)?;
    for (name, records) in names.into_iter().zip([&splits.train, &splits.valid, &splits.test]) {
        staged.write(name, jsonl::to_jsonl(records))?;
    }
    staged.publish()
}

#[cfg(test)]
mod tests {
    use engram::data::jsonl::Record;

    use super::*;

    fn set(text: &str) -> Vec<Record> {
        vec![Record::chat(text, "b", Some("c"))]
    }

    fn records(folder: &Path, set: Set) -> Vec<Record> {
        let files = resolve(&[DataSpec::Path(folder.into())], set, Terminal::silent()).unwrap();
        let files = read(files.of(set), &Features::default(), Terminal::silent()).unwrap();
        files.into_iter().flat_map(|file| file.records).collect()
    }

    #[test]
    fn is_read_as_it_was_written_and_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("new");
        let mut splits = Splits { train: set("1"), valid: set("2"), test: set("3") };
        write(&folder, &splits, false).unwrap();
        splits.test = set("4");
        let error = format!("{:#}", write(&folder, &splits, false).unwrap_err());
        assert!(error.contains("train.jsonl: is there already"), "{error}");
        assert_eq!(records(&folder, Set::Test), set("3"));
        write(&folder, &splits, true).unwrap();
        assert_eq!(records(&folder, Set::Test), set("4"));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 3, "something was left");
    }

    #[test]
    fn files_become_the_sets_that_their_names_say() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for name in
            ["train.csv", "train-2.csv", "valid.json", "test.parquet", "notes.txt", "a.jsonl"]
        {
            std::fs::write(path(name), "").unwrap();
        }
        let found = |specs: &[&str], wanted: Set| -> [Vec<String>; 3] {
            let specs: Vec<DataSpec> =
                specs.iter().map(|spec| DataSpec::Path(path(spec))).collect();
            let files = resolve(&specs, wanted, Terminal::silent()).unwrap();
            let name = |place: &Place| {
                let Place::Local(path) = place else { panic!() };
                path.file_name().unwrap().to_str().unwrap().to_owned()
            };
            files.0.map(|places| places.iter().map(name).collect())
        };
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let whole = [names(&["train.csv"]), names(&["valid.json"]), names(&["test.parquet"])];
        assert_eq!(found(&[""], Set::Train), whole);
        let [train, _, test] = found(&["*"], Set::Train);
        assert_eq!(train, ["a.jsonl", "train-2.csv", "train.csv"]);
        assert_eq!(test, ["test.parquet"]);
        // What is named alone is what was asked for.
        assert_eq!(found(&["test.parquet"], Set::Train)[0], ["test.parquet"]);
        assert_eq!(found(&["train*"], Set::Valid)[1], ["train-2.csv", "train.csv"]);
        assert_eq!(found(&["a.jsonl", "valid.json"], Set::Train)[1], ["valid.json"]);

        for (spec, expected) in [
            ("none", "none: no such file or folder"),
            ("*.yaml", "*.yaml: no file there has such a name"),
            ("*.txt", "no .jsonl, .json, .csv or .parquet file among them"),
            ("a[", "a[: no pattern of files"),
        ] {
            let files = resolve(&[DataSpec::Path(path(spec))], Set::Train, Terminal::silent());
            let read = files.and_then(|files| {
                read(files.of(Set::Train), &Features::default(), Terminal::silent())
            });
            let error = format!("{:#}", read.unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
