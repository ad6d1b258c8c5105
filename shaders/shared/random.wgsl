// The random numbers of src/random.rs.
fn pcg_hash(input: u32) -> u32 {
    let state = input * PCG_MULTIPLIER + PCG_INCREMENT;
    let word = ((state >> ((state >> 28u) + 4u)) ^ state) * PCG_OUTPUT;
    return (word >> 22u) ^ word;
}
