// Outputs from rotated channels to those of values, or back.
#for r in ROW_SETS
                {
                    var row: array<f32, VALUE_QUADS>;
                    #for c in VALUE_QUADS: row[$cu] = o$r_$c;
                    turn_value(&row, lane, odd, high);
                    #for c in VALUE_QUADS: o$r_$c = row[$cu];
                }
#end
