//! The one error type of the crate.

use std::fmt;
use std::io;

/// A `Result` whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why prflash refused or could not finish something.
///
/// [`kind`](Error::kind) says what it is to a `match`; the predicates
/// ([`is_invalid_argument`](Error::is_invalid_argument), [`is_device_lost`](Error::is_device_lost),
/// …) ask for one kind. The message says which argument was wrong, what was expected and what came.
///
/// ```
/// let error = prflash::Shape::new(9, 2, 128, 64).unwrap_err();
/// assert!(error.is_invalid_argument());
/// assert_eq!(error.kind(), prflash::ErrorKind::InvalidArgument);
/// assert_eq!(error.argument(), Some("kv_heads"));
/// assert_eq!(error.to_string(), "kv_heads: expected a divisor of heads = 9, got 2");
/// ```
pub struct Error(Box<Kind>);

/// What an [`Error`] is. New kinds may be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// See [`Error::is_invalid_argument`].
    InvalidArgument,
    /// See [`Error::is_too_large`].
    TooLarge,
    /// See [`Error::is_other_device`].
    OtherDevice,
    /// See [`Error::is_out_of_order`].
    OutOfOrder,
    /// See [`Error::is_corrupt`].
    Corrupt,
    /// See [`Error::is_unknown_version`].
    UnknownVersion,
    /// See [`Error::is_io`].
    Io,
    /// See [`Error::is_diverged`].
    Diverged,
    /// See [`Error::is_unsupported`].
    Unsupported,
    /// See [`Error::is_no_adapter`].
    NoAdapter,
    /// See [`Error::is_device_lost`].
    DeviceLost,
    /// See [`Error::is_out_of_memory`].
    OutOfMemory,
    /// See [`Error::is_validation`].
    Validation,
}

#[derive(Debug, thiserror::Error)]
enum Kind {
    #[error("{argument}: {message}")]
    Argument { argument: &'static str, message: String },
    #[error("{argument}: {message}")]
    TooLarge { argument: &'static str, message: String },
    #[error("{argument}: it is of another device than expected; {message}")]
    OtherDevice { argument: &'static str, message: String },
    #[error("commands didn't run as they were recorded: {0}")]
    OutOfOrder(String),
    #[error("corrupt data: {0}")]
    Corrupt(String),
    #[error("unknown version: {0}")]
    UnknownVersion(String),
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("the training diverges: {0}")]
    Diverged(String),
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

    pub(crate) fn other_device(argument: &'static str, message: impl Into<String>) -> Self {
        Self::new(Kind::OtherDevice { argument, message: message.into() })
    }

    pub(crate) fn out_of_order(message: impl Into<String>) -> Self {
        Self::new(Kind::OutOfOrder(message.into()))
    }

    pub(crate) fn corrupt(message: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt(message.into()))
    }

    pub(crate) fn unknown_version(message: impl Into<String>) -> Self {
        Self::new(Kind::UnknownVersion(message.into()))
    }

    /// `what` was done, or tried, with which file or stream.
    #[cfg_attr(not(any(feature = "subword", feature = "serde", feature = "word2vec")), allow(dead_code))]
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::new(Kind::Io { what: what.into(), source })
    }

    #[cfg_attr(not(feature = "word2vec"), allow(dead_code))]
    pub(crate) fn diverged(message: impl Into<String>) -> Self {
        Self::new(Kind::Diverged(message.into()))
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

    /// What it is.
    pub fn kind(&self) -> ErrorKind {
        match *self.0 {
            Kind::Argument { .. } => ErrorKind::InvalidArgument,
            Kind::TooLarge { .. } => ErrorKind::TooLarge,
            Kind::OtherDevice { .. } => ErrorKind::OtherDevice,
            Kind::OutOfOrder(_) => ErrorKind::OutOfOrder,
            Kind::Corrupt(_) => ErrorKind::Corrupt,
            Kind::UnknownVersion(_) => ErrorKind::UnknownVersion,
            Kind::Io { .. } => ErrorKind::Io,
            Kind::Diverged(_) => ErrorKind::Diverged,
            Kind::Unsupported(_) => ErrorKind::Unsupported,
            Kind::NoAdapter(_) => ErrorKind::NoAdapter,
            Kind::DeviceLost(_) => ErrorKind::DeviceLost,
            Kind::OutOfMemory(_) => ErrorKind::OutOfMemory,
            Kind::Validation(_) => ErrorKind::Validation,
        }
    }

    /// An argument has a value that can never work. [`argument`](Error::argument) names it.
    pub fn is_invalid_argument(&self) -> bool {
        self.kind() == ErrorKind::InvalidArgument
    }

    /// A size is past what 32-bit indices or this device's limits can address.
    /// [`argument`](Error::argument) names it.
    pub fn is_too_large(&self) -> bool {
        self.kind() == ErrorKind::TooLarge
    }

    /// A tensor, plan, cache, table or buffer belongs to another device than what it is used with,
    /// or commands were made for one. [`argument`](Error::argument) names it.
    pub fn is_other_device(&self) -> bool {
        self.kind() == ErrorKind::OtherDevice
    }

    /// Encoders that change a [`KvCache`](crate::cache::KvCache) were submitted in another order
    /// than they were recorded in, or one was dropped on which a submitted one relies. What was
    /// lost is in the message; the cache is as if what was lost had never been recorded.
    pub fn is_out_of_order(&self) -> bool {
        self.kind() == ErrorKind::OutOfOrder
    }

    /// Bytes that were read are cut off, changed, or of another kind.
    pub fn is_corrupt(&self) -> bool {
        self.kind() == ErrorKind::Corrupt
    }

    /// Bytes that were read are of a version that this one doesn't know.
    pub fn is_unknown_version(&self) -> bool {
        self.kind() == ErrorKind::UnknownVersion
    }

    /// A file or stream couldn't be opened, read or written. The
    /// [`source`](std::error::Error::source) is the [`std::io::Error`].
    pub fn is_io(&self) -> bool {
        self.kind() == ErrorKind::Io
    }

    /// A training's weights grow past all bounds: its learning rate is too large, or its batches
    /// are.
    pub fn is_diverged(&self) -> bool {
        self.kind() == ErrorKind::Diverged
    }

    /// The device lacks a feature that the request needs.
    pub fn is_unsupported(&self) -> bool {
        self.kind() == ErrorKind::Unsupported
    }

    /// No adapter was found (or none that matches the request).
    pub fn is_no_adapter(&self) -> bool {
        self.kind() == ErrorKind::NoAdapter
    }

    /// The device was lost or destroyed. Make a new [`Context`](crate::Context) and upload again.
    pub fn is_device_lost(&self) -> bool {
        self.kind() == ErrorKind::DeviceLost
    }

    /// The device has no memory left for a buffer.
    pub fn is_out_of_memory(&self) -> bool {
        self.kind() == ErrorKind::OutOfMemory
    }

    /// The GPU API rejected what prflash asked of it: a bug in prflash or in a driver.
    pub fn is_validation(&self) -> bool {
        self.kind() == ErrorKind::Validation
    }

    /// The name of the argument that was refused, for
    /// [`is_invalid_argument`](Error::is_invalid_argument), [`is_too_large`](Error::is_too_large)
    /// and [`is_other_device`](Error::is_other_device).
    pub fn argument(&self) -> Option<&'static str> {
        match *self.0 {
            Kind::Argument { argument, .. }
            | Kind::TooLarge { argument, .. }
            | Kind::OtherDevice { argument, .. } => Some(argument),
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

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&*self.0)
    }
}

/// `Err` with an invalid-argument error unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $argument:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::error::Error::argument_error($argument, format!($($message)+)));
        }
    };
}
pub(crate) use ensure;
