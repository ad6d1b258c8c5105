// Where lanes share rows: shares of the inner products of a step, two steps in turn:
// [step % 2][part][row of a lane × key][lane of a part].
var<workgroup> shares: array<f32, 2u * PARTS * ROWS_EACH * KEYS * ROW_LANES>;
