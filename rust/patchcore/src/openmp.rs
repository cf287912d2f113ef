//! Work in the threads of torch.
//!
//! On Linux, torch computes in the threads of an `OpenMP` library, and these wait busily for some milliseconds after
//! each operation. Work between two operations of torch must run in the same threads: those of another pool would
//! compete with threads that wait. The library is in the process already; it is not linked. Without it, the crate's own
//! pool does the work.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::pool;

/// Call a function with each number below `count`, in at most `threads` threads.
///
/// # Panics
/// If the function does, after all other calls.
pub(crate) fn each(threads: usize, count: usize, call: &(dyn Fn(usize) + Sync)) {
    #[cfg(target_os = "linux")]
    if let Some(parallel) = library::parallel() {
        return library::each(parallel, threads, count, call);
    }
    let share = count.div_ceil(threads.max(1));
    pool::shared().install(|| (0..count).into_par_iter().with_min_len(share).for_each(call));
}

#[cfg(target_os = "linux")]
mod library {
    use std::ffi::{CStr, c_char, c_uint, c_void};
    use std::sync::OnceLock;

    use super::{Any, AssertUnwindSafe, AtomicUsize, Mutex, Ordering, PoisonError, catch_unwind, resume_unwind};

    /// `void GOMP_parallel(void (*fn)(void *), void *data, unsigned num_threads, unsigned flags)`: part of the binary
    /// interface of GCC since 4.9. The libraries of LLVM and Intel have it, too.
    pub(super) type Parallel = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, c_uint, c_uint);

    unsafe extern "C" {
        fn dlsym(handle: *mut c_void, symbol: *const c_char) -> *mut c_void;
    }

    const NAME: &CStr = c"GOMP_parallel";

    pub(super) fn parallel() -> Option<Parallel> {
        static FOUND: OnceLock<Option<Parallel>> = OnceLock::new();
        *FOUND.get_or_init(|| {
            // SAFETY: the handle 0 searches all libraries of the process, and the name ends with 0.
            let address = unsafe { dlsym(std::ptr::null_mut(), NAME.as_ptr()) };
            // SAFETY: a function of this name has this type.
            (!address.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, Parallel>(address) })
        })
    }

    struct Work<'a> {
        next: AtomicUsize,
        count: usize,
        call: &'a (dyn Fn(usize) + Sync),
        panic: Mutex<Option<Box<dyn Any + Send>>>,
    }

    /// Each thread of the team takes the next number until all are taken.
    extern "C" fn member(data: *mut c_void) {
        // SAFETY: `each` gives a pointer to its work, which outlives the parallel region.
        let work = unsafe { &*data.cast::<Work<'_>>() };
        loop {
            let n = work.next.fetch_add(1, Ordering::Relaxed);
            if n >= work.count {
                return;
            }
            // A panic must not reach the frames of the library.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (work.call)(n))) {
                *work.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
            }
        }
    }

    pub(super) fn each(parallel: Parallel, threads: usize, count: usize, call: &(dyn Fn(usize) + Sync)) {
        let mut work = Work { next: AtomicUsize::new(0), count, call, panic: Mutex::new(None) };
        let threads = c_uint::try_from(threads).unwrap_or(1);
        // SAFETY: the call returns when all threads of the team have returned from `member`, and `work` lives longer.
        unsafe { parallel(member, (&raw mut work).cast(), threads, 0) };
        if let Some(panic) = work.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(panic);
        }
    }
}
