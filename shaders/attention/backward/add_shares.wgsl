// The inner products of a step from what the slices have of them. Every slice adds all shares in
// the same order, so that all have the same numbers to the bit. While a step's are read, the next
// one writes the other buffer.
#for r in EACH, t in STEP
            shares[((buffer * SLICES + slice) * 2u * PAIRS + $ru * STEP + $tu) * LANES + row_lane] = s$r_$t;
            shares[((buffer * SLICES + slice) * 2u * PAIRS + PAIRS + $ru * STEP + $tu) * LANES + row_lane] = dp$r_$t;
#end
            workgroupBarrier();
#for r in EACH, t in STEP
            s$r_$t = 0.0;
            dp$r_$t = 0.0;
#for g in SLICES
            s$r_$t += shares[((buffer * SLICES + $gu) * 2u * PAIRS + $ru * STEP + $tu) * LANES + row_lane];
            dp$r_$t += shares[((buffer * SLICES + $gu) * 2u * PAIRS + PAIRS + $ru * STEP + $tu) * LANES + row_lane];
#end
#end
            buffer = 1u - buffer;
