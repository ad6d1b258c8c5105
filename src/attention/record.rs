//! Checked calls on their way to the GPU.

use std::sync::Arc;

use super::call::timestamps_of;
use super::check::CheckedCall;
use super::prepared::Prepared;
use super::selecting::Selecting;
use super::table_buffer::TableBuffer;
use super::work::Dispatch;
use crate::attention::kernels::merge::MergeSplits;
use crate::attention::kernels::programs::{ARENA_GROUP, TABLES_GROUP, TENSORS_GROUP};
use crate::cache::gpu::kv_cache::Reading;
use crate::error::Result;

/// Where a call is recorded.
pub(super) enum Target<'e> {
    /// Into the caller's encoder.
    Encoder(&'e mut wgpu::CommandEncoder),
    /// Into encoders of ours, one for each dispatch, which are submitted.
    Queue,
}

impl Prepared {
    /// Records a checked call; submits it if that is the target.
    pub(super) fn record(&self, target: Target<'_>, call: CheckedCall<'_>) -> Result<()> {
        if call.query_blocks == 0 {
            return Ok(());
        }
        let reading = call.reading();
        // From here on only memory can run out, before anything is recorded.
        let mut dispatches = Vec::new();
        for (index, shard) in call.shards.iter().enumerate() {
            let arena = call.arenas.get(index).map(|arena| &arena.read);
            self.prepare(&mut dispatches, (shard, arena), &call)?;
        }
        let selecting = match &call.selection {
            Some(selection) => Some(selection.prepare(&call.shards, call.arenas)?),
            None => None,
        };
        match target {
            Target::Encoder(encoder) => {
                self.encode(encoder, &call, selecting, dispatches, reading);
                Ok(())
            }
            Target::Queue => self.submit(&call, selecting, dispatches, reading),
        }
    }

    /// Records what estimates masses of blocks for a checked call, and nothing after it.
    pub(super) fn record_scores(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        call: CheckedCall<'_>,
    ) -> Result<()> {
        let Some(selection) = call.selection.as_ref().filter(|_| call.query_blocks > 0) else {
            return Ok(());
        };
        let reading = call.reading();
        let selecting = selection.prepare(&call.shards, call.arenas)?;
        if let Some(reading) = &reading {
            reading.prepare(encoder);
        }
        let mut pass = encoder.begin_compute_pass(&self.pass(call.timestamps.clone()));
        selecting.record_scores_alone(&mut pass);
        if let Some(Reading { token, .. }) = reading {
            pass.on_submitted_work_done(move || token.ran());
        }
        Ok(())
    }

    /// One pass for everything.
    fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        call: &CheckedCall<'_>,
        selecting: Option<Selecting<'_>>,
        dispatches: Vec<Dispatch<'_>>,
        reading: Option<Reading>,
    ) {
        if let Some(reading) = &reading {
            reading.prepare(encoder);
        }
        let mut pass = encoder.begin_compute_pass(&self.pass(call.timestamps.clone()));
        let (tables, guard) = self.tables(call, selecting.as_ref());
        if let Some(selecting) = selecting {
            selecting.record(&mut pass);
        }
        for dispatch in dispatches {
            self.dispatch(&mut pass, dispatch, &tables, guard.clone());
        }
        if let Some(Reading { token, .. }) = reading {
            pass.on_submitted_work_done(move || token.ran());
        }
    }

    /// A submission for each dispatch.
    fn submit(
        &self,
        call: &CheckedCall<'_>,
        mut selecting: Option<Selecting<'_>>,
        mut dispatches: Vec<Dispatch<'_>>,
        mut reading: Option<Reading>,
    ) -> Result<()> {
        let context = &self.context;
        let count = dispatches.len();
        if count > 1
            && let Some(split) = &self.split
        {
            // Commands of other threads may come between the pieces.
            let states = split.own_states(context)?;
            for dispatch in &mut dispatches {
                dispatch.groups = Some(dispatch.shard.groups_around(self, &states)?);
            }
        }
        let (tables, guard) = self.tables(call, selecting.as_ref());
        for (index, dispatch) in dispatches.into_iter().enumerate() {
            let mut encoder = context.device().create_command_encoder(&Default::default());
            if let Some(reading) = reading.as_ref().filter(|_| index == 0) {
                reading.prepare(&mut encoder);
            }
            let timestamps = timestamps_of(&call.timestamps, index == 0, index + 1 == count);
            let mut pass = encoder.begin_compute_pass(&self.pass(timestamps));
            // With the first piece; those after it come later on the same queue.
            if let Some(selecting) = selecting.take() {
                selecting.record(&mut pass);
            }
            self.dispatch(&mut pass, dispatch, &tables, guard.clone());
            if let Some(Reading { token, .. }) = reading.take_if(|_| index + 1 == count) {
                pass.on_submitted_work_done(move || token.ran());
            }
            drop(pass);
            context.submit([encoder.finish()])?;
        }
        Ok(())
    }

    fn pass<'a>(
        &self,
        timestamp_writes: Option<wgpu::ComputePassTimestampWrites<'a>>,
    ) -> wgpu::ComputePassDescriptor<'a> {
        wgpu::ComputePassDescriptor { label: Some(self.variant.kernel.name()), timestamp_writes }
    }

    /// The tables of a call, and a guard to keep until it is done.
    fn tables(
        &self,
        call: &CheckedCall<'_>,
        selecting: Option<&Selecting<'_>>,
    ) -> (wgpu::BindGroup, Option<Arc<()>>) {
        match (selecting, call.tables.map(TableBuffer::current)) {
            (Some(selecting), _) => {
                let (bind_group, guard) = selecting.tables();
                (bind_group, Some(guard))
            }
            (None, Some((bind_group, guard))) => (bind_group.clone(), Some(guard)),
            (None, None) => (self.no_tables.clone(), None),
        }
    }

    fn dispatch(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        dispatch: Dispatch<'_>,
        tables: &wgpu::BindGroup,
        guard: Option<Arc<()>>,
    ) {
        let Dispatch { shard, groups, arena, slot, workgroups: (x, y), merge_workgroups } = dispatch;
        let groups = groups.as_ref().unwrap_or(&shard.groups);
        pass.set_pipeline(&shard.pipeline.pipeline);
        // Until the GPU is done, the slot and the tables belong to this call.
        slot.bind(pass, guard);
        pass.set_bind_group(TABLES_GROUP as u32, tables, &[]);
        pass.set_bind_group(TENSORS_GROUP as u32, &groups.tensors, &[]);
        if let Some(arena) = arena {
            pass.set_bind_group(ARENA_GROUP as u32, arena, &[]);
        }
        pass.dispatch_workgroups(x, y, 1);
        if let (Some(split), Some(states), Some((x, y))) = (&self.split, &groups.states, merge_workgroups) {
            pass.set_pipeline(&split.pipeline.pipeline);
            pass.set_bind_group(MergeSplits::TENSORS_GROUP as u32, states, &[]);
            pass.dispatch_workgroups(x, y, 1);
        }
    }
}
