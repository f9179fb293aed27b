//! The crate's one error.

/// What went wrong, where, and what to do about it, in one line.
///
/// No input makes the library panic; after an error it stays usable, except after
/// [`Error::DeviceLost`], which asks for a new [`crate::gpu::Context`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file (or stream) that is not what it says it is.
    #[error("{name}: {problem}")]
    Format {
        /// The file, as the caller named it.
        name: String,
        /// What is wrong in it, and the remedy.
        problem: String,
    },
    /// A line of a data file that can't be used.
    #[error("{name}:{line}: {problem}")]
    Data {
        /// The file, as the caller named it.
        name: String,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong in it, and the remedy.
        problem: String,
    },
    /// An argument or a combination of arguments that can't be used.
    #[error("{0}")]
    Invalid(String),
    /// A prompt, or a prompt and its continuation, longer than the model's context.
    #[error(
        "{needed} tokens do not fit the context of {limit}: shorten the prompt or ask for fewer new tokens"
    )]
    ContextOverflow {
        /// Tokens asked for.
        needed: usize,
        /// Tokens the model (or the cache) can hold.
        limit: usize,
    },
    /// No adapter, or one that can't do what is asked.
    #[error("GPU: {0}")]
    Gpu(String),
    /// The GPU has not enough memory.
    #[error("GPU out of memory: {0}")]
    OutOfMemory(String),
    /// The GPU went away (driver reset, unplugged, or `destroy`).
    #[error("GPU device lost: {0}; open a new one and load the model again")]
    DeviceLost(String),
    /// Training produced a number that is not finite.
    #[error(
        "iteration {iteration}: {tensor} is not finite; lower the learning rate or check the data"
    )]
    NotFinite {
        /// The iteration, counted from 1.
        iteration: usize,
        /// The first tensor found with such a number.
        tensor: String,
    },
    /// The caller's callback (reading bytes, reporting progress) failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// [`std::result::Result`] with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An [`Error::Format`].
    pub fn format(name: impl Into<String>, problem: impl Into<String>) -> Self {
        Error::Format { name: name.into(), problem: problem.into() }
    }

    /// An [`Error::Data`].
    pub fn data(name: impl Into<String>, line: usize, problem: impl Into<String>) -> Self {
        Error::Data { name: name.into(), line, problem: problem.into() }
    }

    /// An [`Error::Invalid`].
    pub fn invalid(problem: impl Into<String>) -> Self {
        Error::Invalid(problem.into())
    }
}
