//! What is wrong with a text, and where.

/// What is wrong with a text, after `file:line: `.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault(pub(crate) String);

pub(super) type Result<T> = std::result::Result<T, Fault>;

/// Where a line stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) file: &'a str,
    pub(super) number: usize,
}

impl Place<'_> {
    /// What is wrong there.
    pub(super) fn fault<T>(self, message: impl std::fmt::Display) -> Result<T> {
        Err(Fault(format!("{}.wgsl:{}: {message}", self.file, self.number)))
    }
}
