// The piece $(body) for each token of a step, whose number in the step it gets as $(token). It is
// written out where that doesn't make too long a text.
#if WRITTEN_OUT
#for t in CACHE_KEYS
                    {
#insert $(body) with token = $tu
                    }
#end
#else
                    for (var t = 0u; t < CACHE_KEYS; t++) {
#insert $(body) with token = t
                    }
#end
