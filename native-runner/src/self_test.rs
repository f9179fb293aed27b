//! The self-test of an adapter that is used for the first time.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use engram::gpu::{AdapterSummary, Context};
use engram::kernels::self_test::{self, Outcome};

use crate::session;
use crate::source::builtin;

/// In the folder for caches: a line for each adapter that passed.
const FILE: &str = "self-tests";

/// Runs the quick self-test unless this adapter, driver and engram have passed it before.
///
/// # Errors
/// One line that names the kernels that compute wrongly.
pub fn on_new_adapter(context: &Context) -> Result<()> {
    let line = line(context.adapter());
    // Without a folder, or one that can't be read or written, the test is just run each time.
    let path = builtin::cache_folder().ok().map(|folder| folder.join(FILE));
    if path.as_deref().is_some_and(|path| has_passed(path, &line)) {
        return Ok(());
    }
    let start = session::clock();
    let checks = self_test::quick();
    let mut ignore = |_: &Outcome| ();
    let outcomes = self_test::run(context, &checks, &session::clock, &mut ignore);
    verdict(context.adapter(), &pollster::block_on(outcomes)?)?;
    tracing::info!(
        "self-test of {}: {} checks passed in {:.0} ms",
        context.adapter().name,
        checks.len(),
        (session::clock() - start) * 1e3
    );
    if let Some(Err(error)) = path.map(|path| remember(path, &line)) {
        tracing::info!("the self-test is run again next time: {error}");
    }
    Ok(())
}

/// An error that names what failed, if anything did.
pub fn verdict(adapter: &AdapterSummary, outcomes: &[Outcome]) -> Result<()> {
    let failed = |outcome: &'_ Outcome| outcome.result.is_err().then(|| outcome.name.clone());
    let failed: Vec<String> = outcomes.iter().filter_map(failed).collect();
    let first = outcomes.iter().find_map(|outcome| outcome.result.as_ref().err());
    let Some(first) = first else { return Ok(()) };
    bail!(
        "{} ({}, driver {}) computes wrongly in {} of {} checks ({}): {first}; update the driver, \
         or choose another adapter by --adapter (engram devices lists them)",
        adapter.name,
        adapter.backend,
        adapter.driver,
        failed.len(),
        outcomes.len(),
        failed.join(", "),
    )
}

/// Who passed: another version of any of them has to pass anew.
fn line(adapter: &AdapterSummary) -> String {
    let AdapterSummary { name, backend, driver, .. } = adapter;
    format!("engram {}, {name}, {backend}, {driver}", env!("CARGO_PKG_VERSION"))
}

fn has_passed(path: &Path, line: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|passed| passed.lines().any(|other| other == line))
}

fn remember(path: PathBuf, line: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // One short append is one write, so that two processes don't mix their lines.
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(format!("{line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(driver: &str) -> AdapterSummary {
        AdapterSummary {
            name: "GPU".into(),
            backend: "Vulkan".into(),
            device_type: "DiscreteGpu".into(),
            driver: driver.into(),
            max_storage_binding: 1,
            is_software: false,
        }
    }

    #[test]
    fn another_driver_has_to_pass_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/self-tests");
        let (old, new) = (line(&adapter("1.0")), line(&adapter("1.1")));
        assert!(!has_passed(&path, &old));
        remember(path.clone(), &old).unwrap();
        assert!(has_passed(&path, &old) && !has_passed(&path, &new));
        remember(path.clone(), &new).unwrap();
        assert!(has_passed(&path, &old) && has_passed(&path, &new));
    }

    #[test]
    fn the_verdict_names_adapter_kernels_and_the_first_problem() {
        let outcome = |name: &str, problem: Option<&str>| Outcome {
            name: name.into(),
            result: problem.map_or(Ok(()), |problem| Err(engram::Error::Gpu(problem.into()))),
            seconds: 0.0,
        };
        let mut outcomes = vec![outcome("add", None), outcome("rope", Some("17 is not 18"))];
        let error = verdict(&adapter("1.0"), &outcomes).unwrap_err().to_string();
        assert!(error.contains("1 of 2 checks (rope): GPU: 17 is not 18"), "{error}");
        assert!(error.contains("GPU (Vulkan, driver 1.0)") && !error.contains('\n'), "{error}");
        outcomes.pop();
        assert!(verdict(&adapter("1.0"), &outcomes).is_ok());
    }
}
