// step_down: blocks of a staircase cache (arXiv 2410.18441) at fewer bits, from codes to codes.
//
//   code' = (2·code·(2^b' − 1) + 2^b − 1) / (2·(2^b − 1))      in integers, the extremes as they were
//
// for every width that the segment passes, as src/cache/quantize.rs says.
//
// Shapes      blocks of S·D'·b/32 words of codes, then S·D'/G words of extremes
// Moves       a segment from one rung's ring to another's. A unit is 32 codes: b words before, b' words after
// Workgroups  one per (head, INVOCATIONS of the line of all moves' units), numbered in one line and folded into x and y
// Barriers    none: no move of a dispatch reads the rung that it writes

@compute @workgroup_size(INVOCATIONS)
fn step_down(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let work = work_of(workgroup.y * workgroups.x + workgroup.x, lane);
    if !work.any {
        return;
    }
    let flags = moves[work.own].flags;
    let widths = moves[work.own].widths;
    let wide = widths & 15u;
    let narrow = last_width(widths);
    let base = head_base(flags, work.head);
    let source = base + moves[work.own].source;
    let destination = base + moves[work.own].destination;
    // Units of the block, and its extremes.
    let units = cache.segment * row_words(flags) / 16u;
    if work.unit < units / (cache.group / 32u) {
        let extremes = load(flags, source + units * wide + work.unit);
        store(flags, destination + units * narrow + work.unit, extremes);
    }
    var from_at = source + work.unit * wide;
    var to_at = destination + work.unit * narrow;
    var word = load(flags, from_at);
    var used = 0u;
    var packed = 0u;
    var filled = 0u;
    for (var quad = 0u; quad < 8u; quad++) {
        var code = vec4<u32>(0u);
        for (var j = 0u; j < 4u; j++) {
            var bits = word >> used;
            used += wide;
            if used >= 32u && (quad < 7u || j < 3u) {
                used -= 32u;
                from_at++;
                word = load(flags, from_at);
                // The rest of a code that two words share.
                bits |= select(0u, word << (wide - used), used > 0u);
            }
            code[j] = bits & levels(wide);
        }
        code = stepped(code, widths);
        for (var j = 0u; j < 4u; j++) {
            packed |= code[j] << filled;
            filled += narrow;
            if filled >= 32u {
                filled -= 32u;
                store(flags, to_at, packed);
                to_at++;
                packed = code[j] >> (narrow - filled);
            }
        }
    }
}
