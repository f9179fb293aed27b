//! Loading a model streams it: at no time is the whole file in host memory. A test file of its own,
//! because the peak is that of the process; on Linux alone, which says it without a call to C.

#![cfg(target_os = "linux")] // Native only: the model is a file of the machine.

mod common;

use common::*;
use engram::model::GpuLlama;

/// A line of `/proc/self/status` in bytes.
fn status(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.expect(key) * 1024
}

#[async_test]
async fn a_model_is_streamed_to_the_device() {
    let path = file::real_model_path();
    let context = context().await;
    let before = status("VmRSS");
    let checkpoint = file::open_real().await;
    let model = GpuLlama::to_gpu(&context, &checkpoint, None, &mut |_, _| Ok(())).await.unwrap();
    let growth = status("VmHWM").saturating_sub(before);
    // A software adapter keeps its buffers in this process too.
    let software = context.adapter().is_software;
    let buffers = if software { context.memory().peak() } else { 0 };
    let host = growth.saturating_sub(buffers);
    let file = std::fs::metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).len();
    assert!(host < file, "{growth} bytes more, {buffers} of them in buffers, for a file of {file}");
    drop(model);
}
