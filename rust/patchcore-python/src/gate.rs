//! The single gate between Python and the core: it releases the GIL, catches panics, checks for Ctrl-C and maps errors.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use patchcore::Error;
use patchcore::pool::Interrupt;
use pyo3::exceptions::{PyMemoryError, PyOSError, PyRuntimeError};
use pyo3::prelude::*;

pyo3::import_exception!(patchcore.errors, CorruptFileError);
pyo3::import_exception!(patchcore.errors, DataError);
pyo3::import_exception!(patchcore.errors, HeaderError);
pyo3::import_exception!(patchcore.errors, NonIntegralLabelError);
pyo3::import_exception!(patchcore.errors, UnsupportedDataError);
pyo3::import_exception!(patchcore.errors, WindowError);

/// Interval between two checks for Ctrl-C during a long computation.
const SIGNAL_POLL: Duration = Duration::from_millis(50);

/// Convert an error of the core to a Python exception.
pub(crate) fn to_python(error: Error) -> PyErr {
    match error {
        Error::Io(io) => os_error(&io),
        Error::Header(message) => HeaderError::new_err(message),
        Error::Corrupt(message) => CorruptFileError::new_err(message),
        Error::Unsupported(message) => UnsupportedDataError::new_err(message),
        Error::NonIntegralLabel(message) => NonIntegralLabelError::new_err(message),
        Error::Window(message) => WindowError::new_err(message),
        Error::Memory(message) => PyMemoryError::new_err(message),
        other => DataError::new_err(other.to_string()),
    }
}

/// Create an `OSError` with its error number. Python chooses the subclass from this number.
fn os_error(error: &std::io::Error) -> PyErr {
    let text = error.to_string();
    let what = text.split(" (os error").next().unwrap_or(&text).to_owned();
    match error.raw_os_error() {
        Some(code) => PyOSError::new_err((code, what)),
        None => PyOSError::new_err(text),
    }
}

fn panic_to_python(payload: Box<dyn Any + Send>) -> PyErr {
    // A thread pool that cannot be started is no bug.
    let payload = match payload.downcast::<Error>() {
        Ok(error) => return to_python(*error),
        Err(payload) => payload,
    };
    let what = payload
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into());
    PyRuntimeError::new_err(format!("bug in patchcore's core: {what}; please report it with the input that caused it"))
}

/// Run short work (milliseconds) with the GIL released, on the calling thread.
pub(crate) fn run<T: Send>(py: Python<'_>, work: impl FnOnce() -> patchcore::Result<T> + Send) -> PyResult<T> {
    match py.detach(|| catch_unwind(AssertUnwindSafe(work))) {
        Ok(result) => result.map_err(to_python),
        Err(payload) => Err(panic_to_python(payload)),
    }
}

/// Run long work with the GIL released on a separate thread, while this thread checks for Ctrl-C.
///
/// If a signal handler raises an exception (`KeyboardInterrupt`), the work is asked to stop through its [`Interrupt`].
/// When the work has ended, the exception of the handler is raised.
pub(crate) fn run_interruptible<T: Send>(
    py: Python<'_>,
    work: impl FnOnce(&Interrupt) -> patchcore::Result<T> + Send,
) -> PyResult<T> {
    let interrupt = Interrupt::default();
    let (outcome, signal) = py.detach(|| {
        std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(1);
            let flag = &interrupt;
            let started = std::thread::Builder::new().spawn_scoped(scope, move || {
                let _ = sender.send(catch_unwind(AssertUnwindSafe(|| work(flag))));
            });
            if let Err(error) = started {
                return (Some(Ok(Err(Error::Io(error)))), None);
            }
            let mut raised = None;
            loop {
                match receiver.recv_timeout(SIGNAL_POLL) {
                    Ok(outcome) => break (Some(outcome), raised),
                    Err(RecvTimeoutError::Disconnected) => break (None, raised),
                    Err(RecvTimeoutError::Timeout) if raised.is_none() => {
                        #[allow(clippy::redundant_closure_for_method_calls)]
                        // the method is less general than a closure
                        let heard = Python::attach(|py| py.check_signals());
                        if let Err(error) = heard {
                            interrupt.raise();
                            raised = Some(error);
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                }
            }
        })
    });
    if let Some(error) = signal {
        return Err(error);
    }
    match outcome {
        Some(Ok(result)) => result.map_err(to_python),
        Some(Err(payload)) => Err(panic_to_python(payload)),
        None => Err(PyRuntimeError::new_err("a worker thread of patchcore's core ended without a result")),
    }
}
