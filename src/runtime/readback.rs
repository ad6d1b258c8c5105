//! Buffers read back.

use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use super::context::Context;
use super::sync::lock;
use crate::error::{Error, Result};

impl Context {
    /// The bytes `offset..offset + size` of a buffer, once all work submitted so far is done.
    pub(crate) async fn read_buffer(&self, buffer: &wgpu::Buffer, offset: u64, size: u64) -> Result<Vec<u8>> {
        if size == 0 {
            return Ok(Vec::new());
        }
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = self.create_buffer("prflash readback", size, usage)?;
        let commands = self.capture(|| {
            let mut encoder = self.device().create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, size);
            encoder.finish()
        })?;
        self.submit([commands])?;
        let mapped = Arc::new(Mutex::new(Mapped::default()));
        let state = mapped.clone();
        staging.slice(..size).map_async(wgpu::MapMode::Read, move |result| {
            let mut state = lock(&state);
            state.result = Some(result);
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        });
        self.wait()?;
        let result = std::future::poll_fn(|task| {
            let mut state = lock(&mapped);
            match state.result.take() {
                Some(result) => Poll::Ready(result),
                None => {
                    state.waker = Some(task.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await;
        let lost = |what: String| self.check_alive().err().unwrap_or_else(|| Error::validation(what));
        result.map_err(|error| lost(format!("readback: {error}")))?;
        let bytes =
            staging.slice(..size).get_mapped_range().map_err(|error| lost(format!("readback: {error}")))?;
        Ok(bytes.to_vec())
    }
}

#[derive(Default)]
struct Mapped {
    result: Option<Result<(), wgpu::BufferAsyncError>>,
    waker: Option<Waker>,
}
