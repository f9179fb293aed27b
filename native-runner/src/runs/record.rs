//! `run.json`: what a run was made from, where it ran and how it went.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result};
use engram::generate::{Engine, Model};
use serde::{Deserialize, Serialize};

use super::RECORD;
use crate::interrupt::Interrupted;
use crate::source::checksum;
use crate::{adapter, session};

/// Grows with a change that a reader of the former version would misread.
const SCHEMA_VERSION: u32 = 1;

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub schema_version: u32,
    /// The model that is trained.
    pub model: Origin,
    /// The adapter that it started from, unless that is a random one.
    pub init_adapter: Option<Origin>,
    pub data: Origin,
    pub seed: u64,
    pub trainable_parameters: usize,
    /// How long it is, where that was said in epochs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<usize>,
    /// The loss on a test set of the adapter as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<Test>,
    /// The first, and one for every time that it was resumed.
    pub sessions: Vec<Session>,
}

/// What `--test` came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Test {
    /// Nats a token, or a pair of dpo.
    pub loss: f64,
    /// `exp(loss)`; none beyond a double's range.
    pub perplexity: Option<f64>,
    /// Most batches; none is all.
    pub batches: Option<usize>,
    pub data: Origin,
}

/// Files that something is made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// As it was named.
    pub name: String,
    pub files: Vec<Sum>,
}

/// A file and its content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sum {
    pub path: PathBuf,
    pub sha256: String,
}

/// A time that the program ran on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    pub status: Status,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// UTC, as RFC 3339 writes it.
    pub started: String,
    pub ended: Option<String>,
    /// From its start to its end.
    pub seconds: Option<f64>,
    /// Iterations done before it and after it.
    pub from_iteration: usize,
    pub to_iteration: usize,
    pub command: Vec<String>,
    /// Of the program.
    pub version: String,
    pub engine: String,
    /// What computed.
    pub device: Device,
}

/// A GPU adapter, or the CPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Device {
    pub name: String,
    /// Of a GPU adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// The system that the program was built for.
    pub target: String,
}

/// How a session went. One that was killed still says that it is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Running,
    Done,
    Interrupted,
    Failed,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Status::Running => "running",
            Status::Done => "done",
            Status::Interrupted => "interrupted",
            Status::Failed => "failed",
        }
    }
}

impl Origin {
    /// Reads `files` for their sums.
    pub fn of(name: impl ToString, files: &[PathBuf]) -> Result<Self> {
        let sum = |path: &PathBuf| Ok(Sum { path: path.clone(), sha256: sum_of(path)? });
        Ok(Self { name: name.to_string(), files: files.iter().map(sum).collect::<Result<_>>()? })
    }
}

/// The sum of a file, which is read once: a sweep's runs begin with the same ones.
fn sum_of(path: &Path) -> Result<String> {
    type Sums = HashMap<(PathBuf, u64, SystemTime), String>;
    thread_local!(static SUMS: RefCell<Sums> = RefCell::default());
    let known = std::fs::metadata(path).and_then(|file| Ok((file.len(), file.modified()?)));
    let key = known.ok().map(|(len, modified)| (path.to_owned(), len, modified));
    let Some(key) = key else { return checksum::of_file(path) };
    if let Some(sum) = SUMS.with_borrow(|sums| sums.get(&key).cloned()) {
        return Ok(sum);
    }
    let sum = checksum::of_file(path)?;
    SUMS.with_borrow_mut(|sums| sums.insert(key, sum.clone()));
    Ok(sum)
}

impl Session {
    /// One that begins now on `engine`.
    pub fn begin(engine: &Engine, from_iteration: usize) -> Self {
        let place = engine.model().place();
        let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
        let device = match engine.model() {
            Model::Gpu(gpu) => {
                let adapter = gpu.context.adapter();
                Device {
                    name: adapter.name.clone(),
                    backend: Some(adapter.backend.clone()),
                    driver: Some(adapter.driver.clone()),
                    target,
                }
            }
            #[cfg(feature = "burn")]
            Model::Burn(_) => Device { name: place.device, backend: None, driver: None, target },
        };
        Self {
            status: Status::Running,
            error: None,
            started: now(),
            ended: None,
            seconds: None,
            from_iteration,
            to_iteration: from_iteration,
            command: std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            engine: place.engine.to_owned(),
            device,
        }
    }
}

impl Record {
    /// The record in a run's folder; none if there is none.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(RECORD);
        let name = path.display().to_string();
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| name.clone())?,
        };
        let record: Self = serde_json::from_slice(&bytes)
            .with_context(|| format!("{name}: not the record of a run; remove it"))?;
        anyhow::ensure!(
            record.schema_version == SCHEMA_VERSION && !record.sessions.is_empty(),
            "{name}: a record of schema version {}, where this Engram reads {SCHEMA_VERSION}",
            record.schema_version
        );
        Ok(Some(record))
    }

    /// Puts it into the run's folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        adapter::write_folder(folder, &[(RECORD, &self.to_json()?)])
    }

    /// The content of its file.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        Ok(json)
    }

    /// A run that has not begun yet.
    pub fn new(model: Origin, init_adapter: Option<Origin>, data: Origin, seed: u64) -> Self {
        let schema_version = SCHEMA_VERSION;
        Self {
            schema_version,
            model,
            init_adapter,
            data,
            seed,
            trainable_parameters: 0,
            epochs: None,
            test: None,
            sessions: Vec::new(),
        }
    }

    /// Says how the session that runs came to its end.
    pub fn end(&mut self, began: Instant, iteration: usize, result: &Result<()>) {
        let Some(session) = self.sessions.last_mut() else { return };
        session.ended = Some(now());
        session.seconds = Some((began.elapsed().as_secs_f64() * 1e3).round() / 1e3);
        session.to_iteration = iteration;
        session.status = match result {
            Ok(()) => Status::Done,
            Err(error) if error.is::<Interrupted>() => Status::Interrupted,
            Err(error) => {
                session.error = Some(format!("{error:#}"));
                Status::Failed
            }
        };
    }
}

fn now() -> String {
    // The directives are known; a clock beyond the year 9999 is no reason not to train.
    session::now().strftime("%Y-%m-%dT%H:%M:%SZ").unwrap_or_default()
}
