// Where lanes share rows: shares of the inner products of a step, two steps in turn:
// [step % 2][slice][row of a lane × key][lane of a slice].
var<workgroup> shares: array<f32, 2u * SLICES * ROWS_EACH * KEYS * ROW_LANES>;
