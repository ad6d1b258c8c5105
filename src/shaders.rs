//! The kernels as WGSL text, one per variant: what the device is given, to read, to validate, to
//! compile elsewhere.
//!
//! Each part of the library has kernels of its own; here they are together.

use crate::attention::kernels::{self, catalogue};
use crate::cache::gpu as cache;
pub use crate::runtime::layouts::HostLayout;
use crate::runtime::program::Program;
pub use crate::runtime::text::ShaderSource;
use crate::sampling::gpu as sampling;
#[cfg(feature = "subword")]
use crate::subword::gpu as subword;
#[cfg(feature = "word2vec")]
use crate::word2vec::gpu as word2vec;

/// The layouts, on the Rust side, of every struct that the shaders share with it.
pub fn host_layouts() -> Vec<HostLayout> {
    [
        kernels::params::layouts(),
        sampling::params::layouts(),
        cache::params::layouts(),
        #[cfg(feature = "subword")]
        subword::params::layouts(),
        #[cfg(feature = "word2vec")]
        word2vec::params::layouts(),
    ]
    .concat()
}

/// Every kernel and tile shape that a plan chooses by itself, with every storage type, at head
/// dimensions that models use (any multiple of 4 up to 576 is rendered on demand), and every kernel
/// beside attention.
pub fn sources() -> Vec<ShaderSource> {
    let mut sources = Vec::new();
    let mut add = |program: &dyn Program| sources.push(ShaderSource::of(program));
    catalogue::chosen(&mut add);
    sampling::draw::all().iter().for_each(|program| add(program));
    sampling::content::all().iter().for_each(|program| add(program));
    cache::programs::moves().iter().for_each(|program| add(program));
    add(&cache::programs::Migrate);
    #[cfg(feature = "subword")]
    subword::programs::all().iter().for_each(|program| add(program));
    #[cfg(feature = "word2vec")]
    word2vec::programs::all().iter().for_each(|program| add(program));
    sources
}

/// A kernel whose machine code is worth a look.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate {
    /// The kernel's text.
    pub source: ShaderSource,
    /// Whether a plan chooses it on some device that isn't the CPU.
    pub chosen: bool,
    /// Keys that one pass of its innermost loop over keys takes; 0 where it has no such loop.
    pub keys: usize,
    /// How often the inner loops of such a pass turn, where they aren't written out.
    pub turns: usize,
    /// Multiply-adds that attention takes of each invocation for each key: those of the two
    /// products.
    pub multiply_adds: usize,
    /// Whether keys and values pass through workgroup memory.
    pub staged: bool,
    /// The head dimension, or 0.
    pub head_dim: usize,
}

/// Kernels to count instructions of (`scripts/isa`): what plans choose on GPUs, and other tile
/// shapes that compute the same, at some head dimensions.
pub fn candidates() -> Vec<Candidate> {
    let mut candidates = Vec::new();
    let mut add = |program: &dyn Program, counted: catalogue::Counted| {
        let catalogue::Counted { chosen, keys, turns, multiply_adds, staged, head_dim } = counted;
        let source = ShaderSource::of(program);
        candidates.push(Candidate { source, chosen, keys, turns, multiply_adds, staged, head_dim });
    };
    catalogue::counted(&mut add);
    sampling::content::all().iter().for_each(|program| add(program, catalogue::Counted::OTHER));
    cache::programs::counted().iter().for_each(|program| add(program, catalogue::Counted::OTHER));
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::program::Binds;

    /// WebGPU's default, of what a pipeline is bound to, whether its text names it or not.
    #[test]
    fn no_program_binds_more_storage_buffers_than_every_device_has() {
        let mut programs = 0;
        let mut check = |program: &dyn Program| {
            let of = |binds: &&Binds| !matches!(binds, Binds::CallParams(_) | Binds::Uniform(_));
            let count = program.groups().iter().flatten().filter(of).count();
            assert!(count <= 8, "{} of {}", count, program.label());
            programs += 1;
        };
        catalogue::chosen(&mut check);
        sampling::draw::all().iter().for_each(|program| check(program));
        sampling::content::all().iter().for_each(|program| check(program));
        cache::programs::moves().iter().for_each(|program| check(program));
        assert!(programs > 100, "{programs}");
    }
}
