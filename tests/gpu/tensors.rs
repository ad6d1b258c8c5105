//! Tensors of the caller and ours: writing, fused upload, buffers that can't be used, tensors that
//! don't belong together.

use crate::common::{gpu, numbers, zeros};
use prflash::attention::PositionIds;
use prflash::rounds::Combine;
use prflash::{Attention, Call, DType, Layout, Operands, Shape, Tables, Tensor, TensorView, wgpu};

/// A caller's buffer that is mapped or was destroyed is named, before it is bound and after.
#[test]
fn buffers_that_cannot_be_used_are_named() {
    let Some(context) = gpu("unusable buffers") else { return };
    let buffer = |mapped_at_creation| {
        context.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 128,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation,
        })
    };
    let layout = Layout::heads_first(1, 1, 4, 8).unwrap();
    let view = |buffer: &wgpu::Buffer| TensorView::new(&context, buffer, DType::F32, layout).unwrap();
    let plan = Attention::causal().plan(&context, &Shape::new(1, 1, 4, 8).unwrap()).unwrap();
    let (good, output) = (zeros(&context, DType::F32, layout), zeros(&context, DType::F32, layout));
    let refused = |error: prflash::Error, argument: &str| {
        assert!(error.is_invalid_argument(), "{error}");
        assert_eq!(error.argument(), Some(argument), "{error}");
        assert!(!error.to_string().contains("please report"), "{error}");
    };
    let bind = |k: &TensorView| {
        plan.bind(&Operands { q: good.view(), k, v: good.view(), output: output.view(), lse: None })
    };
    let (mapped, destroyed, later) = (buffer(true), buffer(false), buffer(false));
    destroyed.destroy();
    for unusable in [&mapped, &destroyed] {
        let k = view(unusable);
        refused(bind(&k).unwrap_err(), "k");
        refused(k.read_blocking(&context).unwrap_err(), "buffer");
        refused(k.write(&context, &[0.0; 32]).unwrap_err(), "buffer");
    }
    let bound = bind(&view(&later)).unwrap();
    later.destroy();
    refused(plan.submit(&bound, &Call::lengths(4, 4)).unwrap_err(), "buffer");
    mapped.unmap();
    bind(&view(&mapped)).unwrap();
    context.check_alive().unwrap();
}

/// Whole tensors that don't belong to each other.
#[test]
fn whole_tensors_that_do_not_match_are_refused() {
    let Some(context) = gpu("tensors that don't match") else { return };
    let shape = Shape::new(2, 1, 8, 16).unwrap().with_batch(3).unwrap();
    let zeros =
        |batch, heads, len| zeros(&context, DType::F32, Layout::heads_first(batch, heads, len, 16).unwrap());
    let plan = Attention::causal().plan(&context, &shape).unwrap();
    let rounds = Attention::causal().plan(&context, &shape).unwrap().rounds(Combine::Partition).unwrap();
    let refused = |q: Tensor, k: Tensor, v: Tensor, argument: &str| {
        let error = plan.run(q.view(), k.view(), v.view(), &Tables::new()).unwrap_err();
        assert_eq!(error.argument(), Some(argument), "{error}");
        let error = rounds.start(q.view(), k.view(), v.view()).map(drop).unwrap_err();
        assert_eq!(error.argument(), Some(argument), "{error}");
    };
    refused(zeros(1, 2, 8), zeros(1, 1, 7), zeros(1, 1, 8), "v");
    refused(zeros(1, 2, 8), zeros(1, 1, 8), zeros(1, 1, 7), "v");
    refused(zeros(1, 2, 8), zeros(3, 1, 8), zeros(3, 1, 8), "k");
    refused(zeros(1, 2, 8), zeros(1, 1, 8), zeros(3, 1, 8), "v");
    refused(zeros(3, 2, 8), zeros(1, 1, 8), zeros(1, 1, 8), "k");
    let (q, k, v) = (zeros(1, 2, 8), zeros(1, 1, 8), zeros(1, 1, 8));
    // Nothing reads them without positions, but they are as wrong.
    let ids = PositionIds::new(&[0; 7], &[0; 8]).unwrap();
    let error = plan.run(q.view(), k.view(), v.view(), &Tables::from(&ids)).unwrap_err();
    assert_eq!(error.argument(), Some("position_ids"), "{error}");
    let ids = PositionIds::new(&[0; 8], &[0; 8]).unwrap();
    plan.run(q.view(), k.view(), v.view(), &Tables::from(&ids)).unwrap();
}

#[test]
fn tensors_are_written_whole_and_by_rows() {
    let Some(context) = gpu("written tensors") else { return };
    for dtype in DType::ALL {
        // Heads first, tokens first, and one with gaps, which keep what they hold.
        let layouts = [
            Layout::heads_first(2, 3, 5, 8).unwrap(),
            Layout::tokens_first(2, 5, 3, 8).unwrap(),
            Layout::with_strides([2, 3, 5, 8], 16, [400, 120, 12]).unwrap(),
        ];
        for layout in layouts {
            let whole = zeros(
                &context,
                dtype,
                Layout::heads_first(1, 1, 1, layout.extent().next_multiple_of(4)).unwrap(),
            );
            let extent = layout.extent().next_multiple_of(4);
            let before: Vec<f32> = (0..extent).map(|i| (i % 31) as f32 - 40.0).collect();
            whole.write(&context, &before).unwrap();
            let view = whole.view().with_layout(layout).unwrap();
            let values: Vec<f32> = (0..layout.elements()).map(|i| (i % 97) as f32).collect();
            view.write(&context, &values).unwrap();
            let mut want = before.clone();
            layout.scatter(&values, &mut want).unwrap();
            assert_eq!(whole.read_blocking(&context).unwrap(), want);
            assert_eq!(view.read_blocking(&context).unwrap(), values);
            let rows: Vec<f32> = (0..3 * 2 * 8).map(|i| -(i as f32)).collect();
            view.write_rows(&context, 1, 2..4, &rows).unwrap();
            for (index, row) in rows.chunks_exact(8).enumerate() {
                let at = layout.index(1, index / 2, 2 + index % 2, 0);
                want[at..at + 8].copy_from_slice(row);
            }
            assert_eq!(whole.read_blocking(&context).unwrap(), want);
            let refused = |entry, rows: std::ops::Range<usize>, count| {
                let error = view.write_rows(&context, entry, rows, &vec![0.0; count]).unwrap_err();
                error.argument().unwrap().to_owned()
            };
            assert_eq!(refused(2, 0..1, 24), "entry");
            assert_eq!(refused(0, 4..6, 48), "rows");
            assert_eq!(refused(0, 0..usize::MAX, 48), "rows");
            assert_eq!(refused(0, 0..1, 23), "source");
            view.write_rows(&context, 0, 3..3, &[]).unwrap();
        }
    }
    let shape = Shape::new(4, 2, 6, 8).unwrap().with_batch(2).unwrap().with_value_dim(12).unwrap();
    let values = [2 * 4 * 6 * 8, 2 * 2 * 6 * 8, 2 * 2 * 6 * 12].map(|count| numbers(count as u64, count));
    let views =
        Tensor::upload_fused_qkv(&context, DType::F32, &shape, values.each_ref().map(Vec::as_slice)).unwrap();
    for (view, values) in views.iter().zip(&values) {
        assert_eq!(&view.read_blocking(&context).unwrap(), values);
        assert_eq!(view.buffer(), views[0].buffer());
    }
    let error =
        Tensor::upload_fused_qkv(&context, DType::F32, &shape, [&values[0], &values[1], &[]]).unwrap_err();
    assert_eq!(error.argument(), Some("v"));
}
