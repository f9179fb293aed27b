//! The attributes of the tests, which run natively and in a page alike: `use` these in place of
//! the standard one. `#[test]` is for plain functions, `#[async_test]` for those that wait for the
//! GPU, which a page can't do otherwise.

#[cfg(target_arch = "wasm32")]
pub use wasm_bindgen_test::{wasm_bindgen_test as test, wasm_bindgen_test as async_test};
#[cfg(not(target_arch = "wasm32"))]
pub use {pollster::test as async_test, std::prelude::v1::test};

wasm_bindgen_test::wasm_bindgen_test_configure!(run_in_browser);
