// attention_backward_rows: the gradient of queries.
//
//   p(i, j)  = e^(s(i, j) − L(i))             s as attention_naive has it
//   ds(i, j) = p(i, j)·(⟨doᵢ, v_j⟩ − δ(i))·a(Δ)·(1 − tanh²)
//   dqᵢ      = R_iᵀ·scale·Σ_j ds(i, j)·R_j k_j
//   dm(i)    = −Σ_j p(i, j)·(⟨doᵢ, v_j⟩ − δ(i))·c(Δ)·φ(Δ)          of the slope of a bias
//
// over the visible keys j of the kept key blocks. Nothing of the softmax is recomputed but p, whose
// sum the forward pass left in L. Source: Dao 2023 (arXiv 2307.08691), algorithm 2, whose loop over
// keys and queries is two kernels here, so that nothing is added atomically.
//
// Shapes      query_rows as attention_backward_queries · k (batch, H_kv, kv_len, D) · v (batch,
//             H_kv, kv_len, D_v) · dq (batch, H, q_len, D)
// Workgroups  one per (sequence, row tile, head), as attention_tiled: invocation `lane` has the
//             rows lane, lane + LANES, … of a tile
// Slices      where rows are too long for the registers, SLICES × LANES invocations share them:
//             each slice has every SLICES-th quad of x, do and dq, and shares of the inner products
//             meet in workgroup memory
// Registers   x, do and dq of EACH rows, all named: no array is indexed at run time in the loop
// Slopes      where there is a bias, dm of a row goes to the end of its query_rows, which nobody
//             reads before the next kernel
// Masks       a step of STEP keys that every row sees is computed without one; in others what a row
//             doesn't see is selected away, never multiplied by zero: it may be anything
// Barriers    two per step, with slices three, in loops whose bounds depend on the workgroup alone

#import shared/load_$(STORAGE)
#import shared/store_$(STORAGE)
#import attention/backward/axes
#import attention/work
#import attention/walk
#import attention/scores
#if POSITIONS: #import attention/positions
#if MASKED: #import attention/mask
#import attention/backward/turn_back
#if SHARED: #import attention/backward/shares

#if BIASED
@group(2) @binding(1) var<storage, read_write> query_rows: array<vec4<f32>>;
#else
@group(2) @binding(1) var<storage, read> query_rows: array<vec4<f32>>;
#end
@group(2) @binding(2) var<storage, read> k: array<InputQuad>;
@group(2) @binding(3) var<storage, read> v: array<InputQuad>;
@group(2) @binding(4) var<storage, read_write> dq: array<OutputQuad>;

#insert attention/backward/tile with name = k_tile, quads = HEAD_QUADS
#insert attention/backward/tile with name = v_tile, quads = VALUE_QUADS
#if SHARED
#let key_part = k_tile[slice]
#let value_part = v_tile[slice]
#else
#let key_part = k_tile
#let value_part = v_tile
#end

#let lag = position$r - at$t
#let row_lse = ending$r.x
#let row_delta = ending$r.y
#let pair_mask = mask_at$r, min(j + $t, end_key - 1)

@compute @workgroup_size(INVOCATIONS)
fn attention_backward_rows(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let work = work_item(workgroup, workgroups);
    if !work.exists {
        return;
    }
    let head = work.head;
    let tile = work.tile;
    let sequence = sequences[work.sequence];
    if tile / params.tiles_per_block >= sequence.query_blocks {
        return; // this sequence is shorter than the longest
    }
    let row_lane = lane % LANES;
    let slice = lane / LANES;
    #if SHARED: var buffer = 0u;

    let rows = row_tile(sequence, tile);
    let first = rows.first_position - (i32(sequence.kv_len) - i32(sequence.q_len));
#for r in EACH
    let row$r = first + i32(row_lane + $ru * LANES);
    let has_row$r = row$r >= rows.first_row && row$r <= rows.last_row;
    // A lane without a row reads row 0, sees nothing and writes nothing.
    let safe_row$r = select(0, row$r, has_row$r);
    var own$r = Visible(0, 0);
    if has_row$r {
        own$r = visible_keys(sequence, row$r);
    }
    #if POSITIONS: let position$r = query_position(sequence, safe_row$r);
    #if MASKED: let mask_at$r = mask_row(sequence, params.first_head + head, safe_row$r);
    #if BIASED: var d_slope$r = 0.0;
    let from$r = query_at(axes.query_rows, sequence, head, u32(safe_row$r));
    #for c in OWN_HEAD_QUADS: let x$r_$c = query_rows[from$r + $cu * SLICES + slice];
    #for c in OWN_VALUE_QUADS: let g$r_$c = query_rows[from$r + HEAD_QUADS + $cu * SLICES + slice];
    #for c in OWN_HEAD_QUADS: var dq$r_$c = vec4<f32>(0.0);
    let ending$r = query_rows[from$r + HEAD_QUADS + VALUE_QUADS].xy;
#end
    let kv_head = head / params.heads_per_kv;
    let k_base = key_at(axes.k, sequence, kv_head, 0u);
    let v_base = key_at(axes.v, sequence, kv_head, 0u);
    #if SCORED: let slope = slope_of(sequence.slope_head + params.first_head + head);

    let list = block_list(sequence, tile, head, rows.any);
    for (var entry = list.first; entry < list.end; entry++) {
        let block = listed_block(sequence, list, entry, rows.any);
        let bias = block.bias;
        let end_key = block.keys.hi;
        for (var j = block.keys.lo; j < end_key; j += i32(STEP)) {
            workgroupBarrier();
            for (var n = lane; n < STEP * HEAD_QUADS; n += INVOCATIONS) {
                let key = min(j + i32(n / HEAD_QUADS), end_key - 1);
                let c = n % HEAD_QUADS;
                let k_at = k_base + u32(key) * axes.k.w;
#if ROPE
                let quad = rotated(load_quad(k[k_at + c]), load_quad(k[k_at + partner(c)]), key_position(sequence, key), c);
#else
                let quad = load_quad(k[k_at + c]);
#end
#insert attention/backward/stage with tile = k_tile, quads = HEAD_QUADS
            }
            for (var n = lane; n < STEP * VALUE_QUADS; n += INVOCATIONS) {
                let key = min(j + i32(n / VALUE_QUADS), end_key - 1);
                let c = n % VALUE_QUADS;
                let quad = load_quad(v[v_base + u32(key) * axes.v.w + c]);
#insert attention/backward/stage with tile = v_tile, quads = VALUE_QUADS
            }
            workgroupBarrier();

            #for r in EACH, t in STEP: var s$r_$t = 0.0;
            #for r in EACH, t in STEP: var dp$r_$t = 0.0;
#for c in OWN_HEAD_QUADS, t in STEP
            let key$t_$c = $(key_part)[$tu * OWN_HEAD_QUADS + $cu];
            #for r in EACH: s$r_$t += dot(x$r_$c, key$t_$c);
#end
#for c in OWN_VALUE_QUADS, t in STEP
            let value$t_$c = $(value_part)[$tu * OWN_VALUE_QUADS + $cu];
            #for r in EACH: dp$r_$t += dot(g$r_$c, value$t_$c);
#end
            #if SHARED: #insert attention/backward/add_shares
            #if SCORED: #for t in STEP: let at$t = key_position(sequence, min(j + $t, end_key - 1));
#insert attention/backward/weights

            if j >= rows.all.lo && j + i32(STEP) <= min(rows.all.hi, end_key) {
                // Every row sees every key of this step.
#for c in OWN_HEAD_QUADS
                #for r in EACH: var part$r_$c = vec4<f32>(0.0);
#for t in STEP
                let again$t_$c = $(key_part)[$tu * OWN_HEAD_QUADS + $cu];
                #for r in EACH: part$r_$c += ds$r_$t * again$t_$c;
#end
                #for r in EACH: dq$r_$c += part$r_$c;
#end
#if BIASED
#for r in EACH
                var slope_part$r = 0.0;
                #for t in STEP: slope_part$r += bent$r_$t;
                d_slope$r -= slope_part$r;
#end
#end BIASED
            } else {
                for (var t = 0; t < min(i32(STEP), end_key - j); t++) {
                    let at = u32(t) * OWN_HEAD_QUADS;
#for r in EACH
                    let seen$r = j + t >= own$r.lo && j + t < own$r.hi;
                    var ds$r = ds$r_0;
                    #for t in STEP: ds$r = select(ds$r, ds$r_$t, t == $t);
#if BIASED
                    var bent$r = bent$r_0;
                    #for t in STEP: bent$r = select(bent$r, bent$r_$t, t == $t);
                    d_slope$r -= select(0.0, bent$r, seen$r);
#end
#end
#for c in OWN_HEAD_QUADS
                    let key_$c = $(key_part)[at + $cu];
                    #for r in EACH: dq$r_$c += select(vec4<f32>(0.0), ds$r * key_$c, seen$r);
#end
                }
            }
        }
    }

    let scale = params.scale / params.score_unit;
#for r in EACH
    if has_row$r {
        #if BIASED: if slice == 0u { query_rows[from$r + HEAD_QUADS + VALUE_QUADS].w = d_slope$r; }
        let to$r = query_at(axes.dq, sequence, head, u32(row$r));
#insert attention/backward/store_turned with gradient = dq, at = to$r, scale = scale
    }
#end
}
