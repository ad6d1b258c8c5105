// One step: KEYS keys from j on, for all rows of a lane.
#if STAGED
#insert attention/tiled/stage
#else
#for t in KEYS
            let key$t = u32(min(j + $t, end_key - 1));
            #if PAGED: let k_at$t = k_first + paged_key(sequence, key$t);
            #unless PAGED: let k_at$t = k_first + key$t * k_stride;
#end
#end STAGED

#if BY_CHANNEL
#insert attention/tiled/score_by_channel
#else
#insert attention/tiled/score
#end BY_CHANNEL
            #if SHARED: #insert attention/tiled/score_shares
#insert attention/tiled/bias

            if j >= $(whole_from) && j + i32(KEYS) <= min(rows.all.hi, end_key) {
                // Every row sees every key of this step.
#insert attention/tiled/softmax
#insert attention/tiled/accumulate
            } else {
#insert attention/tiled/masked
            }
