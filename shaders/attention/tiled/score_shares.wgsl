// The inner products from what the slices of a row have of them.
            // Every slice adds all shares in the same order, so that all have the same scores to
            // the bit. While a step's are read, the next one writes the other buffer.
#for r in ROWS_EACH, t in KEYS
            shares[((buffer * SLICES + slice) * ROWS_EACH * KEYS + $ru * KEYS + $tu) * ROW_LANES + row_lane] = s$r_$t;
#end
            workgroupBarrier();
#for r in ROWS_EACH, t in KEYS
            s$r_$t = 0.0;
#for g in SLICES
            s$r_$t += shares[((buffer * SLICES + $gu) * ROWS_EACH * KEYS + $ru * KEYS + $tu) * ROW_LANES + row_lane];
#end
#end
            buffer = 1u - buffer;
