use super::*;

/// As RADV prints it: a loop over blocks, in it one over steps, in which a loop fills workgroup
/// memory and a branch goes to the masked keys.
const SAMPLE: &str = include_str!("../../samples/loops.s");

fn sample() -> Program {
    Program::parse(SAMPLE)
}

fn steps(staged_quads: usize) -> Steps {
    Steps { keys: 4, block: 64, turns: 1, staged_quads }
}

#[test]
fn loops_are_what_reaches_an_edge_back() {
    let program = sample();
    // Block 0 is what comes before the first label.
    assert_eq!(program.blocks.len(), 11);
    let loops: Vec<(usize, Vec<usize>)> =
        program.loops.iter().map(|l| (l.head, l.body.iter().copied().collect())).collect();
    assert_eq!(loops, [(2, (2..=9).collect()), (3, (3..=8).collect()), (4, vec![4]), (7, vec![7])]);
}

#[test]
fn the_hot_path_of_a_step_leaves_the_masked_keys_out() {
    let step = sample().key_loop(&steps(1)).unwrap().step;
    // 1 alone, 1 of a pair, 3 in the branch; the other branch would have had one.
    assert_eq!((step.fma, step.multiply_adds, step.duals), (5.0, 6.0, 1.0));
    assert_eq!((step.valu, step.transcendental, step.moves), (2.0, 1.0, 0.0));
    assert_eq!((step.smem, step.scalar_bytes), (1.0, 64.0));
    assert_eq!((step.vmem, step.vector_bytes), (1.0, 16.0));
    assert_eq!((step.lds, step.lds_bytes, step.lds_stores), (2.0, 16.0, 1.0));
    assert_eq!((step.salu, step.waits, step.branches), (2.0, 3.0, 5.0));
    assert_eq!(step.instructions(), 22.0);
    assert_eq!(step.fma_share(), 5.0 / 22.0);
    assert_eq!(step.vector_share(), 5.0 / (5.0 + 2.0 + 4.0));
}

#[test]
fn a_block_is_its_steps_and_what_is_around_them() {
    let found = sample().key_loop(&steps(1)).unwrap();
    // Blocks 1 and 8.
    assert_eq!(found.block.instructions(), 16.0 * 22.0 + 5.0);
    assert_eq!(found.block.fma, 16.0 * 5.0);
    assert_eq!(found.block.scalar_bytes, 16.0 * 64.0 + 4.0);
}

#[test]
fn a_loop_that_fills_workgroup_memory_turns_as_often_as_that_takes() {
    let step = sample().key_loop(&steps(8)).unwrap().step;
    assert_eq!((step.vmem, step.lds_stores), (8.0, 8.0));
    assert_eq!(step.instructions(), 22.0 + 7.0 * 3.0);
}

#[test]
fn a_program_without_a_loop_of_multiply_adds_has_no_key_loop() {
    let text = "BB0:\n\tv_fma_f32 v0, v1, v2, v3\n\ts_cbranch_scc0 BB2\nBB1:\n\ts_nop 0\n\ts_branch BB1\nBB2:\n\ts_endpgm\n";
    let program = Program::parse(text);
    assert!(program.key_loop(&steps(0)).is_none());
    assert_eq!((program.whole().fma, program.whole().instructions()), (1.0, 5.0));
    assert!(Program::parse("").key_loop(&steps(0)).is_none());
}

#[test]
fn widths_are_in_the_names() {
    for (name, width) in [
        ("s_load_b512", 64.0),
        ("s_buffer_load_dwordx16", 64.0),
        ("s_buffer_load_dword", 4.0),
        ("buffer_load_dwordx3", 12.0),
        ("buffer_load_b96", 12.0),
        ("global_load_d16_hi_b16", 2.0),
        ("buffer_load_ushort", 2.0),
        ("buffer_load_u8", 1.0),
        ("ds_read_b128", 16.0),
        ("ds_read2st64_b32", 4.0),
        ("scratch_load_b64", 8.0),
    ] {
        assert_eq!(bytes(name), width, "{name}");
    }
}
