// Where lanes share rows: what each slice has of the two inner products of a step's pairs, two
// steps in turn: [step % 2][slice][product][pair of a lane][lane of a slice].
const PAIRS: u32 = EACH * STEP;
var<workgroup> shares: array<f32, 2u * SLICES * 2u * PAIRS * LANES>;
