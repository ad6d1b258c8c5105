// Keys and values of a step on their way into workgroup memory.
            workgroupBarrier();
#if ROTATED_CODES
#insert attention/tiled/stage_codes
#else
#if CACHED
#insert attention/tiled/stage_cache
#else
#if ROTATE_IN_REGISTERS
#insert attention/tiled/stage_rotated
#else
#insert attention/tiled/stage_keys
#end
#insert attention/tiled/stage_values
#end CACHED
#end ROTATED_CODES
            workgroupBarrier();
