// What a plan's calls share of positions and heads, tabulated by the host as quads
// (src/attention/position_table.rs): rotations, φ, slopes of a bias, and sinks.

@group(0) @binding(2) var<storage, read> position_table: array<vec4<f32>>;
