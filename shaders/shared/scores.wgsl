// A score in powers of two, capped, once the inner product is known.
fn capped(product: f32) -> f32 {
    if (params.flags & FLAG_SOFT_CAP) != 0u {
        return soft_capped(product);
    }
    return product;
}

fn soft_capped(score: f32) -> f32 {
    // Beyond ±15 tanh is ±1 in f32, and some implementations of it overflow.
    return params.soft_cap * tanh(clamp(score, -15.0, 15.0));
}
