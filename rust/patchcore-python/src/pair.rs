//! Two label maps compared, for Python: components, overlaps and surface distances.

use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyUntypedArray, PyUntypedArrayMethods};
use patchcore::lesions::{Affine, measure};
use patchcore::pair::{Group, Overlap, Pair, overlaps};
use patchcore::pool::Interrupt;
use patchcore::surface::{Convention, Distances};
use patchcore::{Components, Connectivity, Decoder, Error, Geometry, View};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::gate::{run_interruptible, to_python};
use crate::measure::{columns, view_of};

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<MaskPair>()?;
    module.add_function(wrap_pyfunction!(label_overlaps, module)?)
}

fn views<'a>(
    truth: &'a Bound<'_, PyUntypedArray>,
    prediction: &'a Bound<'_, PyUntypedArray>,
) -> PyResult<[View<'a>; 2]> {
    let views = [view_of(truth)?, view_of(prediction)?];
    if views[0].shape() != views[1].shape() {
        let [a, b] = [truth.shape(), prediction.shape()];
        return Err(to_python(Error::Argument(format!("truth has shape {a:?}, prediction {b:?}; expected one shape"))));
    }
    Ok(views)
}

fn convention_of(name: &str) -> PyResult<Convention> {
    match name {
        "mesh" => Ok(Convention::Mesh),
        "surfel" => Ok(Convention::Surfel),
        "voxel" => Ok(Convention::Voxel),
        _ => Err(to_python(Error::Argument(format!("surface convention {name}; legal: mesh, surfel, voxel")))),
    }
}

/// Rows (true label, predicted label, shared voxels); voxels of each true label; voxels of each predicted label.
type LabelCounts = (Vec<(i64, i64, u64)>, Vec<(i64, u64)>, Vec<(i64, u64)>);

/// Groups of true components, and rows (group, predicted component, voxels).
type Dilated<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray2<i64>>);

/// Return (true label, predicted label, voxels) for all labels that share a voxel; background is not counted.
#[pyfunction]
#[pyo3(signature = (truth, prediction, *, threads))]
fn label_overlaps<'py>(
    py: Python<'py>,
    truth: &Bound<'py, PyUntypedArray>,
    prediction: &Bound<'py, PyUntypedArray>,
    threads: Option<usize>,
) -> PyResult<LabelCounts> {
    let views = views(truth, prediction)?;
    run_interruptible(py, |interrupt| {
        let [truth, prediction] = views.map(|view| {
            let decoder = Decoder::new(view.kind(), view.is_swapped(), None);
            Components::of_view_in(views[0].walk_order(), &view, &decoder, Connectivity::Six, threads, interrupt)
                .map(Components::joined_by_label)
        });
        let (truth, prediction) = (truth?, prediction?);
        let label = |components: &Components, number: u32| components.label(number as usize);
        let shared = overlaps(&truth, &prediction, |_, number| number, |_, number| number)
            .into_iter()
            .map(|(a, b, voxels)| (label(&truth, a), label(&prediction, b), voxels))
            .collect();
        Ok((shared, truth.label_voxels(), prediction.label_voxels()))
    })
}

/// The components of a true and of a predicted mask.
#[pyclass(frozen, module = "patchcore._core")]
struct MaskPair(Pair);

#[pymethods]
impl MaskPair {
    /// `labels` are those of the mask; `instances`: each label is one component, wherever its voxels lie. Components of
    /// fewer than `min_voxels` do not exist.
    #[new]
    #[pyo3(signature = (truth, prediction, *, labels, connectivity, instances, min_voxels, threads))]
    #[allow(clippy::needless_pass_by_value, clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        truth: &Bound<'_, PyUntypedArray>,
        prediction: &Bound<'_, PyUntypedArray>,
        labels: Option<Vec<i64>>,
        connectivity: u32,
        instances: bool,
        min_voxels: u64,
        threads: Option<usize>,
    ) -> PyResult<Self> {
        let views = views(truth, prediction)?;
        let connectivity = Connectivity::try_from(connectivity).map_err(to_python)?;
        let pair = run_interruptible(py, |interrupt| {
            let [truth, prediction] = views.map(|view| -> patchcore::Result<Components> {
                let decoder = Decoder::new(view.kind(), view.is_swapped(), labels.as_deref());
                let decoder = if instances { decoder } else { decoder.merged() };
                let order = views[0].walk_order();
                let found = Components::of_view_in(order, &view, &decoder, connectivity, threads, interrupt)?;
                Ok(if instances { found.joined_by_label() } else { found })
            });
            Pair::new(truth?, prediction?, min_voxels)
        })?;
        Ok(Self(pair))
    }

    /// Columns of the true and of the predicted components, as of `measure_array`.
    #[pyo3(signature = (affine, *, axial_axis))]
    fn tables<'py>(
        &self,
        py: Python<'py>,
        affine: Affine,
        axial_axis: Option<usize>,
    ) -> PyResult<(Bound<'py, PyDict>, Bound<'py, PyDict>)> {
        let mut geometry = Geometry::from_affine(affine);
        geometry.axial_axis = axial_axis.unwrap_or(geometry.axial_axis);
        let (truth, prediction) = run_interruptible(py, |interrupt| {
            let table = |components| measure(components, &geometry, 0.0, None, interrupt);
            Ok((table(self.0.truth())?, table(self.0.prediction())?))
        })?;
        Ok((columns(py, &truth)?, columns(py, &prediction)?))
    }

    /// For each predicted component, the voxels that it shares with true components that were dropped as specks.
    fn on_specks<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        PyArray1::from_iter(py, self.0.on_specks().iter().map(|&voxels| voxels as i64))
    }

    /// Rows (true component, predicted component, voxels).
    fn overlaps<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<i64>>> {
        let found = run_interruptible(py, |_| Ok(self.0.overlaps()))?;
        Ok(rows_of(py, &found))
    }

    /// The group of each true component after a dilation, and rows (group, predicted component, voxels).
    fn dilated<'py>(&self, py: Python<'py>, iterations: usize) -> PyResult<Dilated<'py>> {
        let (groups, found) = run_interruptible(py, |_| self.0.dilated(iterations))?;
        Ok((PyArray1::from_iter(py, groups.into_iter().map(i64::from)), rows_of(py, &found)))
    }

    /// For each true component, the number of predicted voxels that are nearest to it.
    fn nearest_voxels<'py>(&self, py: Python<'py>, spacing: [f64; 3]) -> PyResult<Bound<'py, PyArray1<i64>>> {
        let counts = run_interruptible(py, |interrupt| self.0.nearest_voxels(spacing, interrupt))?;
        Ok(PyArray1::from_iter(py, counts.into_iter().map(|count| count as i64)))
    }

    /// For each group of true and predicted components and each convention, the distances between their surfaces.
    #[pyo3(signature = (groups, spacing, *, conventions, percents, tolerances_mm, threads))]
    #[allow(clippy::needless_pass_by_value, clippy::too_many_arguments)]
    fn surfaces<'py>(
        &self,
        py: Python<'py>,
        groups: Vec<Group>,
        spacing: [f64; 3],
        conventions: Vec<String>,
        percents: Vec<f64>,
        tolerances_mm: Vec<f64>,
        threads: Option<usize>,
    ) -> PyResult<Vec<Vec<Bound<'py, PyDict>>>> {
        let conventions = conventions.iter().map(|name| convention_of(name)).collect::<PyResult<Vec<_>>>()?;
        let found = run_interruptible(py, |interrupt: &Interrupt| {
            self.0.distances_of(&groups, spacing, &conventions, &tolerances_mm, threads, interrupt, |distances| {
                Numbers::of(distances, &percents, &tolerances_mm)
            })
        })?;
        found.iter().map(|group| group.iter().map(|numbers| numbers.describe(py)).collect()).collect()
    }
}

fn rows_of<'py>(py: Python<'py>, found: &[Overlap]) -> Bound<'py, PyArray2<i64>> {
    let values = found.iter().flat_map(|&(a, b, voxels)| [i64::from(a), i64::from(b), voxels as i64]).collect();
    Array2::from_shape_vec((found.len(), 3), values).unwrap_or_default().into_pyarray(py)
}

/// What is kept of the distances between two surfaces.
struct Numbers {
    hausdorff_mm: Vec<f64>,
    nsd: Vec<f64>,
    nsd_directed: Vec<(f64, f64)>,
    named: [(&'static str, f64); 5],
}

impl Numbers {
    fn of(distances: &Distances, percents: &[f64], tolerances_mm: &[f64]) -> Self {
        Self {
            hausdorff_mm: percents.iter().map(|&percent| distances.hausdorff_mm(percent)).collect(),
            nsd: tolerances_mm.iter().map(|&mm| distances.nsd(mm)).collect(),
            nsd_directed: tolerances_mm
                .iter()
                .map(|&mm| (distances.forward.share_within(mm), distances.backward.share_within(mm)))
                .collect(),
            named: [
                ("masd_mm", distances.masd_mm()),
                ("assd_mm", distances.assd_mm()),
                ("rmsd_mm", distances.rmsd_mm()),
                ("truth_to_prediction_mm", distances.forward.mean()),
                ("prediction_to_truth_mm", distances.backward.mean()),
            ],
        }
    }

    fn describe<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let values = PyDict::new(py);
        values.set_item("hausdorff_mm", self.hausdorff_mm.clone())?;
        values.set_item("nsd", self.nsd.clone())?;
        values.set_item("nsd_directed", self.nsd_directed.clone())?;
        for (name, value) in self.named {
            values.set_item(name, value)?;
        }
        Ok(values)
    }
}
