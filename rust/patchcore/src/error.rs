//! The error types of this crate. The binding maps each variant to a Python exception class.

/// The result type of every function in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Return an empty vector with capacity for `count` values. A size that comes from a file or from a caller must not
/// abort the process.
///
/// # Errors
/// [`Error::Memory`] if there is not enough memory, or if `count` is `None` because its computation overflowed.
pub fn room<T>(count: Option<usize>, what: &str) -> Result<Vec<T>> {
    let mut values = Vec::new();
    count
        .and_then(|count| values.try_reserve_exact(count).ok())
        .ok_or_else(|| Error::Memory(format!("not enough memory for {what}")))?;
    Ok(values)
}

/// Every error of this crate. A message says what was found and what was expected; the caller adds where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system reported an error while reading or writing.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A file header is malformed, contradicts the file or contains impossible values.
    #[error("{0}")]
    Header(String),
    /// A file ends early or fails its checksum.
    #[error("{0}")]
    Corrupt(String),
    /// The file or array is valid, but patchcore does not support its kind.
    #[error("{0}")]
    Unsupported(String),
    /// A label map contains a value that is not an integer.
    #[error("{0}")]
    NonIntegralLabel(String),
    /// A window, its corner or its buffer does not have the right size.
    #[error("{0}")]
    Window(String),
    /// An argument is out of its range.
    #[error("{0}")]
    Argument(String),
    /// There is not enough memory.
    #[error("{0}")]
    Memory(String),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}
