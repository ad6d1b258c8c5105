// Fragments of matrices, on the device's matrix units: EDGE × EDGE numbers that a subgroup holds
// together, each lane a part that it can't see. fragments_emulated.wgsl has the same names and
// computes the same.
//
// Operands are f16 and sums f32. Both lie in workgroup memory by rows, a number of elements apart;
// the loads and stores are the only way in and out. Every lane of a subgroup must come to each of
// these functions, with the same arguments.

enable f16;
enable wgpu_cooperative_matrix;

var<workgroup> operands: array<f16, OPERAND_NUMBERS>;
var<workgroup> sums: array<f32, SUM_NUMBERS>;

alias Left = coop_mat$(EDGE)x$(EDGE)<f16, A>;
alias Right = coop_mat$(EDGE)x$(EDGE)<f16, B>;
alias Sum = coop_mat$(EDGE)x$(EDGE)<f32, C>;

// A left operand: its rows are rows of memory.
fn load_left(at: u32, stride: u32) -> Left {
    return coopLoadT<Left>(&operands[at], stride);
}

// A right operand whose rows are rows of memory.
fn load_right(at: u32, stride: u32) -> Right {
    return coopLoadT<Right>(&operands[at], stride);
}

// A right operand whose columns are rows of memory.
fn load_right_turned(at: u32, stride: u32) -> Right {
    return coopLoad<Right>(&operands[at], stride);
}

fn no_sum() -> Sum {
    return Sum();
}

// left · right + sum
fn multiply_add(left: Left, right: Right, sum: Sum) -> Sum {
    return coopMultiplyAdd(left, right, sum);
}

fn store_sum(sum: Sum, at: u32) {
    coopStoreT(sum, &sums[at], SUM_STRIDE);
}

// Four operands as bits, at a multiple of four. As f32 and back they stay what they are.
fn put_quad(at: u32, quad: vec2<u32>) {
    let low = vec2<f16>(unpack2x16float(quad.x));
    let high = vec2<f16>(unpack2x16float(quad.y));
    operands[at] = low.x;
    operands[at + 1u] = low.y;
    operands[at + 2u] = high.x;
    operands[at + 3u] = high.y;
}

fn half_at(at: u32) -> f32 {
    return f32(operands[at]);
}
