//! The one error type of the crate.

use std::fmt;

/// A `Result` whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why prflash refused or could not finish something.
///
/// The kind is private, so that new ones can be added; ask with the predicates
/// ([`is_invalid_argument`](Error::is_invalid_argument), [`is_device_lost`](Error::is_device_lost), …).
/// The message says which argument was wrong, what was expected and what came.
///
/// ```
/// let error = prflash::Shape::new(9, 2, 128, 64).unwrap_err();
/// assert!(error.is_invalid_argument());
/// assert_eq!(error.argument(), Some("kv_heads"));
/// assert_eq!(error.to_string(), "kv_heads: expected a divisor of heads = 9, got 2");
/// ```
pub struct Error(Box<Kind>);

#[derive(Debug, thiserror::Error)]
enum Kind {
    #[error("{argument}: {message}")]
    Argument { argument: &'static str, message: String },
    #[error("{argument}: {message}")]
    TooLarge { argument: &'static str, message: String },
    #[error("corrupt data: {0}")]
    Corrupt(String),
    #[error("unknown version: {0}")]
    UnknownVersion(String),
    #[error("not supported on this device: {0}")]
    Unsupported(String),
    #[error("no GPU adapter: {0}")]
    NoAdapter(String),
    #[error("the GPU device is lost: {0}")]
    DeviceLost(String),
    #[error("out of GPU memory: {0}")]
    OutOfMemory(String),
    #[error("the GPU API rejected a command (please report this): {0}")]
    Validation(String),
}

impl Error {
    fn new(kind: Kind) -> Self {
        Self(Box::new(kind))
    }

    pub(crate) fn argument_error(argument: &'static str, message: impl Into<String>) -> Self {
        Self::new(Kind::Argument { argument, message: message.into() })
    }

    pub(crate) fn too_large(argument: &'static str, message: impl Into<String>) -> Self {
        Self::new(Kind::TooLarge { argument, message: message.into() })
    }

    pub(crate) fn corrupt(message: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt(message.into()))
    }

    pub(crate) fn unknown_version(message: impl Into<String>) -> Self {
        Self::new(Kind::UnknownVersion(message.into()))
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported(message.into()))
    }

    pub(crate) fn no_adapter(message: impl Into<String>) -> Self {
        Self::new(Kind::NoAdapter(message.into()))
    }

    pub(crate) fn device_lost(message: impl Into<String>) -> Self {
        Self::new(Kind::DeviceLost(message.into()))
    }

    pub(crate) fn out_of_memory(message: impl Into<String>) -> Self {
        Self::new(Kind::OutOfMemory(message.into()))
    }

    pub(crate) fn validation(message: impl Into<String>) -> Self {
        Self::new(Kind::Validation(message.into()))
    }

    /// An argument has a value that can never work. [`argument`](Error::argument) names it.
    pub fn is_invalid_argument(&self) -> bool {
        matches!(*self.0, Kind::Argument { .. })
    }

    /// A size is past what 32-bit indices or this device's limits can address.
    /// [`argument`](Error::argument) names it.
    pub fn is_too_large(&self) -> bool {
        matches!(*self.0, Kind::TooLarge { .. })
    }

    /// Bytes that were read are cut off, changed, or of another kind.
    pub fn is_corrupt(&self) -> bool {
        matches!(*self.0, Kind::Corrupt(_))
    }

    /// Bytes that were read are of a version that this one doesn't know.
    pub fn is_unknown_version(&self) -> bool {
        matches!(*self.0, Kind::UnknownVersion(_))
    }

    /// The device lacks a feature that the request needs.
    pub fn is_unsupported(&self) -> bool {
        matches!(*self.0, Kind::Unsupported(_))
    }

    /// No adapter was found (or none that matches the request).
    pub fn is_no_adapter(&self) -> bool {
        matches!(*self.0, Kind::NoAdapter(_))
    }

    /// The device was lost or destroyed. Make a new [`Context`](crate::Context) and upload again.
    pub fn is_device_lost(&self) -> bool {
        matches!(*self.0, Kind::DeviceLost(_))
    }

    /// The device has no memory left for a buffer.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(*self.0, Kind::OutOfMemory(_))
    }

    /// The GPU API rejected what prflash asked of it: a bug in prflash or in a driver.
    pub fn is_validation(&self) -> bool {
        matches!(*self.0, Kind::Validation(_))
    }

    /// The name of the argument that was refused, for [`is_invalid_argument`](Error::is_invalid_argument)
    /// and [`is_too_large`](Error::is_too_large).
    pub fn argument(&self) -> Option<&'static str> {
        match *self.0 {
            Kind::Argument { argument, .. } | Kind::TooLarge { argument, .. } => Some(argument),
            _ => None,
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Error {}

/// `Err` with an invalid-argument error unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $argument:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::error::Error::argument_error($argument, format!($($message)+)));
        }
    };
}
pub(crate) use ensure;
