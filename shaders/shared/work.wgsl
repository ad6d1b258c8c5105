// The tensors, and which part of them a workgroup computes.

@group(2) @binding(0) var<storage, read> q: array<InputQuad>;
@group(2) @binding(1) var<storage, read> k: array<InputQuad>;
@group(2) @binding(2) var<storage, read> v: array<InputQuad>;
@group(2) @binding(3) var<storage, read_write> output: array<OutputQuad>;
@group(2) @binding(4) var<storage, read_write> lse: array<u32>;

// One row tile of one head of one sequence.
struct WorkItem {
    exists: bool,   // false past the end of the line of workgroups
    head: u32,      // among those of this dispatch
    tile: u32,
    sequence: u32,
}

// Heads run fastest, then tiles, late ones first: causal rows grow longer, and the longest should start first.
fn work_item(workgroup: vec3<u32>, workgroups: vec3<u32>) -> WorkItem {
    // The line of workgroups was folded into x and y where it is longer than one dimension allows.
    let index = workgroup.y * workgroups.x + workgroup.x;
    let tile = params.tiles - 1u - (index / params.heads) % params.tiles;
    let sequence = index / (params.heads * params.tiles);
    return WorkItem(index < params.work_items, index % params.heads, tile, sequence);
}
