// Outputs from rotated channels to those of values, or back.
#for r in ROW_SETS
                {
                    var row: array<vec4<f32>, VALUE_PARTS>;
                    #for i in VALUE_CHUNKS, h in HALVES: row[2u * $iu + $hu] = o$r_$i_$h;
                    turn_value(&row, lane, component);
                    #for i in VALUE_CHUNKS, h in HALVES: o$r_$i_$h = row[2u * $iu + $hu];
                }
#end
