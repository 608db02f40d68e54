//! The memory of a submit, as Python gives it: rows of one view, addresses and sizes, or buffers.

use std::ptr::NonNull;
use std::sync::Arc;

use connectors::ErrorKind;
use pyo3::buffer::{PyBuffer, PyUntypedBuffer};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::job::Kind;
use crate::buffer::Views;
use crate::errors::{invalid, refused};
use crate::span::Span;

/// A view whose rows are chunks: vLLM's `primary_kv_view`.
pub(crate) struct Rows {
    /// From the first byte of the first row to the last byte of the last row.
    all: Span,
    rows: usize,
    /// Bytes from one row to the next, and of one row.
    stride: usize,
    len: usize,
    writable: bool,
    views: Views,
}

/// Keeps the memory of a transfer alive.
pub(crate) struct Held {
    views: Views,
    _rows: Option<Arc<Rows>>,
}

impl Rows {
    /// The rows of a 2-D view of single bytes. The view stays exported until this is dropped or released.
    ///
    /// # Errors
    /// `InvalidError` for a view of another form.
    pub(crate) fn new(view: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = view.py();
        let export = PyUntypedBuffer::get(view).map_err(|e| refused(py, ErrorKind::InvalidInput, e))?;
        let wrong = |what: String| invalid(py, format!("`rows` {what}; give a 2-D view of int8 whose rows are chunks"));
        let (&[rows, columns], item) = (export.shape(), export.item_size()) else {
            return Err(wrong(format!("has {} dimensions", export.dimensions())));
        };
        let &[stride, step] = export.strides() else { return Err(wrong("has no strides".to_owned())) };
        if item != 1 || step != 1 {
            return Err(wrong(format!("has items of {item} bytes, {step} bytes apart")));
        }
        let stride = usize::try_from(stride).map_err(|_| wrong(format!("has rows {stride} bytes apart")))?;
        if rows > 1 && stride < columns {
            return Err(wrong(format!("has rows of {columns} bytes, {stride} bytes apart")));
        }
        let start = NonNull::new(export.buf_ptr().cast()).unwrap_or(NonNull::dangling());
        let all = Span::new(start, rows.saturating_sub(1) * stride + columns);
        let writable = !export.readonly();
        let mut views = Views::none();
        views.add(export);
        Ok(Self { all, rows, stride, len: columns, writable, views })
    }

    /// The bytes of one row.
    pub(crate) fn row_bytes(&self) -> usize {
        self.len
    }

    /// The bytes of all rows.
    pub(super) fn all_bytes(&self) -> u64 {
        (self.rows * self.len) as u64
    }

    /// Ends the export, if no transfer uses it.
    pub(crate) fn release(self: Arc<Self>, py: Python<'_>) {
        if let Some(rows) = Arc::into_inner(self) {
            rows.views.release(py);
        }
    }
}

impl Held {
    /// For a transfer without memory.
    pub(crate) fn none() -> Self {
        Self { views: Views::none(), _rows: None }
    }

    /// Ends the exports now.
    pub(crate) fn release(self, py: Python<'_>) {
        self.views.release(py);
    }
}

/// The spans of `keys` values, their number for each key, and the holder that keeps them alive. `arguments` are those of
/// Python: one of `rows`, `buffers`, or `pointers` with `sizes`; and `owner`.
///
/// # Errors
/// `InvalidError` that names the wrong argument and its index.
pub(crate) fn read(
    py: Python<'_>,
    kind: Kind,
    keys: usize,
    arguments: Option<&Bound<'_, PyDict>>,
    view: Option<Arc<Rows>>,
) -> PyResult<(Vec<Span>, usize, Held)> {
    let (mut rows, mut pointers, mut sizes, mut buffers, mut owner) = (None, None, None, None, None);
    for (name, value) in arguments.into_iter().flatten().filter(|(_, value)| !value.is_none()) {
        let place = match name.extract::<&str>()? {
            "rows" => &mut rows,
            "pointers" => &mut pointers,
            "sizes" => &mut sizes,
            "buffers" => &mut buffers,
            "owner" => &mut owner,
            other => return Err(invalid(py, format!("unknown argument `{other}`; {MEMORY}"))),
        };
        *place = Some(value);
    }
    let (spans, pieces, views, rows) = match (rows, pointers, sizes, buffers) {
        (Some(rows), None, None, None) => {
            let Some(view) = view else {
                return Err(invalid(py, "row numbers need the client's `rows`; give the view when you make it"));
            };
            (spans_of_rows(py, kind, keys, &rows, &view)?, 1, Views::none(), Some(view))
        }
        (None, Some(pointers), Some(sizes), None) => {
            let (spans, pieces) = spans_at(py, keys, &numbers(&pointers, "pointers")?, &numbers(&sizes, "sizes")?)?;
            if kind == Kind::Load {
                no_overlap(py, &spans, "pointers")?;
            }
            (spans, pieces, Views::none(), None)
        }
        (None, None, None, Some(buffers)) => {
            let buffers: Vec<Bound<'_, PyAny>> = buffers.try_iter()?.collect::<PyResult<_>>()?;
            same_number(py, keys, buffers.len(), "buffers")?;
            let (views, spans) =
                if kind == Kind::Load { Views::to_write(&buffers)? } else { Views::to_read(&buffers)? };
            (spans, 1, views, None)
        }
        (None, None, None, None) if keys == 0 => (Vec::new(), 1, Views::none(), None),
        _ => return Err(invalid(py, MEMORY)),
    };
    let mut held = Held { views, _rows: rows };
    if let Some(owner) = owner {
        held.views.keep(owner.unbind());
    }
    Ok((spans, pieces, held))
}

const MEMORY: &str = "give the memory as one of `rows`, `buffers`, or `pointers` with `sizes`";

fn spans_of_rows(
    py: Python<'_>,
    kind: Kind,
    keys: usize,
    numbers_of_rows: &Bound<'_, PyAny>,
    view: &Rows,
) -> PyResult<Vec<Span>> {
    let numbers = numbers(numbers_of_rows, "rows")?;
    same_number(py, keys, numbers.len(), "rows")?;
    if kind == Kind::Load && !view.writable {
        return Err(invalid(py, "the client's `rows` are read-only, and the chunks would be read into them"));
    }
    let row = |(i, &number): (usize, &i64)| match usize::try_from(number) {
        Ok(row) if row < view.rows => Ok(view.all.part(row * view.stride, view.len)),
        _ => Err(invalid(py, format!("rows[{i}] is {number}; the view has rows 0 to {}", view.rows as i64 - 1))),
    };
    let spans = numbers.iter().enumerate().map(row).collect::<PyResult<Vec<_>>>()?;
    if kind == Kind::Load {
        no_overlap(py, &spans, "rows")?;
    }
    Ok(spans)
}

fn spans_at(py: Python<'_>, keys: usize, pointers: &[i64], sizes: &[i64]) -> PyResult<(Vec<Span>, usize)> {
    if pointers.len() != sizes.len() {
        return Err(invalid(py, format!("{} pointers, but {} sizes", pointers.len(), sizes.len())));
    }
    let pieces = pointers.len().checked_div(keys).unwrap_or(1);
    if pieces == 0 || pieces * keys != pointers.len() {
        return Err(invalid(py, format!("{} pointers for {keys} keys; give each key the same number", pointers.len())));
    }
    let span = |(i, (&pointer, &size)): (usize, (&i64, &i64))| {
        let start =
            usize::try_from(pointer).ok().and_then(|start| NonNull::new(std::ptr::without_provenance_mut(start)));
        let Some(start) = start else {
            return Err(invalid(py, format!("pointers[{i}] is {pointer}; give the address of memory")));
        };
        match usize::try_from(size) {
            Ok(len) if len > 0 && pointer.checked_add(size).is_some() => Ok(Span::new(start, len)),
            _ => Err(invalid(py, format!("sizes[{i}] is {size}; give a number of bytes, at least 1"))),
        }
    };
    let spans = pointers.iter().zip(sizes).enumerate().map(span).collect::<PyResult<_>>()?;
    Ok((spans, pieces))
}

fn no_overlap(py: Python<'_>, spans: &[Span], name: &str) -> PyResult<()> {
    let mut order: Vec<(usize, usize, usize)> =
        spans.iter().enumerate().map(|(i, span)| (span.start(), span.len(), i)).collect();
    order.sort_unstable();
    match order.windows(2).find(|pair| pair[0].0 + pair[0].1 > pair[1].0) {
        Some(&[(_, _, a), (_, _, b)]) => {
            let (a, b) = (a.min(b), a.max(b));
            Err(invalid(py, format!("{name}[{a}] and {name}[{b}] overlap, and both would be read into")))
        }
        _ => Ok(()),
    }
}

fn same_number(py: Python<'_>, keys: usize, given: usize, name: &str) -> PyResult<()> {
    if keys == given { Ok(()) } else { Err(invalid(py, format!("{keys} keys, but {given} {name}"))) }
}

/// Integers of a numpy array, or of any iterable.
fn numbers(object: &Bound<'_, PyAny>, name: &str) -> PyResult<Vec<i64>> {
    let py = object.py();
    if let Ok(buffer) = PyBuffer::<i64>::get(object) {
        return buffer.to_vec(py);
    }
    if let Ok(buffer) = PyBuffer::<i32>::get(object) {
        return Ok(buffer.to_vec(py)?.into_iter().map(i64::from).collect());
    }
    let mut numbers = Vec::with_capacity(object.len().unwrap_or(0));
    for (i, item) in object.try_iter().map_err(|e| refused(py, ErrorKind::InvalidInput, e))?.enumerate() {
        let number = item?.extract::<i64>();
        numbers.push(number.map_err(|e| invalid(py, format!("{name}[{i}] is not an integer: {}", e.value(py))))?);
    }
    Ok(numbers)
}
