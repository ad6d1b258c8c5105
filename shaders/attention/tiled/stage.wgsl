// Keys and values of a step on their way into workgroup memory.
            workgroupBarrier();
#if CACHED
#insert attention/tiled/stage_cache
#else
#if TURN
#insert attention/tiled/stage_turned
#else
#insert attention/tiled/stage_keys
#end
#insert attention/tiled/stage_values
#end
            workgroupBarrier();
