//! One thread pool of our own, and the flag by which a caller asks long work to stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

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
    pool: Arc<rayon::ThreadPool>,
}

static POOL: Mutex<Option<Pooled>> = Mutex::new(None);

/// The shared pool with one thread a core, made at first use.
///
/// In a forked child (a `PyTorch` loader worker) the parent's threads do not exist; its pool is leaked, since dropping
/// it would wait for them, and a new one is made.
///
/// # Panics
/// If the operating system refuses to start any thread.
pub fn shared() -> Arc<rayon::ThreadPool> {
    let pid = std::process::id();
    let mut slot = POOL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(pooled) = slot.as_ref()
        && pooled.pid == pid
    {
        return Arc::clone(&pooled.pool);
    }
    let pool = Arc::new(build(0));
    let old = slot.replace(Pooled { pid, pool: Arc::clone(&pool) });
    std::mem::forget(old);
    pool
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
            let pool = shared();
            if pool.current_num_threads() == count { pool.install(work) } else { build(count.max(1)).install(work) }
        }
    }
}
