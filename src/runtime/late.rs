//! Errors that arrive after the call that caused them: a browser answers error scopes later.

use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Mutex;
use std::task::{Poll, Waker};

use super::sync::lock;
use crate::error::{Error, Result};

/// Errors kept until they are asked for, at most. What follows from the first is of little use.
const KEPT: usize = 16;

/// What is still to be known of calls, and the errors that have arrived.
#[derive(Debug, Default)]
pub(crate) struct Late {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    pending: BTreeSet<u64>,
    found: Vec<Error>,
    waiting: Vec<Waker>,
    /// Whether the device is lost, so that nothing will be told any more.
    closed: bool,
}

/// A call whose errors may arrive later; of a call whose errors are known at once, nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ticket(Option<u64>);

impl Late {
    /// A call is made whose errors will be [told](Late::finish).
    #[cfg_attr(not(all(target_arch = "wasm32", feature = "webgpu")), allow(dead_code))]
    pub(crate) fn begin(&self) -> Ticket {
        let mut state = lock(&self.state);
        let number = state.next;
        state.next += 1;
        state.pending.insert(number);
        Ticket(Some(number))
    }

    /// What became of a call.
    #[cfg_attr(not(all(target_arch = "wasm32", feature = "webgpu")), allow(dead_code))]
    pub(crate) fn finish(&self, ticket: Ticket, error: Option<Error>) {
        let mut state = lock(&self.state);
        if let Ticket(Some(number)) = ticket {
            state.pending.remove(&number);
        }
        state.keep(error);
        state.wake();
    }

    /// An error that is of no call of ours, as far as can be known.
    pub(crate) fn tell(&self, error: Error) {
        lock(&self.state).keep(Some(error));
    }

    /// The device is lost: a browser may leave every question open that it was asked of it.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        state.wake();
    }

    /// What a future gives; nothing, if the device is lost before.
    pub(crate) async fn unless_lost<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        poll_fn(|task| match future.as_mut().poll(task) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending => match lock(&self.state).wait(task.waker()) {
                true => Poll::Ready(None),
                false => Poll::Pending,
            },
        })
        .await
    }

    /// Ready once it is known what became of a call.
    pub(crate) async fn settled(&self, ticket: Ticket) {
        let Ticket(Some(number)) = ticket else { return };
        self.until(|state| !state.pending.contains(&number)).await;
    }

    /// Ready once it is known what became of all calls made so far.
    pub(crate) async fn all_settled(&self) {
        let next = lock(&self.state).next;
        self.until(|state| state.pending.first().is_none_or(|&first| first >= next)).await;
    }

    async fn until(&self, done: impl Fn(&State) -> bool) {
        poll_fn(|task| {
            let mut state = lock(&self.state);
            if done(&state) {
                return Poll::Ready(());
            }
            match state.wait(task.waker()) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }

    /// The first error that arrived since the last time; the others, which mostly follow from it,
    /// are logged.
    pub(crate) fn take(&self) -> Result<()> {
        let mut found = std::mem::take(&mut lock(&self.state).found).into_iter();
        let Some(first) = found.next() else { return Ok(()) };
        for error in found {
            log::error!("after \"{first}\": {error}");
        }
        Err(first)
    }
}

impl State {
    fn keep(&mut self, error: Option<Error>) {
        if self.found.len() < KEPT {
            self.found.extend(error);
        }
    }

    /// Whether there is nothing to wait for; else who waits is woken.
    fn wait(&mut self, waker: &Waker) -> bool {
        if !self.closed && !self.waiting.iter().any(|waiting| waiting.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
        self.closed
    }

    fn wake(&mut self) {
        for waker in self.waiting.drain(..) {
            waker.wake();
        }
    }
}

/// What the GPU API had to say of a call, with the call's name where it has one.
pub(super) fn typed(what: &str, error: wgpu::Error) -> Error {
    let named = |message: String| match what {
        "" => message,
        what => format!("{what}: {message}"),
    };
    match error {
        // A buffer of the caller's, bound while it was good.
        wgpu::Error::Validation { ref description, .. }
            if ["has been destroyed", "is still mapped"].iter().any(|what| description.contains(what)) =>
        {
            Error::argument_error(
                "buffer",
                format!("a bound buffer was destroyed or is mapped: {description}"),
            )
        }
        wgpu::Error::OutOfMemory { source } => Error::out_of_memory(named(source.to_string())),
        wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
            Error::validation(named(description))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether the future is ready when it is polled.
    fn ready(future: std::pin::Pin<&mut impl Future>, waker: &Waker) -> bool {
        future.poll(&mut Context::from_waker(waker)).is_ready()
    }

    #[test]
    fn calls_settle_in_any_order_and_wake_who_waits() {
        let (late, count) = (Late::default(), Arc::new(Count::default()));
        let waker = Waker::from(count.clone());
        let (first, second) = (late.begin(), late.begin());
        let mut of_second = pin!(late.settled(second));
        let mut of_all = pin!(late.all_settled());
        assert!(!ready(of_second.as_mut(), &waker) && !ready(of_all.as_mut(), &waker));
        // What comes later isn't waited for.
        let third = late.begin();
        late.finish(second, None);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(ready(of_second.as_mut(), &waker) && !ready(of_all.as_mut(), &waker));
        late.finish(first, None);
        assert!(ready(of_all.as_mut(), &waker));
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
        assert!(!ready(pin!(late.settled(third)), &waker));
        assert!(ready(pin!(late.settled(Ticket::default())), &waker));
        assert!(late.take().is_ok());
    }

    #[test]
    fn nobody_waits_for_a_lost_device() {
        let (late, count) = (Late::default(), Arc::new(Count::default()));
        let waker = Waker::from(count.clone());
        let ticket = late.begin();
        let mut settled = pin!(late.settled(ticket));
        let mut answer = pin!(late.unless_lost(std::future::pending::<()>()));
        assert!(!ready(settled.as_mut(), &waker) && !ready(answer.as_mut(), &waker));
        late.close();
        assert!(count.0.load(Ordering::Relaxed) >= 1);
        assert!(ready(settled.as_mut(), &waker) && ready(answer.as_mut(), &waker));
        assert_eq!(pollster::block_on(late.unless_lost(std::future::ready(5))), Some(5));
        assert_eq!(pollster::block_on(late.unless_lost(std::future::pending::<u8>())), None);
    }

    #[test]
    fn the_first_error_is_given_once() {
        let late = Late::default();
        let ticket = late.begin();
        late.finish(ticket, Some(Error::out_of_memory("a buffer")));
        late.tell(Error::validation("a bind group of it"));
        assert!(late.take().unwrap_err().is_out_of_memory());
        assert!(late.take().is_ok());
        for _ in 0..100 {
            late.tell(Error::validation("again"));
        }
        assert_eq!(lock(&late.state).found.len(), KEPT);
    }
}
