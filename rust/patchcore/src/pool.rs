//! The crate's own thread pool, and the flag that asks long work to stop.

use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use crate::{Error, Result};

/// A flag that asks long work to stop. Long work checks it between slabs and chunks.
#[derive(Debug, Default)]
pub struct Interrupt(AtomicBool);

impl Interrupt {
    /// Ask the work that watches this flag to stop.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether [`Interrupt::raise`] was called.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Turn the flag into an error, for `?`.
    ///
    /// # Errors
    /// [`Error::Interrupted`] once [`Interrupt::raise`] was called.
    pub fn check(&self) -> Result<()> {
        if self.is_raised() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// A pool and the process that created it: the threads of a pool do not survive a fork.
struct Pooled {
    pid: u32,
    pool: rayon::ThreadPool,
}

/// Never freed: a forked child cannot drop the old pool, because its threads belong to the parent.
static POOL: AtomicPtr<Pooled> = AtomicPtr::new(std::ptr::null_mut());

/// The pool of this process, if it exists. This function takes no lock: a fork could copy a lock while it is held.
fn existing() -> Option<&'static Pooled> {
    // SAFETY: every pointer stored here was leaked, and its memory is never written again.
    unsafe { POOL.load(Ordering::Acquire).as_ref() }.filter(|pooled| pooled.pid == std::process::id())
}

/// The shared pool with one thread per core. It is created at first use.
///
/// In a forked child (for example a `PyTorch` loader worker) the parent's threads do not exist, so a new pool is
/// created.
///
/// # Panics
/// If the operating system refuses to start a thread. The payload is an [`Error`]: the binding returns it to the caller.
pub fn shared() -> &'static rayon::ThreadPool {
    if let Some(pooled) = existing() {
        return &pooled.pool;
    }
    let before = POOL.load(Ordering::Acquire);
    let fresh = Box::into_raw(Box::new(Pooled { pid: std::process::id(), pool: build(0) }));
    if POOL.compare_exchange(before, fresh, Ordering::AcqRel, Ordering::Acquire).is_ok() {
        // SAFETY: `fresh` was leaked above.
        return unsafe { &(*fresh).pool };
    }
    // SAFETY: another thread stored its pool first, so no other thread has seen `fresh`.
    drop(unsafe { Box::from_raw(fresh) });
    shared()
}

fn build(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("patchcore-{index}"))
        .build()
        .unwrap_or_else(|error| {
            let what = format!("the operating system started no more threads ({error}); see ulimit -u");
            // Without the panic hook, which would print a back trace.
            std::panic::resume_unwind(Box::new(Error::Io(std::io::Error::other(what))))
        })
}

/// Run `work` and its parallel parts in a pool of `threads` threads, or in the shared pool if `threads` is `None`.
///
/// # Panics
/// As [`shared`].
pub fn install<T: Send>(threads: Option<usize>, work: impl FnOnce() -> T + Send) -> T {
    match threads {
        None => shared().install(work),
        Some(count) => {
            // Starting threads takes longer than reading a window. If `count` is the number of cores, use the shared
            // pool.
            let usual = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            match existing() {
                Some(pooled) if pooled.pool.current_num_threads() == count => pooled.pool.install(work),
                None if count == usual => shared().install(work),
                _ => build(count.max(1)).install(work),
            }
        }
    }
}
