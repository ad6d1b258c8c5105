// What an attention kernel reads and writes of tensors.

#import attention/params
#import shared/store_$(OUTPUT)

@group(2) @binding(0) var<storage, read> q: array<InputQuad>;
#if CACHED
@group(2) @binding(1) var<storage, read_write> output: array<OutputQuad>;
@group(2) @binding(2) var<storage, read_write> lse: array<u32>;
#else
#if WIDE
// Wide loads of a power of two, at multiples of which rows begin: only then can a compiler know
// that the offsets within one don't wrap, and load several quads at once.
@group(2) @binding(1) var<storage, read> k: array<array<InputQuad, WIDE_QUADS>>;
@group(2) @binding(2) var<storage, read> v: array<array<InputQuad, WIDE_QUADS>>;
#else
@group(2) @binding(1) var<storage, read> k: array<InputQuad>;
@group(2) @binding(2) var<storage, read> v: array<InputQuad>;
#end
@group(2) @binding(3) var<storage, read_write> output: array<OutputQuad>;
@group(2) @binding(4) var<storage, read_write> lse: array<u32>;
#end
