//! Locks, futures that are ready, and values that callbacks send.

use std::future::Future;
#[cfg(not(all(target_arch = "wasm32", feature = "webgpu")))]
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// A lock whose holder panicked holds nothing half-done here.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The end of a value's way that a callback has.
#[derive(Debug)]
pub(super) struct Signal<T>(Arc<Mutex<Sent<T>>>);

#[derive(Debug)]
struct Sent<T> {
    value: Option<T>,
    waker: Option<Waker>,
}

impl<T> Signal<T> {
    /// What a callback sends with, and the future of what it will have sent.
    pub(super) fn new() -> (Self, impl Future<Output = T>) {
        let sent = Arc::new(Mutex::new(Sent { value: None, waker: None }));
        let signal = Self(sent.clone());
        let arrived = std::future::poll_fn(move |task| {
            let mut sent = lock(&sent);
            match sent.value.take() {
                Some(value) => Poll::Ready(value),
                None => {
                    sent.waker = Some(task.waker().clone());
                    Poll::Pending
                }
            }
        });
        (signal, arrived)
    }

    /// Sends it, and wakes who waits.
    pub(super) fn send(self, value: T) {
        let mut sent = lock(&self.0);
        sent.value = Some(value);
        if let Some(waker) = sent.waker.take() {
            waker.wake();
        }
    }
}

/// The value of a future that is ready, as error scopes are on native backends.
#[cfg(not(all(target_arch = "wasm32", feature = "webgpu")))]
pub(super) fn now<T>(future: impl Future<Output = Option<T>>) -> Option<T> {
    match pin!(future).poll(&mut std::task::Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => None,
    }
}
