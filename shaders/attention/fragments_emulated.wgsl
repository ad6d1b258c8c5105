// The fragments of fragments_cooperative.wgsl where there are no matrix units, in core WGSL: so all
// of the kernel but the intrinsics runs everywhere. Operands are f16 and sums f32, as there.
//
// As many invocations as make up a fragment by eight numbers of a row each are called a subgroup,
// though none of them knows of the others. Operands are read where they lie when they are
// multiplied, since nothing there changes before the next barrier. No array of an invocation's own:
// where numbers of them are indexed at run time, drivers take minutes over the text.

// Two operands to a word.
var<workgroup> operands: array<u32, OPERAND_NUMBERS / 2u>;
var<workgroup> sums: array<f32, SUM_NUMBERS>;

const SUBGROUP_LANES: u32 = EDGE * EDGE / 8u;
// Set by the kernel before all else.
var<private> fragment_lane: u32;

struct Left {
    at: u32,
    stride: u32,
}

struct Right {
    at: u32,
    row_stride: u32,
    column_stride: u32,
}

struct Sum {
    low: vec4<f32>,
    high: vec4<f32>,
}

// Row and first column of what this invocation has.
fn own_place() -> vec2<u32> {
    let number = fragment_lane % SUBGROUP_LANES * 8u;
    return vec2<u32>(number / EDGE, number % EDGE);
}

// A left operand: its rows are rows of memory.
fn load_left(at: u32, stride: u32) -> Left {
    return Left(at, stride);
}

// A right operand whose rows are rows of memory.
fn load_right(at: u32, stride: u32) -> Right {
    return Right(at, stride, 1u);
}

// A right operand whose columns are rows of memory.
fn load_right_turned(at: u32, stride: u32) -> Right {
    return Right(at, 1u, stride);
}

fn no_sum() -> Sum {
    return Sum(vec4<f32>(0.0), vec4<f32>(0.0));
}

fn half_at(at: u32) -> f32 {
    return unpack2x16float(operands[at / 2u])[at % 2u];
}

fn half_quad(at: u32, stride: u32) -> vec4<f32> {
    return vec4<f32>(half_at(at), half_at(at + stride), half_at(at + 2u * stride), half_at(at + 3u * stride));
}

// left · right + sum
fn multiply_add(left: Left, right: Right, sum: Sum) -> Sum {
    let place = own_place();
    var low = sum.low;
    var high = sum.high;
    for (var i = 0u; i < EDGE; i++) {
        let factor = half_at(left.at + place.x * left.stride + i);
        let at = right.at + i * right.row_stride + place.y * right.column_stride;
        low += factor * half_quad(at, right.column_stride);
        high += factor * half_quad(at + 4u * right.column_stride, right.column_stride);
    }
    return Sum(low, high);
}

fn store_sum(sum: Sum, at: u32) {
    let place = own_place();
    let own = at + place.x * SUM_STRIDE + place.y;
    for (var i = 0u; i < 4u; i++) {
        sums[own + i] = sum.low[i];
        sums[own + 4u + i] = sum.high[i];
    }
}

// Four operands as bits, at a multiple of four.
fn put_quad(at: u32, quad: vec2<u32>) {
    operands[at / 2u] = quad.x;
    operands[at / 2u + 1u] = quad.y;
}
