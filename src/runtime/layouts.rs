//! Where the fields of a struct lie that a shader reads as it lies in host memory:
//! `tests/shaders.rs` compares with naga's.

/// A Rust struct that a shader reads: name, (field, byte offset) pairs, size in bytes.
pub type HostLayout = (&'static str, Vec<(&'static str, u32)>, u32);

/// The layout of a struct, under the shader's name for it: `host_layout!("Name", Struct: field,
/// field)`.
macro_rules! host_layout {
    ($name:literal, $struct:ident: $($field:ident),* $(,)?) => {
        (
            $name,
            vec![$((stringify!($field), std::mem::offset_of!($struct, $field) as u32)),*],
            size_of::<$struct>() as u32,
        )
    };
}

pub(crate) use host_layout;
