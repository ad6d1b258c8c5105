// Puts quad c of the step's rows, the n-th of all, in its place of a tile.
#if SHARED
                $(tile)[c % SLICES][n / $(quads) * OWN_$(quads) + c / SLICES] = quad;
#else
                $(tile)[n] = quad;
#end
