//! What can go wrong, typed, so that the binding can map each case to its Python class.

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// An empty vector with room for `count` values; sizes that come from outside must not abort the process.
///
/// # Errors
/// [`Error::Memory`] if there is no such room, or `count` has overflowed to `None`.
pub fn room<T>(count: Option<usize>, what: &str) -> Result<Vec<T>> {
    let mut values = Vec::new();
    count
        .and_then(|count| values.try_reserve_exact(count).ok())
        .ok_or_else(|| Error::Memory(format!("no memory for {what}")))?;
    Ok(values)
}

/// Every failure of this crate. Messages say what was found and what was expected; the caller adds where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading or writing failed in the operating system.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A file header is malformed, contradicts the file or holds impossible values.
    #[error("{0}")]
    Header(String),
    /// A file ends early or fails its checksum.
    #[error("{0}")]
    Corrupt(String),
    /// A valid file or array of a kind that cannot be used.
    #[error("{0}")]
    Unsupported(String),
    /// A label map holds a value that is no integer.
    #[error("{0}")]
    NonIntegralLabel(String),
    /// A window, its corner or its buffer does not fit.
    #[error("{0}")]
    Window(String),
    /// An argument is out of its range.
    #[error("{0}")]
    Argument(String),
    /// More memory was asked for than there is.
    #[error("{0}")]
    Memory(String),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}
