//! Patterns, chat data and token batches.
