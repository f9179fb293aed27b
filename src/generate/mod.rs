//! Decoding: prefill, the replayed decode step, sampling, streaming.
