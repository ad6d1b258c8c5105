// attention_backward_keys: the gradients of keys and values.
//
//   dk_j = R_jᵀ·scale·Σᵢ ds(i, j)·R_i qᵢ          dv_j = Σᵢ p(i, j)·doᵢ
//
// with p and ds as attention_backward_rows has them, over the queries i of every query head of the
// key's head that see the key, of blocks that keep its block: so a key tile has all that is added
// to its gradients, always in the same order.
//
// Shapes      query_rows as attention_backward_queries · k and dk (batch, H_kv, kv_len, D) · v and
//             dv (batch, H_kv, kv_len, D_v)
// Workgroups  one per (sequence, key tile, key/value head): invocation `lane` has the keys lane,
//             lane + LANES, … of a tile, which is up to ROWS keys of one key block
// Lists       a schedule's, transposed: for each (list group, key block) the (query block, bits of
//             ln p) pairs that keep it. Without, all queries that may see a key of the tile
// Slices      as attention_backward_rows
// Registers   k, v, dk and dv of EACH keys, all named
// Masks       as attention_backward_rows, by steps of STEP queries; a step whose queries see no key
//             of the tile is passed over
// Barriers    as attention_backward_rows

#import shared/load_$(STORAGE)
#import shared/store_$(STORAGE)
#import attention/backward/axes
#import attention/work
#import attention/walk
#import attention/scores
#if POSITIONS: #import attention/positions
#if MASKED: #import attention/mask
#import attention/backward/turn_back
#import attention/backward/key_tile
#if SHARED: #import attention/backward/shares

@group(2) @binding(1) var<storage, read> query_rows: array<vec4<f32>>;
@group(2) @binding(2) var<storage, read> k: array<InputQuad>;
@group(2) @binding(3) var<storage, read> v: array<InputQuad>;
@group(2) @binding(4) var<storage, read_write> dk: array<OutputQuad>;
@group(2) @binding(5) var<storage, read_write> dv: array<OutputQuad>;

#insert attention/backward/tile with name = q_tile, quads = HEAD_QUADS
#insert attention/backward/tile with name = g_tile, quads = VALUE_QUADS
#if SHARED
#let query_part = q_tile[slice]
#let gradient_part = g_tile[slice]
#else
#let query_part = q_tile
#let gradient_part = g_tile
#end
// (L, δ) of the step's queries.
var<workgroup> endings: array<vec2<f32>, STEP>;

#let lag = at$t - position$r
#let row_lse = ending$t.x
#let row_delta = ending$t.y
#let pair_mask = mask_at$t, safe_key$r

@compute @workgroup_size(INVOCATIONS)
fn attention_backward_keys(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let work = work_item(workgroup, workgroups);
    if !work.exists {
        return;
    }
    let kv_head = work.head;
    let sequence = sequences[work.sequence];
    // Early keys are seen by the most queries, as late queries see the most keys.
    let keys = key_tile(sequence, params.tiles - 1u - work.tile);
    if keys.first > keys.last {
        return; // this sequence is shorter than the longest
    }
    let row_lane = lane % LANES;
    let slice = lane / LANES;
    #if SHARED: var buffer = 0u;
#for r in EACH
    let key$r = keys.first + i32(row_lane + $ru * LANES);
    let has_key$r = key$r <= keys.last;
    let safe_key$r = min(key$r, keys.last);
    let k_at$r = key_at(axes.k, sequence, kv_head, u32(safe_key$r));
    let v_at$r = key_at(axes.v, sequence, kv_head, u32(safe_key$r));
    #if POSITIONS: let position$r = key_position(sequence, safe_key$r);
#if ROPE
    // In a loop, not written out, as in attention_tiled.
    var rotated_k$r: array<vec4<f32>, OWN_HEAD_QUADS>;
    for (var i = 0u; i < OWN_HEAD_QUADS; i++) {
        let c = i * SLICES + slice;
        rotated_k$r[i] = rotated(load_quad(k[k_at$r + c]), load_quad(k[k_at$r + partner(c)]), position$r, c);
    }
    #for c in OWN_HEAD_QUADS: let k$r_$c = rotated_k$r[$c];
#else
    #for c in OWN_HEAD_QUADS: let k$r_$c = load_quad(k[k_at$r + $cu * SLICES + slice]);
#end
    #for c in OWN_VALUE_QUADS: let v$r_$c = load_quad(v[v_at$r + $cu * SLICES + slice]);
    #for c in OWN_HEAD_QUADS: var dk$r_$c = vec4<f32>(0.0);
    #for c in OWN_VALUE_QUADS: var dv$r_$c = vec4<f32>(0.0);
#end

    for (var h = 0u; h < params.heads_per_kv; h++) {
        let head = kv_head * params.heads_per_kv + h;
        #if SCORED: let slope = slope_of(sequence.slope_head + params.first_head + head);
        let rows_base = query_at(axes.query_rows, sequence, head, 0u);
        let list = query_list(sequence, keys, head);
        for (var entry = list.first; entry < list.end; entry++) {
            let block = listed_queries(sequence, keys, list, entry);
            let bias = block.bias;
            let end_row = block.keys.hi;
            for (var i = block.keys.lo; i < end_row; i += i32(STEP)) {
                let last = min(i + i32(STEP), end_row) - 1;
                let early = visible_keys(sequence, i);
                let late = visible_keys(sequence, last);
                if late.hi <= keys.first || early.lo > keys.last {
                    continue;
                }
                workgroupBarrier();
                for (var n = lane; n < STEP * HEAD_QUADS; n += INVOCATIONS) {
                    let row = u32(min(i + i32(n / HEAD_QUADS), last));
                    let c = n % HEAD_QUADS;
                    let quad = query_rows[rows_base + row * axes.query_rows.w + c];
#insert attention/backward/stage with tile = q_tile, quads = HEAD_QUADS
                }
                for (var n = lane; n < STEP * VALUE_QUADS; n += INVOCATIONS) {
                    let row = u32(min(i + i32(n / VALUE_QUADS), last));
                    let c = n % VALUE_QUADS;
                    let quad = query_rows[rows_base + row * axes.query_rows.w + HEAD_QUADS + c];
#insert attention/backward/stage with tile = g_tile, quads = VALUE_QUADS
                }
                if lane < STEP {
                    let row = u32(min(i + i32(lane), last));
                    endings[lane] = query_rows[rows_base + row * axes.query_rows.w + HEAD_QUADS + VALUE_QUADS].xy;
                }
                workgroupBarrier();
#insert attention/backward/query_step
            }
        }
    }

    let unscale = 1.0 / params.score_unit;
#for r in EACH
    if has_key$r {
        let dk_at$r = key_at(axes.dk, sequence, kv_head, u32(key$r));
        let dv_at$r = key_at(axes.dv, sequence, kv_head, u32(key$r));
#insert attention/backward/store_turned with gradient = dk, at = dk_at$r, scale = unscale
        #for c in OWN_VALUE_QUADS: dv[dv_at$r + $cu * SLICES + slice] = store_quad(dv$r_$c);
    }
#end
}
