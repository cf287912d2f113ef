//! The label map of a scan from windows, for Python.

use std::sync::{Mutex, PoisonError};

use numpy::{PyArray1, PyReadonlyArray1, PyReadonlyArray2};
use patchcore::predict::{Model, Rule, Stream, labels_of};
use patchcore::windows::blend::Layout;
use pyo3::prelude::*;

use crate::gate::{run, run_interruptible};
use crate::windows::triples;

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(choose_classes, module)?)?;
    module.add_class::<LabelStream>()
}

/// Regions, threshold and lesion classes, as [`Rule`] has them.
type RuleColumns = (Option<Vec<(u8, Vec<usize>)>>, Option<(u8, f32)>, Vec<usize>);

fn rule_of((regions, threshold, lesion): RuleColumns) -> Rule {
    Rule { regions, threshold, lesion }
}

/// Shape of the training grid, window, ratio of spacings, importance of a window's voxels, share.
type ModelColumns<'py> = ([usize; 3], [usize; 3], [f64; 3], PyReadonlyArray1<'py, f32>, f32);

#[pyclass(frozen, module = "patchcore._core")]
struct LabelStream(Mutex<Option<Stream>>);

impl LabelStream {
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Option<Stream>) -> patchcore::Result<T> + Send,
    ) -> PyResult<T> {
        run(py, || work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn taken() -> patchcore::Error {
    patchcore::Error::Window("the result was taken already; use a new stream for another scan".into())
}

#[pymethods]
impl LabelStream {
    /// `rule` has regions (class index, classes), threshold (class index, probability) and the classes of a lesion.
    #[new]
    #[pyo3(signature = (channels, shape, models, *, rule, keep_probability, threads))]
    fn new(
        py: Python<'_>,
        channels: usize,
        shape: [usize; 3],
        models: Vec<ModelColumns<'_>>,
        rule: RuleColumns,
        keep_probability: bool,
        threads: Option<usize>,
    ) -> PyResult<Self> {
        let models = models
            .into_iter()
            .map(|(grid, window, ratio, importance, share)| {
                let importance = importance.as_slice()?.to_vec();
                let layout = Layout { channels, shape: grid, window };
                Ok((layout, importance, ratio, share))
            })
            .collect::<PyResult<Vec<_>>>()?;
        let stream = run(py, || {
            let models = models
                .into_iter()
                .map(|(layout, importance, ratio, share)| Model::new(layout, importance, shape, ratio, share))
                .collect::<Result<Vec<_>, _>>()?;
            Stream::new(channels, shape, rule_of(rule), models, keep_probability, threads)
        })?;
        Ok(Self(Mutex::new(Some(stream))))
    }

    /// Without `predictions` the windows are background.
    #[allow(clippy::needless_pass_by_value)]
    fn add(
        &self,
        py: Python<'_>,
        model: usize,
        corners: PyReadonlyArray2<'_, i64>,
        predictions: Option<PyReadonlyArray1<'_, f32>>,
    ) -> PyResult<()> {
        let corners = triples(&corners)?;
        let predictions = predictions.as_ref().map(PyReadonlyArray1::as_slice).transpose()?;
        self.with(py, |stream| stream.as_mut().ok_or_else(taken)?.add(model, &corners, predictions))
    }

    /// Return the first plane of the scan that each model has not reached.
    fn reached(&self, py: Python<'_>) -> PyResult<Vec<usize>> {
        self.with(py, |stream| Ok(stream.as_ref().ok_or_else(taken)?.reached()))
    }

    /// Return class indices and, if asked for, probabilities, flat.
    #[allow(clippy::type_complexity)]
    fn finish<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyArray1<u8>>, Bound<'py, PyArray1<u16>>)> {
        let out = self.with(py, |stream| stream.take().ok_or_else(taken)?.finish())?;
        Ok((PyArray1::from_vec(py, out.classes), PyArray1::from_vec(py, out.probability)))
    }
}

#[pyfunction]
#[pyo3(signature = (values, *, shape, out_shape, ratio, rule, threads))]
#[allow(clippy::needless_pass_by_value)]
fn choose_classes<'py>(
    py: Python<'py>,
    values: PyReadonlyArray1<'py, f32>,
    shape: [usize; 4],
    out_shape: [usize; 3],
    ratio: [f64; 3],
    rule: RuleColumns,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyArray1<u8>>> {
    let values = values.as_slice()?;
    let [channels, grid @ ..] = shape;
    let rule = rule_of(rule);
    let classes = run_interruptible(py, |_| labels_of(values, channels, grid, out_shape, ratio, &rule, threads))?;
    Ok(PyArray1::from_vec(py, classes))
}
