//! Waiting for a device, and what its API has to say of calls: at once, later, or never again.

use super::context::Context;
use super::late::{Ticket, typed};
#[cfg(not(all(target_arch = "wasm32", feature = "webgpu")))]
use super::sync::now;
use super::sync::{Signal, lock};
use crate::error::{Error, Result};

impl Context {
    /// Blocks until all submitted work is done. (In a browser, where nothing can block, it returns
    /// at once.)
    ///
    /// # Errors
    /// Device lost.
    pub fn wait(&self) -> Result<()> {
        self.poll(wgpu::PollType::wait_indefinitely())?;
        // On a device that is gone there is nothing to wait for.
        self.check_alive()
    }

    /// The one place that polls.
    fn poll(&self, how: wgpu::PollType) -> Result<()> {
        // wgpu 30 panics in `poll` when the driver reports a lost device there; callers were
        // promised a typed error.
        let device = std::panic::AssertUnwindSafe(&self.inner.device);
        match std::panic::catch_unwind(|| device.poll(how)) {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Error::device_lost(error.to_string())),
            Err(_) => Err(Error::device_lost("the driver lost the device while it was waited for")),
        }
    }

    /// Runs `work`, which creates or submits something, and turns what the GPU API has to say of it
    /// into a typed error.
    ///
    /// Native errors are known at once. A browser's arrive later, and whoever
    /// [asks](Context::check) next gets them.
    pub(crate) fn capture<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        self.capture_call("", work).map(|(value, _)| value)
    }

    /// The same of a call with a name, and what it is known by until its errors have arrived.
    pub(crate) fn capture_call<T>(&self, what: &str, work: impl FnOnce() -> T) -> Result<(T, Ticket)> {
        let device = &self.inner.device;
        let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
        let value = work();
        #[cfg(not(all(target_arch = "wasm32", feature = "webgpu")))]
        {
            let errors = [now(internal.pop()), now(validation.pop()), now(memory.pop())];
            if let Some(error) = errors.into_iter().flatten().next() {
                self.check_alive()?;
                return Err(typed(what, error));
            }
            Ok((value, Ticket::default()))
        }
        #[cfg(all(target_arch = "wasm32", feature = "webgpu"))]
        {
            let answers = (internal.pop(), validation.pop(), memory.pop());
            let (ticket, late, what) = (self.inner.late.begin(), self.inner.late.clone(), what.to_owned());
            wasm_bindgen_futures::spawn_local(async move {
                let errors = [answers.0.await, answers.1.await, answers.2.await];
                // What doesn't fit is the cause of what is invalid.
                let error = errors.into_iter().rev().flatten().next();
                late.finish(ticket, error.map(|error| typed(&what, error)));
            });
            Ok((value, ticket))
        }
    }

    /// Ready once it is known what became of everything that was created and submitted so far: the
    /// first error, if there was one. Natively that is known at once.
    ///
    /// In browsers errors arrive after the call that caused them has returned `Ok`: a buffer that
    /// didn't fit, a command that was refused, a device that was lost meanwhile. Every `read` asks
    /// for them by itself before it gives numbers. Ask after large allocations, since a browser may
    /// end the page's GPU process when many of them fail. An error is told once; what follows from
    /// it is logged.
    ///
    /// On a device that the context opened, errors of the caller's own calls outside of error
    /// scopes are told here, too.
    ///
    /// ```no_run
    /// # async fn example(context: &prflash::Context) -> prflash::Result<()> {
    /// use prflash::{DType, Layout, Tensor};
    /// let tensor = Tensor::zeros(context, DType::F32, Layout::heads_first(1, 8, 65536, 128)?)?;
    /// context.check().await?; // in a browser only now is it known that there is room
    /// # let _ = tensor;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Out of memory; validation; device lost.
    pub async fn check(&self) -> Result<()> {
        self.inner.late.all_settled().await;
        self.known_errors()
    }

    /// The first error that has arrived so far.
    pub(crate) fn known_errors(&self) -> Result<()> {
        let found = self.inner.late.take();
        match (self.check_alive(), found) {
            (Ok(()), found) => found,
            (Err(lost), Ok(())) => Err(lost),
            (Err(lost), Err(before)) => Err(Error::device_lost(format!("{lost}; before that: {before}"))),
        }
    }

    /// Ready once all work submitted so far is done. Native backends wait inside.
    pub(crate) async fn finished(&self) -> Result<()> {
        if cfg!(target_arch = "wasm32") {
            let (signal, done) = Signal::new();
            self.queue().on_submitted_work_done(move || signal.send(()));
            self.late().unless_lost(done).await;
            return self.check().await;
        }
        self.wait()
    }

    /// An error if the device is known to be lost, also for a borrowed device, on which we have no
    /// callback.
    ///
    /// # Errors
    /// Device lost.
    pub fn check_alive(&self) -> Result<()> {
        if let Some(reason) = lock(&self.inner.lost).as_ref() {
            return Err(Error::device_lost(reason.clone()));
        }
        #[cfg(not(target_arch = "wasm32"))]
        {
            // wgpu reports a lost device to its callback alone; but a buffer created on one can't
            // be mapped.
            let probe = self.inner.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("prflash liveness probe"),
                size: 4,
                usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: true,
            });
            if probe.slice(..).get_mapped_range().is_err() {
                return Err(Error::device_lost("the device no longer creates buffers (was it destroyed?)"));
            }
        }
        Ok(())
    }
}
