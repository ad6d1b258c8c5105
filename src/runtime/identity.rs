//! Which device a resource is of.
//!
//! wgpu compares devices and buffers by numbers that each `wgpu::Instance` counts for itself, so
//! resources of two instances can be "equal", and a device that is handed another instance's buffer
//! takes whatever buffer of its own has that number. Devices of callers come from instances of
//! theirs. So contexts carry a number of our own, and what doesn't carry one is asked: on native
//! backends a resource reports its errors to its own device alone, and an error scope of a device
//! tells whether it was that one.

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use native::{Identity, State, state_of};
#[cfg(target_arch = "wasm32")]
pub(crate) use web::{Identity, State, state_of};

/// The number of a device. Contexts of one device share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DeviceId(u64);

#[cfg(not(target_arch = "wasm32"))]
mod native {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::{Arc, Mutex, Weak};

    use super::DeviceId;
    use crate::runtime::sync::{lock, now};

    /// A device that some context is of, with its number.
    #[derive(Debug)]
    pub(crate) struct Identity {
        id: DeviceId,
        device: wgpu::Device,
        /// Whether resources can be asked whose they are. Tried out, since wgpu doesn't promise
        /// that these errors stay errors.
        buffers_tell: bool,
    }

    /// Devices of living contexts.
    struct Known {
        identities: Vec<Weak<Identity>>,
        next: u64,
    }

    static KNOWN: Mutex<Known> = Mutex::new(Known { identities: Vec::new(), next: 1 });

    impl Identity {
        /// The identity of a device: the one that it has already, or a new one.
        pub(crate) fn of(device: &wgpu::Device) -> Arc<Self> {
            let mut known = lock(&KNOWN);
            known.identities.retain(|identity| identity.strong_count() > 0);
            let living: Vec<Arc<Self>> = known.identities.iter().filter_map(Weak::upgrade).collect();
            if let Some(identity) = living.into_iter().find(|identity| same_device(&identity.device, device))
            {
                return identity;
            }
            let id = DeviceId(known.next);
            known.next += 1;
            let probe = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("prflash identity probe"),
                size: 16,
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            });
            let buffers_tell = complains_to(device, || probe.unmap());
            let identity = Arc::new(Self { id, device: device.clone(), buffers_tell });
            known.identities.push(Arc::downgrade(&identity));
            identity
        }

        /// The device's number.
        pub(crate) fn id(&self) -> DeviceId {
            self.id
        }

        /// Whether a buffer is of this device. Where that can't be found out (it is mapped, or may
        /// be), it is taken for granted.
        pub(crate) fn owns(&self, buffer: &wgpu::Buffer) -> bool {
            let mappable = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::MAP_WRITE;
            if !self.buffers_tell
                || buffer.usage().intersects(mappable)
                || matches!(state_of(buffer), State::Mapped)
            {
                return true;
            }
            // Errors of other devices that we know of stay with us, too.
            let others: Vec<Arc<Self>> = lock(&KNOWN).identities.iter().filter_map(Weak::upgrade).collect();
            let scopes: Vec<_> = others
                .iter()
                .filter(|other| other.id != self.id)
                .map(|other| other.device.push_error_scope(wgpu::ErrorFilter::Validation))
                .collect();
            // To unmap what isn't mapped changes nothing, and is an error.
            let owned = complains_to(&self.device, || buffer.unmap());
            drop(scopes);
            owned
        }

        /// Whether a queue is of this device.
        pub(crate) fn owns_queue(&self, queue: &wgpu::Queue) -> bool {
            let probe = self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("prflash identity probe"),
                size: 16,
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            });
            // Three bytes can't be written anywhere, whichever buffer the queue takes this one for.
            complains_to(&self.device, || queue.write_buffer(&probe, 1, &[0; 3]))
        }
    }

    /// Whether an error of `work` is one of this device.
    fn complains_to(device: &wgpu::Device, work: impl FnOnce()) -> bool {
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        // An unknown device without handlers panics on errors, and numbers that an instance doesn't
        // know make it panic, too.
        let done = catch_unwind(AssertUnwindSafe(work));
        now(scope.pop()).is_some() && done.is_ok()
    }

    /// Whether two handles are of one device: equal numbers, and an error of the second is one of
    /// the first.
    fn same_device(first: &wgpu::Device, second: &wgpu::Device) -> bool {
        if first != second {
            return false;
        }
        // Where they are two devices, this scope keeps the error from the handlers of the second.
        let _scope = second.push_error_scope(wgpu::ErrorFilter::Validation);
        complains_to(first, || {
            let _ = second.create_buffer(&wgpu::BufferDescriptor {
                label: Some("prflash identity probe"),
                size: 16,
                usage: wgpu::BufferUsages::empty(),
                mapped_at_creation: false,
            });
        })
    }

    /// What a buffer is in.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum State {
        Usable,
        Mapped,
        Destroyed,
    }

    /// Whether a buffer can be used by commands now.
    pub(crate) fn state_of(buffer: &wgpu::Buffer) -> State {
        if buffer.size() < 4 {
            return State::Usable;
        }
        match buffer.slice(..4).get_mapped_range() {
            Ok(_) => State::Mapped,
            Err(error) => match error.to_string() {
                text if text.contains("not mapped") || text.contains("unmapped") => State::Usable,
                text if text.contains("destroyed") => State::Destroyed,
                // Some of it is viewed, or only another part is mapped.
                _ => State::Mapped,
            },
        }
    }
}

#[cfg(target_arch = "wasm32")]
mod web {
    use std::hash::{DefaultHasher, Hash, Hasher};
    use std::sync::Arc;

    use super::DeviceId;

    /// A device's number: in browsers wgpu counts devices over all instances.
    #[derive(Debug)]
    pub(crate) struct Identity(DeviceId);

    impl Identity {
        pub(crate) fn of(device: &wgpu::Device) -> Arc<Self> {
            let mut hasher = DefaultHasher::new();
            device.hash(&mut hasher);
            Arc::new(Self(DeviceId(hasher.finish())))
        }

        pub(crate) fn id(&self) -> DeviceId {
            self.0
        }

        /// Browsers check that by themselves, and tell later.
        pub(crate) fn owns(&self, _: &wgpu::Buffer) -> bool {
            true
        }

        pub(crate) fn owns_queue(&self, _: &wgpu::Queue) -> bool {
            true
        }
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[allow(dead_code)]
    pub(crate) enum State {
        Usable,
        Mapped,
        Destroyed,
    }

    /// Browsers tell of it when the commands are submitted.
    pub(crate) fn state_of(_: &wgpu::Buffer) -> State {
        State::Usable
    }
}
