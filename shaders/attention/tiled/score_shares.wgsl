// The inner products from what the parts of a row have of them.
            // Every part adds all shares in the same order, so that all have the same scores to the
            // bit. While a step's are read, the next one writes the other half.
#for r in ROWS_EACH, t in KEYS
            shares[((half * PARTS + part) * ROWS_EACH * KEYS + $ru * KEYS + $tu) * ROW_LANES + row_lane] = s$r_$t;
#end
            workgroupBarrier();
#for r in ROWS_EACH, t in KEYS
            s$r_$t = 0.0;
#for g in PARTS
            s$r_$t += shares[((half * PARTS + $gu) * ROWS_EACH * KEYS + $ru * KEYS + $tu) * ROW_LANES + row_lane];
#end
#end
            half = 1u - half;
