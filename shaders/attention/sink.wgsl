// A learned sink z: one logit of a query head in the softmax's denominator, which no value goes
// with. Of keys with the log-sum-exp L it leaves the output
//
//   o' = o·e^L / (e^L + e^z)      L' = ln(e^L + e^z)

// e^L / (e^L + e^z) and L', as natural logarithms. NaN where L is.
fn beside_sink(lse: f32, sink: f32) -> vec2<f32> {
    let above = sink - lse;
    let less = exp(-abs(above));
    let most = 1.0 / (1.0 + less);
    return vec2<f32>(select(most, less * most, above > 0.0), max(lse, sink) + log(1.0 + less));
}
