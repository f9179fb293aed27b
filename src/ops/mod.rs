//! The coarse operations a model is written in, and who carries them out.
