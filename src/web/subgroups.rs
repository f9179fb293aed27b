//! Devices with subgroups, which wgpu does not ask a browser for.

use wasm_bindgen::prelude::*;

use crate::Result;
use crate::gpu::{Context, ContextOptions};

#[wasm_bindgen(module = "/src/web/subgroups.js")]
extern "C" {
    fn begin() -> js_sys::Function;
}

/// Ends what [`begin`] began, also where nobody waits for the device any more.
struct Asking(js_sys::Function);

impl Drop for Asking {
    fn drop(&mut self) {
        // It throws nothing.
        let _ = self.0.call0(&JsValue::UNDEFINED);
    }
}

/// [`Context::new`], with subgroups where the adapter has them.
pub(super) async fn open(options: &ContextOptions) -> Result<Context> {
    let _asking = Asking(begin());
    Context::new(options).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Variant;
    use crate::kernels::weight::Format;
    use crate::kernels::{matmul, matmul_transposed};
    use crate::testing::async_test;

    /// The variant of four lanes, which no adapter of the native tests has.
    #[async_test]
    async fn products_by_four_lanes_match_their_references() {
        let context = open(&ContextOptions::default()).await.unwrap();
        if context.adapter().is_software {
            assert_eq!(context.variants().matmul, Variant::Quads);
        }
        for format in Format::ALL {
            for (tokens, shape) in [(2, (1, 1)), (3, (9, 45)), (17, (65, 100)), (33, (40, 576))] {
                matmul::parity(&context, format, tokens, shape).await.unwrap();
                matmul_transposed::parity(&context, format, tokens, shape).await.unwrap();
            }
        }
    }
}
