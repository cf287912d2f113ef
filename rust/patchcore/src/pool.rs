//! One thread pool of our own, and the flag by which a caller asks long work to stop.

use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use crate::{Error, Result};

/// Asked between slabs and chunks: has the caller had enough?
#[derive(Debug, Default)]
pub struct Interrupt(AtomicBool);

impl Interrupt {
    /// Ask the work that watches this flag to stop.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked.
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

/// A pool remembers the process it was made in: its threads do not survive a fork.
struct Pooled {
    pid: u32,
    pool: rayon::ThreadPool,
}

/// Never freed: an old pool in a forked child cannot be dropped, its threads are the parent's.
static POOL: AtomicPtr<Pooled> = AtomicPtr::new(std::ptr::null_mut());

/// This process's pool, if there is one yet. No lock is taken: a fork could copy it locked.
fn existing() -> Option<&'static Pooled> {
    // SAFETY: what is stored here was leaked and is never written again.
    unsafe { POOL.load(Ordering::Acquire).as_ref() }.filter(|pooled| pooled.pid == std::process::id())
}

/// The shared pool with one thread a core, made at first use.
///
/// In a forked child (a `PyTorch` loader worker) the parent's threads do not exist, and a new one is made.
///
/// # Panics
/// If the operating system refuses to start any thread.
pub fn shared() -> &'static rayon::ThreadPool {
    if let Some(pooled) = existing() {
        return &pooled.pool;
    }
    let before = POOL.load(Ordering::Acquire);
    let fresh = Box::into_raw(Box::new(Pooled { pid: std::process::id(), pool: build(0) }));
    if POOL.compare_exchange(before, fresh, Ordering::AcqRel, Ordering::Acquire).is_ok() {
        // SAFETY: it was leaked a moment ago.
        return unsafe { &(*fresh).pool };
    }
    // SAFETY: another thread was first, and nobody else has seen this one.
    drop(unsafe { Box::from_raw(fresh) });
    shared()
}

fn build(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("patchcore-{index}"))
        .build()
        .expect("the system starts threads")
}

/// Run `work`, and what it does in parallel, in a pool of `threads` threads; in the shared one if none are given.
///
/// # Panics
/// As [`shared`].
pub fn install<T: Send>(threads: Option<usize>, work: impl FnOnce() -> T + Send) -> T {
    match threads {
        None => shared().install(work),
        Some(count) => {
            // Starting threads takes longer than reading a window: as many as there are cores are the shared ones.
            let usual = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            match existing() {
                Some(pooled) if pooled.pool.current_num_threads() == count => pooled.pool.install(work),
                None if count == usual => shared().install(work),
                _ => build(count.max(1)).install(work),
            }
        }
    }
}
