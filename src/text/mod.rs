//! Text to token ids and back, and chats to prompts.
//!
//! [`Tokenizer`] comes from a `tokenizer.json` or from a GGUF file's metadata and gives the ids
//! that Hugging Face's gives. [`TextStream`] decodes token by token for a reader who watches,
//! [`StopText`] ends such a stream at a stop string, and [`ChatTemplate`] writes a chat as the
//! prompt that the model was trained on.

mod chat;
mod date;
mod decoding;
mod gguf;
mod python_json;
mod stop;
mod stream;
pub(crate) mod tokenizer;

pub use chat::{ChatTemplate, Message, RenderOptions};
pub use date::LocalTime;
pub use stop::{StopEvent, StopText};
pub use stream::TextStream;
pub use tokenizer::Tokenizer;
