// encode_segment: segments of a staircase cache that were rows of f16 numbers become rotated codes.
//
//   y = W·(x − μ)      σ ≈ √(Σ y²/D)      code = the number of thresholds below y/σ
//
// W is the Walsh–Hadamard matrix of blocks of P channels, μ the mean of a channel of keys over the
// segment. Every number is an integer, so that the host (src/cache/rotated, which says why this is
// exact enough) holds the same bits.
//
// Shapes      input k, v (batch, H_kv, capacity, D), any strides · packs of S·D'·b/32 words of
//             codes, then scales, means of keys, the list of fine tokens and their codes
// Moves       a segment whose first rows lie in the arena (in the ring of the residual, or in a
//             pack of 16 bits), the later ones in the input. Moves of keys also say where values
//             lie, since the sizes of values decide which tokens are fine
// Workgroups  one per (head, segment): INVOCATIONS units each
// Lanes       a team shares a row, and each of its lanes has eight quads in registers. At first
//             they lie as far apart as a block has lanes, for the stages of W that bring lanes
//             together. Then rows pass through workgroup memory once, and quads lie side by side
// Barriers    all lanes reach all of them: loops depend on the move and on sizes alone, and a move
//             that isn't due is computed and not written

#import cache/moves
#import cache/rows
#import cache/halves

// The sizes of values, then whether a token is fine, then scales.
var<workgroup> of_tokens: array<u32, MOST_SEGMENT>;
// Sums of keys by lane, then rows of a batch of tokens.
var<workgroup> numbers: array<vec4<i32>, INVOCATIONS * LANE_QUADS>;
// Means of keys.
var<workgroup> centre: array<vec4<i32>, MOST_CHANNELS / 4>;
var<workgroup> listed: array<u32, MOST_FINE>;
// What each lane of a team has found.
var<workgroup> parts: array<u32, INVOCATIONS>;

const NONE: u32 = 0xffffu;

fn largest(quad: vec4<u32>) -> u32 {
    return max(max(quad.x, quad.y), max(quad.z, quad.w));
}

// s of numbers of which the largest has these f16 bits: in units of 2^(s − 24) all are below 2²¹.
fn shift_of(most: u32) -> u32 {
    return max(exponent(vec4<u32>(most)).x, 10u) - 10u;
}

// By how much numbers are cut to 12 bits, for sums of squares.
fn cut_of(most: u32) -> u32 {
    return max(32u - countLeadingZeros(most), 12u) - 12u;
}

fn squares(numbers: vec4<i32>, cut: u32) -> u32 {
    let magnitude = vec4<u32>(abs(numbers)) >> vec4<u32>(cut);
    return dot(magnitude, magnitude);
}

// A number that grows with the size of a row of values, in about 256ths of an octave: of the sum of
// squares in units of the largest number so far.
fn rank_of(own: Move, head: u32, row: u32) -> u32 {
    var unit = 0u;
    var sum = 0u;
    for (var quad = 0u; quad < params.v_quads; quad++) {
        let half = row_quad(own, head, row, quad);
        let e = exponent(half);
        let raised = max(unit, largest(e));
        let cut = significand(half) >> (vec4<u32>(raised) - e);
        sum = (sum >> min(2u * (raised - unit), 31u)) + dot(cut, cut);
        unit = raised;
    }
    if sum == 0u {
        return 0u;
    }
    let ones = 31u - countLeadingZeros(sum);
    let fraction = ((sum << (31u - ones)) >> 23u) & 0xffu;
    return 1u + (((ones + 2u * unit) << 8u) | fraction);
}

// Marks the fine tokens in of_tokens and lists them: those with the smallest values, in their
// order.
fn choose(own: Move, head: u32, skipped: u32, lane: u32) {
    var values = own;
    if !is_values(own.flags) {
        values.flags = own.flags | FLAG_VALUES;
        values.source = own.row;
        values.input = own.ring;
    }
    if lane < MOST_FINE {
        listed[lane] = NONE;
    }
    for (var token = lane; token < cache.segment; token += INVOCATIONS) {
        var rank = 0xffffffffu;
        if token >= skipped {
            rank = rank_of(values, head, token);
        }
        of_tokens[token] = rank;
    }
    workgroupBarrier();
    // A bit for each token of the lane.
    var chosen = 0u;
    for (var token = lane; token < cache.segment; token += INVOCATIONS) {
        let rank = of_tokens[token];
        var before = 0u;
        for (var other = skipped; other < cache.segment; other++) {
            let smaller = of_tokens[other] < rank || (of_tokens[other] == rank && other < token);
            before += select(0u, 1u, smaller);
        }
        let is_chosen = token >= skipped && before < cache.fine_tokens;
        chosen |= select(0u, 1u, is_chosen) << (token / INVOCATIONS);
    }
    workgroupBarrier();
    for (var token = lane; token < cache.segment; token += INVOCATIONS) {
        of_tokens[token] = (chosen >> (token / INVOCATIONS)) & 1u;
    }
    workgroupBarrier();
    for (var token = lane; token < cache.segment; token += INVOCATIONS) {
        if of_tokens[token] == 1u {
            var index = 0u;
            for (var other = skipped; other < token; other++) {
                index += of_tokens[other];
            }
            listed[min(index, MOST_FINE - 1u)] = token;
        }
    }
    workgroupBarrier();
}

fn is_fine(token: u32) -> bool {
    return cache.fine_tokens > 0u && of_tokens[token] == 1u;
}

// The f16 number nearest to x·2^shift in units of 2⁻²⁴, away from 0 at a half.
fn half_of(x: i32, shift: u32) -> u32 {
    let sign = select(0u, 0x8000u, x < 0);
    let magnitude = u32(abs(x));
    let drop = max(32u - countLeadingZeros(magnitude), 11u) - 11u;
    let rounded = (magnitude + ((1u << drop) >> 1u)) >> drop;
    if rounded == 0u {
        return 0u;
    }
    var m = rounded;
    var e = drop + shift;
    if m == 2048u {
        m = 1024u;
        e++;
    }
    let spare = min(countLeadingZeros(m) - 21u, e);
    m <<= spare;
    e -= spare;
    return sign | select(((e + 1u) << 10u) | (m & 0x3ffu), m, e == 0u);
}

// The means of keys over the segment, in `centre` in units of 2^(s − 24), and written behind the
// codes; gives s.
fn find_means(own: Move, head: u32, skipped: u32, lane: u32, at: u32, due: bool) -> u32 {
    let quads = channel_quads(own.flags);
    let teams = INVOCATIONS / quads;
    let quad = lane % quads;
    let first = select(skipped + lane / quads, cache.segment, lane >= teams * quads);
    // Of rows in the arena, and in the input.
    var held = 0u;
    var most = 0u;
    for (var token = first; token < cache.segment; token += teams) {
        if token < own.held {
            held = max(held, most_of_halves(row_quad(own, head, token, quad)));
        } else {
            most = max(most, most_of_input(k[own.input + (params.input_head + head) * params.k_head_stride + token * params.k_row_stride + quad]));
        }
    }
    parts[lane] = max(held, half_of_most(most));
    workgroupBarrier();
    most = 0u;
    for (var other = 0u; other < INVOCATIONS; other++) {
        most = max(most, parts[other]);
    }
    let shift = shift_of(most);
    var sum = vec4<i32>(0);
    for (var token = first; token < cache.segment; token += teams) {
        if !is_fine(token) {
            sum += aligned(row_quad(own, head, token, quad), vec4<u32>(shift));
        }
    }
    numbers[lane] = sum;
    workgroupBarrier();
    let coded = cache.segment - skipped;
    let count = coded - min(cache.fine_tokens, coded);
    if lane < cache.key_row_words / 2u {
        sum = vec4<i32>(0);
        if lane < quads {
            for (var team = 0u; team < teams; team++) {
                sum += numbers[team * quads + lane];
            }
        }
        var half = vec4<u32>(0u);
        for (var i = 0u; i < 4u; i++) {
            let magnitude = i32((u32(abs(sum[i])) + count / 2u) / max(count, 1u));
            half[i] = half_of(select(magnitude, -magnitude, sum[i] < 0), shift);
        }
        centre[lane] = aligned(half, vec4<u32>(shift));
        if due {
            keys[at + 2u * lane] = half.x | (half.y << 16u);
            keys[at + 2u * lane + 1u] = half.z | (half.w << 16u);
        }
    }
    workgroupBarrier();
    return shift;
}

// The lanes that share a row of a batch.
struct Team {
    first: u32,
    size: u32,
    own: u32,  // the lane's number in it
}

// The largest number of the team's, or their sum.
fn most_of_team(own: Team, lane: u32, number: u32) -> u32 {
    parts[lane] = number;
    workgroupBarrier();
    var most = 0u;
    for (var other = 0u; other < own.size; other++) {
        most = max(most, parts[min(own.first + other, INVOCATIONS - 1u)]);
    }
    workgroupBarrier();
    return most;
}

fn sum_of_team(own: Team, lane: u32, number: u32) -> u32 {
    parts[lane] = number;
    workgroupBarrier();
    var sum = 0u;
    for (var other = 0u; other < own.size; other++) {
        sum += parts[min(own.first + other, INVOCATIONS - 1u)];
    }
    workgroupBarrier();
    return sum;
}

// Where a quad of a lane lies, so that neighbours don't meet in the same banks.
fn place_of(lane: u32, quad: u32) -> u32 {
    return lane * LANE_QUADS + (quad ^ (lane % LANE_QUADS));
}

// 6·log₂ of the root of sum·4^cut, to the nearest integer.
fn sixths_of(sum: u32, cut: u32) -> i32 {
    let zeros = countLeadingZeros(sum);
    let mantissa = sum << zeros;
    let third = select(0u, 1u, mantissa >= 2410468895u) + select(0u, 1u, mantissa >= 3037000500u)
        + select(0u, 1u, mantissa >= 3826380859u);
    return i32(3u * (31u - zeros) + third + 6u * cut);
}

fn threshold(index: u32) -> u32 {
    return (cache.thresholds[index / 8u][index % 8u / 2u] >> (16u * (index % 2u))) & 0xffffu;
}

// The codes at 8 bits of numbers of one row, whose scale is a sixth of an octave.
struct Divisor {
    reciprocal: u32,
    left: i32,
}

// |y|/σ of four channels, 12 bits behind the point.
fn over_scale(y: vec4<i32>, by: Divisor) -> vec4<u32> {
    var magnitude = vec4<u32>(abs(y));
    if by.left >= 0 {
        magnitude = select(magnitude << vec4<u32>(u32(by.left)), vec4<u32>(0u), vec4<bool>(by.left > 31));
    } else {
        magnitude = select(magnitude >> vec4<u32>(u32(-by.left)), vec4<u32>(0u), vec4<bool>(by.left < -31));
    }
    return (min(magnitude, vec4<u32>(0xffffu)) * by.reciprocal) >> vec4<u32>(16u);
}

// Codes of 8 bits, of which those of fewer bits are the first ones.
fn codes_of(y: vec4<i32>, by: Divisor) -> vec4<u32> {
    let number = over_scale(y, by);
    var above = vec4<u32>(0u);
    for (var i = 0u; i < 4u; i++) {
        for (var step = 64u; step > 0u; step /= 2u) {
            above[i] += select(0u, step, threshold(above[i] + step - 1u) <= number[i]);
        }
    }
    return select(128u + above, 127u - above, y < vec4<i32>(0));
}

// Codes of at most 4 bits: few thresholds, the same for all lanes.
fn short_codes_of(y: vec4<i32>, by: Divisor, bits: u32) -> vec4<u32> {
    let number = over_scale(y, by);
    let half = 1u << (bits - 1u);
    let cell = 128u / half;
    var above = vec4<u32>(0u);
    for (var i = 1u; i < half; i++) {
        above += select(vec4<u32>(0u), vec4<u32>(1u), vec4<u32>(threshold(i * cell - 1u)) <= number);
    }
    return select(half + above, half - 1u - above, y < vec4<i32>(0));
}

// What is left of four codes of which a word has taken all but so many bits.
fn rest_of(four: u32, bits: u32, left: u32) -> u32 {
    return select(0u, four >> (4u * bits - left), left > 0u);
}

@compute @workgroup_size(INVOCATIONS)
fn encode_segment(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = place_in_line(workgroup, workgroups);
    let place = item % params.tiles * INVOCATIONS;
    if item >= params.work_items || place >= params.units {
        return;
    }
    let own = moves[entry_of(place, params.moves)];
    let head = item / params.tiles;
    let flags = own.flags;
    let due = is_due(own, head);
    let skipped = flags >> SKIPPED_AT;
    let bits = last_width(own.widths);
    let padded_quads = row_words(flags) / 2u;
    let pack = head_base(flags, head) + own.destination;
    let behind = pack + cache.segment * padded_quads / 8u * bits;
    let side = flags & FLAG_VALUES;

    if cache.fine_tokens > 0u {
        choose(own, head, skipped, lane);
        if due && 2u * lane < cache.fine_tokens {
            let second = select(0u, listed[min(2u * lane + 1u, MOST_FINE - 1u)], 2u * lane + 1u < cache.fine_tokens);
            store(flags, behind + cache.codings[side].list + lane, listed[2u * lane] | (second << 16u));
        }
        // Where fewer tokens are coded than may be fine, the places of the others are empty.
        let listed_tokens = min(cache.fine_tokens, cache.segment - skipped);
        let codes = behind + cache.codings[side].fine;
        for (var word = listed_tokens * padded_quads + lane; word < cache.fine_tokens * padded_quads; word += INVOCATIONS) {
            if due {
                store(flags, codes + word, 0u);
            }
        }
    }
    var of_keys = 0u;
    if !is_values(flags) {
        of_keys = find_means(own, head, skipped, lane, behind + cache.segment / 4u, due);
    }
    // Each number of the input is counted here, once.
    refused = 0u;

    let quads = channel_quads(flags);
    let size = padded_quads / LANE_QUADS;
    let batch = INVOCATIONS / size;
    let row = lane / size;
    let team = Team(row * size, size, lane % size);
    let block_quads = cache.codings[side].block_quads;
    // Lanes that share a block, and the lane's number among them.
    let spread = max(block_quads / LANE_QUADS, 1u);
    let within = team.own % spread;
    let first_quad = LANE_QUADS * (team.own - within) + within;
    for (var first = 0u; first < cache.segment; first += batch) {
        let token = first + row;
        let takes = row < batch && token < cache.segment;
        var most = 0u;
#for a in PAIR, b in PAIR, c in PAIR
        var x$a$b$c = vec4<i32>(0);
        let quad$a$b$c = first_quad + spread * (4u * $au + 2u * $bu + $cu);
        if takes && quad$a$b$c < quads {
            let half = row_quad(own, head, token, quad$a$b$c);
            x$a$b$c = vec4<i32>(half);
            most = max(most, largest(half & vec4<u32>(0x7fffu)));
        }
#end
        var shift = of_keys;
        if is_values(flags) {
            shift = shift_of(most_of_team(team, lane, most));
        }
#for a in PAIR, b in PAIR, c in PAIR
        x$a$b$c = aligned(vec4<u32>(x$a$b$c), vec4<u32>(shift));
        if !is_values(flags) && quad$a$b$c < quads {
            x$a$b$c -= centre[quad$a$b$c];
        }
#end
        // W across lanes, then the lane's own quads in a row.
#insert cache/pairs with fours = spread > 1u, twos = spread > 2u, ones = spread > 4u
        if spread > 1u {
#for a in PAIR, b in PAIR, c in PAIR
            numbers[place_of(lane, 4u * $au + 2u * $bu + $cu)] = x$a$b$c;
#end
            workgroupBarrier();
#for a in PAIR, b in PAIR, c in PAIR
            {
                let quad = LANE_QUADS * within + 4u * $au + 2u * $bu + $cu;
                x$a$b$c = numbers[place_of(min(lane - within + quad % spread, INVOCATIONS - 1u), quad / spread)];
            }
#end
        }
#insert cache/pairs with fours = block_quads > 4u, twos = block_quads > 2u, ones = block_quads > 1u
        most = 0u;
#for a in PAIR, b in PAIR, c in PAIR
        {
            let x = x$a$b$c;
            let pairs = vec4<i32>(x.x + x.y, x.x - x.y, x.z + x.w, x.z - x.w);
            x$a$b$c = vec4<i32>(pairs.xy + pairs.zw, pairs.xy - pairs.zw);
            most = max(most, largest(vec4<u32>(abs(x$a$b$c))));
        }
#end
        let cut = cut_of(most_of_team(team, lane, most));
        var sum = 0u;
        #for a in PAIR, b in PAIR, c in PAIR: sum += squares(x$a$b$c, cut);
        sum = sum_of_team(team, lane, sum);
        var scale = 0u;
        var by = Divisor(0u, 0);
        if sum != 0u && token >= skipped {
            let offset = cache.codings[side].offset;
            scale = u32(clamp(sixths_of(sum, cut) + 6 * i32(shift) - offset, 1, 255));
            let sixths = u32(i32(scale) + offset);
            let of_scale = cache.codings[side].scales[sixths % 6u];
            by = Divisor(of_scale.x, FRACTION_BITS + i32(shift) - i32(sixths / 6u) + bitcast<i32>(of_scale.y));
        }
        if takes && team.own == 0u {
            of_tokens[token] = scale;
        }
        if takes && due {
            var fine = MOST_FINE;
            for (var index = 0u; index < cache.fine_tokens; index++) {
                fine = select(fine, index, listed[index] == token);
            }
            var at = pack + (token * size + team.own) * bits;
            var packed = 0u;
            var filled = 0u;
            // Channels past the last one, and rows that are skipped, have codes of 0.
            let coded_quads = select(0u, quads, token >= skipped);
            // The lane's own quads, in memory: eight times as long a text takes compilers long.
            #for a in PAIR, b in PAIR, c in PAIR: numbers[place_of(lane, 4u * $au + 2u * $bu + $cu)] = x$a$b$c;
            for (var own_quad = 0u; own_quad < LANE_QUADS; own_quad++) {
                let x = numbers[place_of(lane, own_quad)];
                let quad = LANE_QUADS * team.own + own_quad;
                let coded = vec4<u32>(select(0u, 0xffu, quad < coded_quads));
                var codes: vec4<u32>;
                if fine < MOST_FINE || bits == 8u {
                    let all = codes_of(x, by) & coded;
                    if fine < MOST_FINE {
                        store(flags, behind + cache.codings[side].fine + fine * padded_quads + quad, joined(all, 8u));
                    }
                    codes = all >> vec4<u32>(8u - bits);
                } else {
                    codes = short_codes_of(x, by, bits) & coded;
                }
                let four = joined(codes, bits);
                packed |= four << filled;
                filled += 4u * bits;
                if filled >= 32u {
                    filled -= 32u;
                    store(flags, at, packed);
                    at++;
                    packed = rest_of(four, bits, filled);
                }
            }
        }
    }
    workgroupBarrier();
    if due {
        for (var word = lane; word < cache.segment / 4u; word += INVOCATIONS) {
            let at = 4u * word;
            let four = vec4<u32>(of_tokens[at], of_tokens[at + 1u], of_tokens[at + 2u], of_tokens[at + 3u]);
            store(flags, behind + word, joined(four, 8u));
        }
        report(flags, refused);
    }
}
