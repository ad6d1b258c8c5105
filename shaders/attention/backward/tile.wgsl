// The quads of a step's rows in workgroup memory, those of each slice apart.
#if SHARED
var<workgroup> $(name): array<array<vec4<f32>, STEP * OWN_$(quads)>, SLICES>;
#else
var<workgroup> $(name): array<vec4<f32>, STEP * $(quads)>;
#end
