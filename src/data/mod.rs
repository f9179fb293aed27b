//! Patterns, chat data and token batches.
//!
//! 1. [`patterns`] reads pattern files; [`augment`] and [`split`] make a data set of them;
//! 2. [`jsonl`] reads and writes data sets in the forms of MLX-LM: chat, completions, text;
//! 3. [`tokens`] turns records into token ids;
//! 4. [`batch`] packs these into batches, and [`source`] deals the batches out in their order.
//!
//! [`overview`] counts what is in a data set, by [`stats`]; [`random`] has the two generators that the orders come
//! from.

pub mod augment;
pub mod batch;
mod csv;
pub mod file;
pub mod jsonl;
pub mod overview;
pub mod patterns;
pub mod random;
pub mod record;
pub mod source;
pub mod split;
pub mod stats;
pub mod token;
pub mod tokens;
