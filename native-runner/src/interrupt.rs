//! Ctrl-C: ends the program, or asks it to end where work has to be saved first.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context as _, Result};

/// The exit code after Ctrl-C, by the shells' convention: 128 + SIGINT.
pub const EXIT_CODE: u8 = 130;

static REQUESTED: AtomicBool = AtomicBool::new(false);
static DEFERRED: AtomicUsize = AtomicUsize::new(0);

/// The work ended early because Ctrl-C was pressed.
#[derive(Debug)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Takes over Ctrl-C from the system; once, at the start.
pub fn install() -> Result<()> {
    ctrlc::set_handler(|| {
        let again = REQUESTED.swap(true, Ordering::SeqCst);
        if again || DEFERRED.load(Ordering::SeqCst) == 0 {
            std::process::exit(EXIT_CODE.into());
        }
    })
    .context("can't handle Ctrl-C")
}

/// While one lives, the first Ctrl-C only sets [`requested`]; the second ends the program.
pub struct Deferred(());

/// Defers Ctrl-C until the returned value is dropped.
pub fn defer() -> Deferred {
    DEFERRED.fetch_add(1, Ordering::SeqCst);
    Deferred(())
}

impl Drop for Deferred {
    fn drop(&mut self) {
        DEFERRED.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whether Ctrl-C was pressed, which is then forgotten: the work that it ended was all it meant.
pub fn take() -> bool {
    REQUESTED.swap(false, Ordering::SeqCst)
}

/// Whether Ctrl-C was pressed.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}
