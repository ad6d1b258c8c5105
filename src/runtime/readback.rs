//! Buffers read back.

use super::context::Context;
use super::sync::Signal;
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
        let (signal, mapped) = Signal::new();
        staging.slice(..size).map_async(wgpu::MapMode::Read, move |result| signal.send(result));
        self.wait()?;
        let result = self.late().unless_lost(mapped).await;
        // In a browser only now is it known whether all that led here was done.
        #[cfg(target_arch = "wasm32")]
        self.check().await?;
        let lost = |what: String| self.check_alive().err().unwrap_or_else(|| Error::validation(what));
        let result = result.ok_or_else(|| lost("readback: no answer".to_owned()))?;
        result.map_err(|error| lost(format!("readback: {error}")))?;
        let bytes =
            staging.slice(..size).get_mapped_range().map_err(|error| lost(format!("readback: {error}")))?;
        Ok(bytes.to_vec())
    }
}
