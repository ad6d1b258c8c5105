// Sums and differences of a lane's quads: four apart, two apart, side by side.
        if $(fours) {
#for b in PAIR, c in PAIR
            {
                let difference = x0$b$c - x1$b$c;
                x0$b$c += x1$b$c;
                x1$b$c = difference;
            }
#end
        }
        if $(twos) {
#for b in PAIR, c in PAIR
            {
                let difference = x$b0$c - x$b1$c;
                x$b0$c += x$b1$c;
                x$b1$c = difference;
            }
#end
        }
        if $(ones) {
#for b in PAIR, c in PAIR
            {
                let difference = x$b$c0 - x$b$c1;
                x$b$c0 += x$b$c1;
                x$b$c1 = difference;
            }
#end
        }
