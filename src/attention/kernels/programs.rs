//! The kernels that compute attention as programs: text and bindings.

use super::params::{Params, SequenceEntry};
use super::shapes::Kernel;
use super::text;
use super::variant::{Variant, Wide};
use crate::cache::gpu::params::CacheLayout;
use crate::runtime::program::{Binds, Program};

/// The bind groups of the attention kernels, after that of the call.
pub(crate) const TABLES_GROUP: usize = 1;
pub(crate) const TENSORS_GROUP: usize = 2;
/// The bind group of a cache.
pub(crate) const ARENA_GROUP: usize = 3;

impl Program for Variant {
    fn label(&self) -> String {
        self.name()
    }

    fn entry_point(&self) -> &'static str {
        self.kernel.name()
    }

    fn source(&self) -> String {
        text::attention(self, 0)
    }

    /// Those of `shaders/attention/params.wgsl`, `tensors.wgsl` and `arena.wgsl`.
    fn groups(&self) -> Vec<Vec<Binds>> {
        let (read, write) = (Binds::Read, Binds::Write);
        let mut tensors = vec![read];
        if self.cache.is_none() {
            tensors.extend([read, read]);
        }
        tensors.push(write);
        if !matches!(self.kernel, Kernel::Decode(_)) {
            tensors.push(write);
        }
        let mut groups = vec![attention_call(), vec![read], tensors];
        if self.cache.is_some() {
            groups.push(vec![read, read, Binds::Uniform(size_of::<CacheLayout>())]);
        }
        groups
    }
}

impl Program for Wide {
    fn label(&self) -> String {
        self.name()
    }

    fn entry_point(&self) -> &'static str {
        self.0.entry_point()
    }

    fn source(&self) -> String {
        text::attention(&self.0, self.0.wide_quads().unwrap_or(0))
    }

    fn groups(&self) -> Vec<Vec<Binds>> {
        self.0.groups()
    }
}

/// What changes with each call of attention, and what no call of a plan changes.
pub(super) fn attention_call() -> Vec<Binds> {
    vec![
        Binds::CallParams(size_of::<Params>()),
        Binds::CallTable(size_of::<SequenceEntry>()),
        // The plan's position table.
        Binds::Read,
    ]
}

#[cfg(test)]
mod tests {
    use super::super::shapes::Matrix;
    use super::*;
    use crate::layout::DType;

    /// What a kernel says that it needs is what its text declares.
    #[test]
    fn workgroup_memory_is_what_the_text_declares() {
        for (edge, padded) in [(16, true), (16, false), (8, true), (8, false)] {
            for emulated in [true, false] {
                for dim in [4, 20, 64, 80, 128, 256] {
                    let kernel = Kernel::Matrix(Matrix::new(edge, padded, emulated).unwrap());
                    let variant = Variant::new(kernel, DType::F16, [dim; 2]);
                    let module = naga::front::wgsl::parse_str(&variant.source()).unwrap();
                    let shared = module
                        .global_variables
                        .iter()
                        .filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup);
                    let bytes: u32 =
                        shared.map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx())).sum();
                    assert_eq!(bytes as usize, kernel.workgroup_bytes(dim, dim), "{kernel}, D = {dim}");
                }
            }
        }
    }
}
