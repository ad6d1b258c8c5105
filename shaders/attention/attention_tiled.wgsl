// attention_tiled: FlashAttention in registers. The same function as attention_naive, which
// explains it.
//
//   s(i, j) = a(Δ)·⟨R_i qᵢ, R_j kⱼ⟩·scale − λ·m_h·c(Δ)·φ(Δ) − β·ln p(d), KEYS keys at a time;
//   then with m' = max(m, s₁ … s_KEYS), in powers of four,
//   l' = l·4^(m−m') + Σ 4^(s−m')      o' = o·4^(m−m') + Σ 4^(s−m')·v
//
// Powers of four, since scores in powers of two overflow before natural ones do. The factor of 2 in
// exponents is exact.
//
// Shapes      as attention_naive
// Workgroups  one per (sequence, row tile, head), late tiles first. A tile is ROW_LANES × ROWS_EACH
//             rows of one query block: invocation `lane` has the rows lane, lane + ROW_LANES, …
// Slices      where rows are too long for the registers, SLICES × ROW_LANES invocations share them:
//             each slice has some channels of q, k, v and o, and the shares of the inner products
//             are added up through workgroup memory. The softmax is computed by every slice.
// Registers   q and o of ROWS_EACH rows, and ROWS_EACH × KEYS scores, all named: no array, so
//             nothing is indexed at run time. Lines with # are directives (shaders/README.md),
//             which write the loops over them out.
// Softmax     the maximum may stay behind the scores by up to RAISE_ABOVE before o is rescaled
//             (forms with one row an invocation): results are the same, and rescaling is rare.
// Masks       a step of KEYS keys that every row sees is computed without one; only the others (the
//             diagonal, a window's or a document's edge, the ragged end) look at each element.
// Rotation    of queries as they are loaded; of keys on their way through workgroup memory, once
//             per workgroup: a lane rotates the same quads of every step, by the rotation of the
//             step's first key (from the table, or one product on from the step before) times that
//             of the key within the step, which stays in registers.
// Cache       a staircase cache is walked in runs of tokens that lie together (cache.wgsl), four
//             tokens at a time, expanded on their way through workgroup memory. Rotated codes turn
//             back there, by barriers of their own.
// Barriers    with staging two per step, with slices one, in the list's loop: its bounds depend on
//             the workgroup alone.
// Pieces      tiled/: step.wgsl is one step, made of stage, score, bias, softmax, accumulate and,
//             where some row doesn't see all, masked; walk_*.wgsl are the loops around it. They are
//             inserted in the function below, so its variables are theirs.

#import attention/numbers_$(NUMBERS)
#import attention/tensors
#import attention/work
#import attention/walk
#import attention/scores
#import attention/row_end
#import attention/tiled/from_$(SOURCE)
#if CACHED: #import attention/expand
#if MASKED: #import attention/mask
#if PAGED: #import attention/pages
#if ROTATED_CODES: #import attention/tiled/codes
#if POSITIONS: #import attention/positions
#if SHARED: #import attention/tiled/shares
#unless SHARED: #import attention/tiled/no_shares

@compute @workgroup_size(INVOCATIONS)
fn attention_tiled(
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

#insert attention/tiled/lanes
    let rows = row_tile(sequence, tile);
    let first = rows.first_position - (i32(sequence.kv_len) - i32(sequence.q_len));
    #for r in ROWS_EACH: #insert attention/tiled/query
    let kv_head = head / params.heads_per_kv;
#insert attention/tiled/bases
    #if SCORED: let slope = slope_of(sequence.slope_head + params.first_head + head);
    #if ROTATE_IN_REGISTERS: #insert attention/tiled/rotations

    let list = block_list(sequence, tile, head, rows.any);
    for (var entry = list.first; entry < list.end; entry++) {
        let block = listed_block(sequence, list, entry, rows.any);
        // The denominator is summed block by block: sums of a few numbers of like size lose fewer
        // bits than one long sum. (The numerator would need twice the registers for that.)
        #for r in ROWS_EACH: var block_sum$r = 0.0;
#insert attention/tiled/walk_$(WALK)
        #for r in ROWS_EACH: sum$r += block_sum$r;
    }

    #for r in ROWS_EACH: #insert attention/tiled/ending
}
