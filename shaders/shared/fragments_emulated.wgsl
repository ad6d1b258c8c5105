// The fragments of fragments_cooperative.wgsl where there are no matrix units: every invocation is a subgroup of its own and holds whole fragments. Slow, but core WGSL, so that all of the kernel but the intrinsics
// runs everywhere. Operands are f16 and sums f32, as there.

// Two halves to a word.
var<workgroup> halves: array<u32, HALVES / 2u>;
var<workgroup> sums: array<f32, SUMS>;

// By rows, four columns to a quad.
alias Left = array<vec4<f32>, EDGE * EDGE / 4u>;
alias Right = array<vec4<f32>, EDGE * EDGE / 4u>;
alias Sum = array<vec4<f32>, EDGE * EDGE / 4u>;
const EDGE_QUADS: u32 = EDGE / 4u;

fn half_quad(at: u32) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(halves[at / 2u]), unpack2x16float(halves[at / 2u + 1u]));
}

// A left operand: its rows are rows of memory.
fn load_left(at: u32, stride: u32) -> Left {
    return load_right(at, stride);
}

// A right operand whose rows are rows of memory.
fn load_right(at: u32, stride: u32) -> Right {
    var fragment: Right;
    for (var i = 0u; i < EDGE * EDGE_QUADS; i++) {
        fragment[i] = half_quad(at + i / EDGE_QUADS * stride + 4u * (i % EDGE_QUADS));
    }
    return fragment;
}

// A right operand whose columns are rows of memory.
fn load_right_turned(at: u32, stride: u32) -> Right {
    var fragment: Right;
    for (var i = 0u; i < EDGE * EDGE_QUADS; i++) {
        let row = i / EDGE_QUADS;
        let column = 4u * (i % EDGE_QUADS);
        let a = half_at(at + column * stride + row);
        let b = half_at(at + (column + 1u) * stride + row);
        let c = half_at(at + (column + 2u) * stride + row);
        let d = half_at(at + (column + 3u) * stride + row);
        fragment[i] = vec4<f32>(a, b, c, d);
    }
    return fragment;
}

fn no_sum() -> Sum {
    return Sum();
}

// left · right + sum
fn multiply_add(left: Left, right: Right, sum: Sum) -> Sum {
    var a = left;
    var b = right;
    var c = sum;
    for (var row = 0u; row < EDGE; row++) {
        for (var i = 0u; i < EDGE; i++) {
            let factor = a[row * EDGE_QUADS + i / 4u][i % 4u];
            for (var q = 0u; q < EDGE_QUADS; q++) {
                c[row * EDGE_QUADS + q] += factor * b[i * EDGE_QUADS + q];
            }
        }
    }
    return c;
}

fn store_sum(sum: Sum, at: u32) {
    var fragment = sum;
    for (var i = 0u; i < EDGE * EDGE_QUADS; i++) {
        let quad = fragment[i];
        let place = at + i / EDGE_QUADS * SUM_STRIDE + 4u * (i % EDGE_QUADS);
        sums[place] = quad.x;
        sums[place + 1u] = quad.y;
        sums[place + 2u] = quad.z;
        sums[place + 3u] = quad.w;
    }
}

// Four halves as bits, at a multiple of four.
fn put_quad(at: u32, quad: vec2<u32>) {
    halves[at / 2u] = quad.x;
    halves[at / 2u + 1u] = quad.y;
}

fn half_at(at: u32) -> f32 {
    return unpack2x16float(halves[at / 2u])[at % 2u];
}
