// A score, capped, once the inner product is known; in the kernel's unit. The `params` of whoever
// imports it say whether, and at what.

fn capped(product: f32) -> f32 {
    if (params.flags & FLAG_SOFT_CAP) != 0u {
        return soft_capped(product);
    }
    return product;
}

// cap·tanh(score / cap), to a few units in the last place whatever the sizes of the two: WGSL's own
// tanh is good to 1e-5 only, absolutely, which a cap far above the scores multiplies.
fn soft_capped(score: f32) -> f32 {
    let x = score * params.soft_cap_inverse;
    // Below 5/8 the series of tanh, its coefficients fitted to that range (Moshier's Cephes,
    // tanhf); above, (1 − e^−2|x|) / (1 + e^−2|x|), where nothing cancels or overflows.
    let y = x * x;
    let series = (((-0.00570498872745 * y + 0.0206390887954) * y - 0.0537397155531) * y + 0.133314422036) * y - 0.333332819422;
    let near = x + x * (y * series);
    // Beyond ±20 it is ±1. (Not by min or clamp, which may lose a NaN.)
    let size = select(abs(x), 20.0, abs(x) > 20.0);
    let shrunk = exp(-2.0 * size);
    let far = (1.0 - shrunk) / (1.0 + shrunk);
    return params.soft_cap * select(select(far, -far, x < 0.0), near, abs(x) < 0.625);
}
