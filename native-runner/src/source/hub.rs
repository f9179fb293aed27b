//! Repositories of the Hugging Face hub, in the cache that its other tools share.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo, Metadata};
use hf_hub::{Cache, Repo, RepoType};

use super::spec::{HubSpec, is_plain};
use super::{ModelFiles, checksum, local};
use crate::terminal::{Meter, Terminal};

/// How long the hub may take to say what it has.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often a download that breaks off is taken up again.
const ATTEMPTS: usize = 3;

/// The hub, as the environment sets it up.
pub struct Hub {
    api: Api,
    cache: Cache,
    endpoint: String,
    is_offline: bool,
}

impl Hub {
    /// Heeds `HF_HUB_CACHE`, `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE`.
    pub fn from_env() -> Result<Self> {
        let cache = Cache::new(cache_folder()?);
        let endpoint = variable("HF_ENDPOINT").unwrap_or("https://huggingface.co".to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let token = variable("HF_TOKEN").or_else(|| cache.token());
        let api = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(endpoint.clone())
            .with_token(token)
            .with_user_agent("engram", env!("CARGO_PKG_VERSION"))
            .build()
            .context("Hugging Face hub")?;
        let is_offline = variable("HF_HUB_OFFLINE").is_some_and(|value| value != "0");
        Ok(Self { api, cache, endpoint, is_offline })
    }

    /// The file of the repository, if the cache has it.
    pub fn cached(&self, spec: &HubSpec, file: &str) -> Option<PathBuf> {
        self.cache.repo(repo(spec, &spec.revision)).get(file)
    }

    /// The model of the repository: the cache's, or downloaded.
    ///
    /// A branch that is in the cache is not asked for again.
    pub fn fetch(&self, spec: &HubSpec, terminal: Terminal) -> Result<ModelFiles> {
        if let Some(file) = &spec.file {
            ensure!(file.ends_with(".gguf"), "{spec}: a file of a repository has to be a .gguf");
            return Ok(ModelFiles::Gguf(self.fetch_file(spec, file, None, terminal)?));
        }
        if let Some(model) = self.cached_model(spec) {
            return Ok(model);
        }
        let api_repo = self.api.repo(repo(spec, &spec.revision));
        let info = self.ask(spec, move || api_repo.info())?;
        let names: Vec<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
        let has = |name: &str| names.contains(&name);
        ensure!(is_plain(&info.sha), "{spec}: the server names the commit {:?}", info.sha);
        // By its commit, so that every file is of one state of the repository.
        let commit = HubSpec { revision: info.sha.clone(), ..spec.clone() };
        let fetch = |name: &str| self.fetch_file(&commit, name, None, terminal);

        let model = if has(local::WEIGHTS) || has(local::WEIGHTS_INDEX) {
            for (index, name) in local::SIDE_FILES.iter().enumerate() {
                if has(name) {
                    fetch(name)?;
                } else {
                    ensure!(index >= local::REQUIRED, "{spec}: {name} is missing there");
                }
            }
            let weights = if has(local::WEIGHTS_INDEX) {
                let index = fetch(local::WEIGHTS_INDEX)?;
                let text = std::fs::read(&index).with_context(|| index.display().to_string())?;
                for shard in local::shards(&text).with_context(|| index.display().to_string())? {
                    fetch(&shard)?;
                }
                index
            } else {
                fetch(local::WEIGHTS)?
            };
            let folder = weights.parent().context("a file of the cache without a folder")?;
            ModelFiles::Folder(folder.to_owned())
        } else {
            let ggufs: Vec<&&str> = names.iter().filter(|name| name.ends_with(".gguf")).collect();
            match ggufs.as_slice() {
                [one] => ModelFiles::Gguf(fetch(one)?),
                [] => bail!("{spec}: neither {} nor a .gguf file there", local::WEIGHTS),
                [first, ..] => bail!(
                    "{spec}: {} .gguf files there, name one of them, as {spec}:{first}",
                    ggufs.len()
                ),
            }
        };
        let cached = self.cache.repo(repo(spec, &spec.revision));
        cached.create_ref(&info.sha).with_context(|| format!("{spec}: noting the commit"))?;
        Ok(model)
    }

    /// The model in the cache, if it is whole.
    fn cached_model(&self, spec: &HubSpec) -> Option<ModelFiles> {
        let cached = self.cache.repo(repo(spec, &spec.revision));
        local::find(&cached.pointer_path(&self.cached_commit(spec)?)).ok()
    }

    /// The names of a repository's files, and the repository at the commit that has them.
    ///
    /// Where the hub can't be asked, the files in the cache count as all that there are.
    pub fn files(&self, spec: &HubSpec, terminal: Terminal) -> Result<(HubSpec, Vec<String>)> {
        let at = |commit: &str| HubSpec { revision: commit.to_owned(), ..spec.clone() };
        let api_repo = self.api.repo(repo(spec, &spec.revision));
        let info = match self.ask(spec, move || api_repo.info()) {
            Ok(info) => info,
            Err(error) => {
                let (commit, files) = self.cached_files(spec).ok_or(error)?;
                terminal.note(format_args!("{spec}: taking what the cache has of it"));
                return Ok((at(&commit), files));
            }
        };
        ensure!(is_plain(&info.sha), "{spec}: the server names the commit {:?}", info.sha);
        let cached = self.cache.repo(repo(spec, &spec.revision));
        cached.create_ref(&info.sha).with_context(|| format!("{spec}: noting the commit"))?;
        Ok((at(&info.sha), info.siblings.into_iter().map(|file| file.rfilename).collect()))
    }

    /// The files of a repository in the cache, and its commit.
    fn cached_files(&self, spec: &HubSpec) -> Option<(String, Vec<String>)> {
        let commit = self.cached_commit(spec)?;
        let root = self.cache.repo(repo(spec, &spec.revision)).pointer_path(&commit);
        let (mut folders, mut files) = (vec![root.clone()], Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).ok()? {
                let path = entry.ok()?.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let below = path.strip_prefix(&root).ok()?;
                    files.push(below.to_str()?.replace('\\', "/"));
                }
            }
        }
        Some((commit, files))
    }

    /// The commit that a branch in the cache is at.
    fn cached_commit(&self, spec: &HubSpec) -> Option<String> {
        let folder = self.cache.path().join(repo(spec, &spec.revision).folder_name());
        let commit = std::fs::read_to_string(folder.join("refs").join(&spec.revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_plain(commit))
    }

    /// One file of the repository: the cache's, or downloaded and checked.
    ///
    /// An interrupted download is resumed by the next one. With `sha256`, nothing is downloaded
    /// but the file with that sum.
    pub fn fetch_file(
        &self,
        spec: &HubSpec,
        file: &str,
        sha256: Option<&str>,
        terminal: Terminal,
    ) -> Result<PathBuf> {
        let shown = HubSpec { file: Some(file.to_owned()), ..spec.clone() };
        if let Some(path) = self.cached(spec, file) {
            return Ok(path);
        }
        ensure!(is_plain(file), "{shown}: no file name that we take");
        let api = self.api.clone();
        let repo = repo(spec, &spec.revision);
        let api_repo = self.api.repo(repo.clone());
        let url = api_repo.url(file);
        let metadata = self.ask(&shown, move || api.metadata(&url))?;
        for name in [metadata.etag(), metadata.commit_hash()] {
            ensure!(is_plain(name) && !name.contains('/'), "{shown}: the server names it {name:?}");
        }
        if let Some(sha256) = sha256 {
            ensure!(metadata.etag() == sha256, "{shown} is another file");
        }
        let blob = self.cache.repo(repo).blob_path(metadata.etag());
        terminal.note(format_args!("fetching {shown}"));
        let mut attempt = 1;
        loop {
            match download(&api_repo, file, &blob, &metadata, terminal) {
                Ok(path) => return Ok(path),
                Err(Failure::BrokenOff(reason)) if attempt < ATTEMPTS => {
                    tracing::info!("{shown}: {reason}; going on");
                    attempt += 1;
                }
                Err(Failure::BrokenOff(reason)) => {
                    bail!("{shown}: the download broke off ({reason}); run again to go on with it")
                }
                Err(Failure::Final(reason)) => bail!("{shown}: {reason}"),
                Err(Failure::Hub(error)) => return Err(self.explain(&shown, &error)),
            }
        }
    }

    /// The hub's answer to a short question.
    fn ask<T: Send + 'static>(
        &self,
        spec: &HubSpec,
        question: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T> {
        ensure!(!self.is_offline, "{spec}: not in the cache, and HF_HUB_OFFLINE is set");
        // The client knows no time limit: a connection that hangs is left behind in its thread.
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || sender.send(question()));
        match receiver.recv_timeout(PATIENCE) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.explain(spec, &error)),
            Err(_) => bail!(
                "{spec}: {} did not answer within {} s; check the network, or give a local file",
                self.endpoint,
                PATIENCE.as_secs()
            ),
        }
    }

    /// What the hub's refusal means, and what to do.
    fn explain(&self, spec: &HubSpec, error: &ApiError) -> anyhow::Error {
        let endpoint = &self.endpoint;
        if let ApiError::RequestError(request) = error {
            return match **request {
                ureq::Error::StatusCode(404) => {
                    anyhow!("{spec}: no such repository, revision or file at {endpoint}")
                }
                ureq::Error::StatusCode(code @ (401 | 403)) => anyhow!(
                    "{spec}: no access ({code}): check the name; if the repository is gated or \
                     private, accept its terms on its page and set HF_TOKEN"
                ),
                ureq::Error::StatusCode(code) => {
                    anyhow!("{spec}: {endpoint} answered {code}; try again later")
                }
                ref other => anyhow!(
                    "{spec}: can't reach {endpoint} ({other}); check the network, or give a local \
                     file"
                ),
            };
        }
        match error {
            ApiError::LockAcquisition(path) => anyhow!(
                "{spec}: another process is downloading it ({} is locked); try again when it is \
                 done",
                path.display()
            ),
            other => anyhow!("{spec}: {other}"),
        }
    }
}

/// Why a download did not end well.
enum Failure {
    /// The connection broke off, or what came was damaged: worth another attempt.
    BrokenOff(String),
    /// No attempt will help.
    Final(String),
    /// The hub refused.
    Hub(ApiError),
}

fn download(
    repo: &ApiRepo,
    file: &str,
    blob: &Path,
    metadata: &Metadata,
    terminal: Terminal,
) -> Result<PathBuf, Failure> {
    let part = blob.with_extension("part");
    let reported = Reported { file: file.to_owned(), terminal, meter: None };
    let path = repo.download_with_progress(file, reported).map_err(|error| match error {
        ApiError::IoError(error) if is_disk_error(&error) => {
            // What is there of it would only keep the disk full; it may not be there at all.
            let _ = std::fs::remove_file(&part);
            Failure::Final(format!("{}: {error}; make room, or set HF_HOME", blob.display()))
        }
        ApiError::IoError(error) => Failure::BrokenOff(error.to_string()),
        // The part is whole already, or longer than the file: start afresh.
        ApiError::InvalidResume => start_afresh(&part),
        ApiError::RequestError(request)
            if matches!(*request, ureq::Error::StatusCode(416)) && part.exists() =>
        {
            start_afresh(&part)
        }
        other => Failure::Hub(other),
    })?;
    match check(blob, metadata) {
        Ok(()) => Ok(path),
        Err(problem) => {
            for damaged in [path.as_path(), blob] {
                std::fs::remove_file(damaged).map_err(|error| {
                    Failure::Final(format!("{}: {problem}, {error}", damaged.display()))
                })?;
            }
            Err(Failure::BrokenOff(problem))
        }
    }
}

fn start_afresh(part: &Path) -> Failure {
    match std::fs::remove_file(part) {
        Ok(()) => Failure::BrokenOff("the part that was there did not fit".to_owned()),
        Err(error) => Failure::Final(format!("{}: {error}", part.display())),
    }
}

/// Compares a downloaded file with what the hub said of it.
fn check(blob: &Path, metadata: &Metadata) -> Result<(), String> {
    let len = blob.metadata().map_err(|error| error.to_string())?.len();
    if len != metadata.size() as u64 {
        return Err(format!("{len} bytes came instead of {}", metadata.size()));
    }
    // Large files have their SHA-256 for a tag, small ones git's sum.
    let tag = metadata.etag();
    let is_sha256 = tag.len() == 64 && tag.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_sha256 && checksum::of_file(blob).map_err(|error| format!("{error:#}"))? != tag {
        return Err("it came damaged".to_owned());
    }
    Ok(())
}

fn is_disk_error(error: &io::Error) -> bool {
    use io::ErrorKind::{
        FileTooLarge, NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
    };
    matches!(
        error.kind(),
        StorageFull
            | QuotaExceeded
            | FileTooLarge
            | PermissionDenied
            | ReadOnlyFilesystem
            | NotFound
    )
}

/// Shows a download of `hf_hub`, which says how large it is when it starts.
struct Reported {
    file: String,
    terminal: Terminal,
    meter: Option<Meter>,
}

impl Progress for Reported {
    fn init(&mut self, size: usize, _: &str) {
        self.meter = Some(self.terminal.bytes(&self.file, size as u64));
    }

    fn update(&mut self, size: usize) {
        if let Some(meter) = &mut self.meter {
            meter.add(size as u64);
        }
    }

    fn finish(&mut self) {
        self.meter = None;
    }
}

fn repo(spec: &HubSpec, revision: &str) -> Repo {
    let kind = if spec.is_data_set { RepoType::Dataset } else { RepoType::Model };
    Repo::with_revision(spec.repository.clone(), kind, revision.to_owned())
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn cache_folder() -> Result<PathBuf> {
    if let Some(folder) = variable("HF_HUB_CACHE") {
        return Ok(folder.into());
    }
    let home = variable("HF_HOME").map(PathBuf::from).or_else(|| {
        let caches = variable("XDG_CACHE_HOME").map(PathBuf::from);
        Some(caches.or_else(|| Some(dirs::home_dir()?.join(".cache")))?.join("huggingface"))
    });
    Ok(home.ok_or_else(|| anyhow!("no folder for the hub's cache: set HF_HOME"))?.join("hub"))
}
