//! What prflash's tests, examples and benchmarks, and the programs beside it, have in common.
//!
//! Unit tests of the library can't use it: it is built with the library as others see it, whose
//! types aren't those of the library under test.

pub mod backend;
pub mod chart;
pub mod device;
pub mod example;
pub mod files;
pub mod fixture;
pub mod pca;
pub mod picture;
pub mod prose;
pub mod staircases;
pub mod statistics;

/// The folder of the repository.
fn repository() -> &'static std::path::Path {
    let own = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().expect("this package lies in a folder of the repository")
}
