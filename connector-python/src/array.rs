//! The elements of a chunk, as a Python object describes them: their type and their arrangement.

use connectors::chunk::Groups;
use connectors::{Capabilities, ChunkHeader, ChunkLayout, Dtype, Error, ErrorKind, Group, MemoryFormat, Result, Shape};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView, PyString, PyType};

use crate::errors::{Arg, OrRaise, invalid};

/// An object's description of its elements. Plain bytes have none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Elements {
    /// None for a type that kvconn does not have.
    pub(crate) dtype: Option<Dtype>,
    /// None for no dimension or more than four.
    pub(crate) shape: Option<Shape>,
    /// The layout of a chunk that another store gave.
    chunk: Option<ChunkLayout>,
}

impl Elements {
    pub(crate) fn new(dtype: Option<Dtype>, shape: &[usize]) -> Self {
        Self { dtype, shape: Shape::new(shape).ok(), chunk: None }
    }

    /// The elements of a chunk, perhaps of another wheel's library.
    fn of_chunk(chunk: &Bound<'_, PyAny>, len: usize) -> PyResult<Self> {
        let py = chunk.py();
        let format: String = chunk.getattr(intern!(py, "format"))?.extract()?;
        let shapes: Vec<Vec<usize>> = chunk.getattr(intern!(py, "shapes"))?.extract()?;
        let dtypes: Vec<Option<String>> = chunk.getattr(intern!(py, "dtypes"))?.extract()?;
        let group = |(shape, dtype): (Vec<usize>, Option<String>)| {
            Ok(Group { shape: Shape::new(&shape)?, dtype: dtype.map(|name| name.parse()).transpose()? })
        };
        let groups: Vec<Group> = shapes.into_iter().zip(dtypes).map(group).collect::<Result<_>>().or_raise(py)?;
        let format: MemoryFormat = format.parse().or_raise(py)?;
        if format.is_binary() {
            return Ok(Self::default());
        }
        let (dtype, shape) = match &groups[..] {
            [one] => (one.dtype, Some(one.shape)),
            _ => (None, None),
        };
        let chunk = ChunkLayout { format, groups: Groups::new(&groups).or_raise(py)?, len };
        Ok(Self { dtype, shape, chunk: Some(chunk) })
    }

    /// The elements of a buffer.
    ///
    /// # Errors
    /// Why no store can hold them.
    pub(crate) fn of_buffer(object: &Bound<'_, PyAny>, buffer: &PyUntypedBuffer) -> std::result::Result<Self, Refusal> {
        let format = buffer.format().to_bytes();
        if has_any(format, b"O") {
            return Err(("holds Python objects, not their bytes", "store a pickle of it, or convert it to numbers"));
        }
        let other_order: &[u8] = if cfg!(target_endian = "little") { b">!" } else { b"<" };
        if has_any(format, other_order) && buffer.item_size() > 1 {
            let hint = "convert it: `x.astype(x.dtype.newbyteorder('='))`";
            return Err(("has elements in the other byte order than this machine", hint));
        }
        let format = match format {
            [b'@' | b'=' | b'<' | b'>' | b'!', kind] | [kind] => *kind,
            // Complex numbers, structures and texts.
            _ => b'T',
        };
        if buffer.dimensions() == 1 && matches!(format, b'B' | b'c' | b's') {
            if is_plain(object) {
                return Ok(Self::default());
            }
            if is_chunk(object) {
                // A library of an older version may know less of its chunks. Their bytes are right all the same.
                return Ok(Self::of_chunk(object, buffer.len_bytes()).unwrap_or_default());
            }
        }
        Ok(Self::new(dtype_of_format(format, buffer.item_size()), buffer.shape()))
    }

    /// Checks that the memory of such elements may hold a chunk of this layout.
    ///
    /// A chunk without a dtype, and memory of bytes, fit each other by length alone. Memory of one dimension is a row of
    /// elements: it needs the chunk's dtype. A tensor of more dimensions needs the chunk's shape, too.
    ///
    /// # Errors
    /// `SizeMismatch` with both.
    pub(crate) fn check(&self, chunk: &ChunkLayout) -> Result<()> {
        let Some(dtype) = self.dtype.filter(|dtype| *dtype != Dtype::Uint8 && !chunk.format.is_binary()) else {
            return Ok(());
        };
        let same_type = chunk.groups.iter().all(|group| group.dtype.is_none_or(|stored| stored == dtype));
        let same_shape = match (&*chunk.groups, self.shape) {
            ([group], Some(shape)) => shape.len() == 1 || shape == group.shape,
            _ => true,
        };
        if same_type && same_shape {
            return Ok(());
        }
        let shape = self.shape.map(|shape| shape.to_string()).unwrap_or_default();
        Err(Error::new(ErrorKind::SizeMismatch, format!("the chunk is `{chunk}`, its buffer {dtype} {shape}"))
            .with_hint("read it into memory of its own dtype and shape, or into bytes"))
    }
}

/// Why an object cannot be memory of a call, after the place, and what to do.
pub(crate) type Refusal = (&'static str, &'static str);

/// Whether the object is bytes, and not an array of uint8.
fn is_plain(object: &Bound<'_, PyAny>) -> bool {
    object.is_exact_instance_of::<PyBytes>()
        || object.is_exact_instance_of::<PyByteArray>()
        || object.is_exact_instance_of::<PyMemoryView>()
        || !object.hasattr(intern!(object.py(), "__dlpack__")).unwrap_or(false)
}

/// Whether the object is a chunk of any wheel's library. Each has a class of its own.
fn is_chunk(object: &Bound<'_, PyAny>) -> bool {
    let class = object.get_type();
    class.name().is_ok_and(|name| name == "Chunk") && class.module().is_ok_and(|module| module == "kvconn")
}

/// Whether a format of the module `struct`, as PEP 3118 extends it, has one of these characters. Names of fields stand
/// between colons, and do not count.
fn has_any(format: &[u8], wanted: &[u8]) -> bool {
    format.split(|byte| *byte == b':').step_by(2).flatten().any(|byte| wanted.contains(byte))
}

fn dtype_of_format(format: u8, size: usize) -> Option<Dtype> {
    match (format, size) {
        (b'?', 1) => Some(Dtype::Bool),
        (b'B' | b'c', 1) => Some(Dtype::Uint8),
        (b'e', 2) => Some(Dtype::Float16),
        (b'f', 4) => Some(Dtype::Float32),
        (b'd', 8) => Some(Dtype::Float64),
        (b'b' | b'h' | b'i' | b'l' | b'q' | b'n', 1) => Some(Dtype::Int8),
        (b'h' | b'i' | b'l' | b'q' | b'n', 2) => Some(Dtype::Int16),
        (b'h' | b'i' | b'l' | b'q' | b'n', 4) => Some(Dtype::Int32),
        (b'h' | b'i' | b'l' | b'q' | b'n', 8) => Some(Dtype::Int64),
        _ => None,
    }
}

/// The layout that a caller gives. The object gives the parts that are missing.
#[derive(Default)]
pub(crate) struct Given {
    shape: Option<Shape>,
    dtype: Option<Dtype>,
    format: Option<MemoryFormat>,
}

impl Given {
    /// Reads the arguments `shape`, `dtype` and `format` of a method.
    ///
    /// # Errors
    /// `InvalidError` for a wrong one.
    pub(crate) fn read(
        py: Python<'_>,
        shape: Arg<Option<Vec<usize>>>,
        dtype: Option<&Bound<'_, PyAny>>,
        format: Arg<Option<String>>,
    ) -> PyResult<Self> {
        Ok(Self {
            shape: shape.0.map(|shape| Shape::new(&shape)).transpose().or_raise(py)?,
            dtype: dtype.map(dtype_of).transpose()?,
            format: format.0.map(|format| format.parse()).transpose().or_raise(py)?,
        })
    }

    /// The layout of an object of `len` bytes, for a store of these capabilities.
    ///
    /// A store that cannot keep the object's dtype and shape keeps its bytes, as BINARY. The store refuses a given
    /// dtype or shape that it cannot keep.
    ///
    /// # Errors
    /// `InvalidInput` if the parts do not make `len` bytes, or one is missing.
    pub(crate) fn layout(&self, len: usize, elements: &Elements, can: &Capabilities) -> Result<ChunkLayout> {
        let format = self.format.unwrap_or_default();
        let (shape, dtype) = match (self.shape, self.dtype) {
            (None, None) if self.format.is_none() => {
                return Ok(elements.kept(can).unwrap_or_else(|| ChunkLayout::binary(len)));
            }
            (None, None) if format.is_binary() => return Ok(ChunkLayout { format, ..ChunkLayout::binary(len) }),
            (shape, dtype) => (shape.or(elements.shape), dtype.or(elements.dtype)),
        };
        let (Some(shape), Some(dtype)) = (shape, dtype) else {
            let missing = if shape.is_none() { "shape of one to four dimensions" } else { "dtype" };
            return Err(Error::new(ErrorKind::InvalidInput, format!("the data has no {missing}"))
                .with_hint("give `shape` and `dtype` together, or store the data as it is without them"));
        };
        let layout = ChunkLayout::new(format, shape, dtype)?;
        if layout.len != len {
            let message = format!("{dtype} {shape} is {} bytes, and the data has {len}", layout.len);
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        Ok(layout)
    }
}

impl Elements {
    /// The layout of these elements, if a store of these capabilities gives it back unchanged.
    fn kept(&self, can: &Capabilities) -> Option<ChunkLayout> {
        let layout = match &self.chunk {
            Some(layout) => layout.clone(),
            None => ChunkLayout::new(MemoryFormat::Undefined, self.shape?, self.dtype?).ok()?,
        };
        let keeps = |dtypes: &[Dtype]| {
            layout.groups.iter().all(|group| group.dtype.is_none_or(|dtype| dtypes.contains(&dtype)))
                // A store that keeps some dtypes only has LMCache's header, which loses the zeros at the end of a shape.
                && ChunkHeader::faithful(&layout).is_ok()
        };
        can.dtypes.is_none_or(keeps).then_some(layout)
    }
}

/// A name of torch or of LMCache's keys, or a dtype of torch, numpy or ml_dtypes.
///
/// # Errors
/// `InvalidError` for anything else.
fn dtype_of(dtype: &Bound<'_, PyAny>) -> PyResult<Dtype> {
    let py = dtype.py();
    let name = match dtype.cast::<PyType>() {
        // `numpy.float32`. The type `float` has eight bytes in numpy and four in torch.
        Ok(class) if class.module()?.to_str()? != "builtins" => class.name()?,
        _ => dtype.str()?,
    };
    let named = name.to_str().ok().and_then(|name| name.parse::<Dtype>().ok());
    named.ok_or_else(|| {
        let name = if dtype.is_instance_of::<PyString>() { name.to_string() } else { dtype.to_string() };
        invalid(py, format!("`{name}` is not a dtype; write one of {}", Dtype::ALL.map(Dtype::torch_name).join(" ")))
    })
}
