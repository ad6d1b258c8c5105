// The line of workgroups, which the host folds into x and y where it is longer than one dimension
// allows (src/runtime/dispatch.rs).

// A workgroup's place in the line. The last row of the fold may reach past the line's end: what
// has a place there is to do nothing.
fn place_in_line(workgroup: vec3<u32>, workgroups: vec3<u32>) -> u32 {
    return workgroup.y * workgroups.x + workgroup.x;
}
