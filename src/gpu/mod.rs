//! What knows wgpu and nothing of models: device, buffers, recordings.
