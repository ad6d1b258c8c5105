// A cache: the regions of all sequences, head by head, and where in them its tokens lie.

#import cache/cache

@group(3) @binding(0) var<storage, read> key_words: array<u32>;
@group(3) @binding(1) var<storage, read> value_words: array<u32>;
@group(3) @binding(2) var<uniform> cache: CacheLayout;
