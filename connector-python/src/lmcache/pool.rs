//! An allocator over LMCache's own CPU backend.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use connectors::{ChunkAllocator, ChunkLayout, Error, ErrorKind, MemoryFormat, MemoryObjMut, Result};
use futures::future::{BoxFuture, FutureExt};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use pyo3::{PyTraverseError, PyVisit};
use tokio::sync::oneshot;

use super::{layout, memory};
use crate::blocking::until;
use crate::errors::to_py;
use crate::process::ProcessId;
use crate::{lock, python_thread};

/// How often a waiting call asks LMCache for memory again. LMCache does not tell when others give memory back.
const RETRY: Duration = Duration::from_millis(100);
/// How long LMCache's shutdown waits for calls in flight before it leaves the pool's memory to the operating system.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// LMCache's `LocalCPUBackend` as an allocator.
///
/// The Python thread makes all calls to it. They never wait in LMCache's own `allocate`, which may wait for ever.
pub(super) struct Pool {
    /// `backend.allocate`
    allocate: Py<PyAny>,
    /// Keywords for `allocate`: evict, but do not wait.
    keywords: Py<PyDict>,
    heap: Option<usize>,
    timeout: Duration,
    waiting: Mutex<VecDeque<Request>>,
    last_try: Mutex<Instant>,
    /// LMCache's objects that connectors hold.
    lent: AtomicUsize,
    closed: AtomicBool,
    process: ProcessId,
}

struct Request {
    layouts: Vec<ChunkLayout>,
    reply: oneshot::Sender<Result<Vec<MemoryObjMut>>>,
}

impl Pool {
    /// The pool of `backend`, which all connectors on that backend share. A call waits for memory as long as `timeout`.
    pub(super) fn of(backend: &Bound<'_, PyAny>, timeout: Duration) -> PyResult<Arc<Self>> {
        let py = backend.py();
        let allocator = backend.getattr(intern!(py, "memory_allocator"))?;
        let close = allocator.getattr(intern!(py, "close"))?;
        let wrapped = PoolClose::of(&close)?;
        // LMCache may have closed an allocator before the first connector opened on it.
        let is_closed = match &wrapped {
            Some(close) => close.get().closed.load(Ordering::SeqCst),
            None => has_freed(&allocator),
        };
        if is_closed {
            return Err(to_py(py, &backend_closed()));
        }
        let pool = wrapped.as_ref().and_then(|close| lock(&close.get().pool).upgrade());
        // The pool of a forked child's parent does not count. Nor does one that closed while another thread opened it.
        if let Some(pool) = pool.filter(|pool| pool.process.is_current() && pool.check_open().is_ok()) {
            return Ok(pool);
        }
        let keywords = PyDict::new(py);
        keywords.set_item("eviction", true)?;
        keywords.set_item("busy_loop", false)?;
        let pool = Arc::new(Self {
            allocate: backend.getattr(intern!(py, "allocate"))?.unbind(),
            keywords: keywords.unbind(),
            heap: heap_of(&allocator),
            timeout,
            waiting: Mutex::default(),
            last_try: Mutex::new(Instant::now()),
            lent: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            process: ProcessId::current(),
        });
        match wrapped {
            Some(close) => *lock(&close.get().pool) = Arc::downgrade(&pool),
            // LMCache frees its pool before it closes its connectors.
            None => {
                let close = PoolClose {
                    pool: Mutex::new(Arc::downgrade(&pool)),
                    closed: AtomicBool::new(false),
                    original: close.unbind(),
                };
                allocator.setattr(intern!(py, "close"), Bound::new(py, close)?)?;
            }
        }
        Ok(pool)
    }

    /// Counts an object that a connector holds, until [`GivenBack`] is dropped.
    ///
    /// # Errors
    /// `Closed` once LMCache frees its memory, which a put that waited in LMCache's loop would read. The object counts as
    /// lent all the same.
    pub(super) fn lend(&self) -> Result<()> {
        // `PoolClose` sets `closed` before it reads `lent`, so at least one of the two sees the other.
        self.lent.fetch_add(1, Ordering::SeqCst);
        self.check_open()
    }

    /// # Errors
    /// `Closed` once LMCache frees its memory.
    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(backend_closed());
        }
        Ok(())
    }

    /// Serves waiting requests in their order until LMCache has no memory left.
    pub(super) fn serve(self: &Arc<Self>, py: Python<'_>) {
        loop {
            // The lock is not held while Python runs.
            let Some(request) = lock(&self.waiting).pop_front() else { return };
            if request.reply.is_closed() {
                continue;
            }
            *lock(&self.last_try) = Instant::now();
            match self.take(py, &request.layouts) {
                Ok(Some(chunks)) => drop(request.reply.send(Ok(chunks))),
                Ok(None) => {
                    lock(&self.waiting).push_front(request);
                    return;
                }
                Err(e) => drop(request.reply.send(Err(e))),
            }
        }
    }

    /// All of the chunks, or none.
    fn take(self: &Arc<Self>, py: Python<'_>, layouts: &[ChunkLayout]) -> Result<Option<Vec<MemoryObjMut>>> {
        let mut objects = Vec::with_capacity(layouts.len());
        let mut chunks = Vec::with_capacity(layouts.len());
        let taken = layouts.iter().try_for_each(|layout| {
            self.check_open().map_err(Some)?;
            let object = self.take_one(py, layout).map_err(|e| Some(gives_none(layout, &e)))?;
            objects.push(object.ok_or(None)?);
            Ok(())
        });
        let mut objects = objects.into_iter();
        let taken = taken.and_then(|()| {
            objects.by_ref().zip(layouts).try_for_each(|(object, layout)| {
                let chunk = memory::allocated(&object, layout, self);
                chunks.push(chunk.map_err(|e| Some(gives_none(layout, &e)))?);
                Ok(())
            })
        });
        // Not as chunks that are dropped: their drop serves waiting requests, and a request that got a part only would get
        // the same part again and again.
        objects.for_each(|object| memory::release(&object));
        match taken {
            Ok(()) => Ok(Some(chunks)),
            Err(None) => Ok(None),
            Err(Some(e)) => Err(e),
        }
    }

    fn take_one<'py>(&self, py: Python<'py>, layout: &ChunkLayout) -> PyResult<Option<Bound<'py, PyAny>>> {
        let arguments = layout::arguments(py, layout)?;
        let object = self.allocate.bind(py).call(arguments, Some(self.keywords.bind(py)))?;
        Ok((!object.is_none()).then_some(object))
    }

    /// # Errors
    /// `Unsupported`, `Corrupt`, `TooLarge`: LMCache could never give memory for these layouts.
    fn check(&self, layouts: &[ChunkLayout]) -> Result<()> {
        for layout in layouts {
            if matches!(layout.format, MemoryFormat::Binary | MemoryFormat::Undefined) {
                return Err(Error::new(ErrorKind::Unsupported, format!("LMCache holds no chunk of format {layout}")));
            }
            if layout.format != MemoryFormat::BinaryBuffer && !layout.is_consistent() {
                let message = format!("LMCache takes memory by shape and dtype, which give another length: {layout}");
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
        }
        // LMCache would evict every chunk for a request that cannot succeed.
        let bytes: usize = layouts.iter().map(|layout| layout.len).sum();
        match self.heap {
            Some(heap) if bytes > heap => Err(Error::new(
                ErrorKind::TooLarge,
                format!("{bytes} bytes are more than LMCache's whole CPU backend of {heap} bytes"),
            )
            .with_hint("raise `max_local_cpu_size`")),
            _ => Ok(()),
        }
    }

    async fn wait_for(self: Arc<Self>, layouts: Vec<ChunkLayout>) -> Result<Vec<MemoryObjMut>> {
        self.check(&layouts)?;
        let bytes: usize = layouts.iter().map(|layout| layout.len).sum();
        let (reply, mut answer) = oneshot::channel();
        lock(&self.waiting).push_back(Request { layouts, reply });
        let deadline = tokio::time::Instant::now() + self.timeout;
        loop {
            let pool = self.clone();
            python_thread::run(move |py| pool.serve(py));
            let gone = |_| Error::new(ErrorKind::Closed, "the interpreter exits");
            // Any waiting call asks again for all of them, once nothing was tried for that long.
            loop {
                if let Ok(answer) = tokio::time::timeout(RETRY, &mut answer).await {
                    return answer.map_err(gone)?;
                }
                if tokio::time::Instant::now() >= deadline {
                    return Err(self.full(bytes));
                }
                if lock(&self.last_try).elapsed() >= RETRY {
                    break;
                }
            }
        }
    }

    fn full(&self, bytes: usize) -> Error {
        let message = format!("LMCache's CPU backend had no room for {bytes} bytes within {:?}", self.timeout);
        Error::new(ErrorKind::PoolFull, message)
            .temporary(true)
            .with_hint("raise `max_local_cpu_size`, or find what pins its chunks")
    }
}

#[cold]
fn backend_closed() -> Error {
    Error::new(ErrorKind::Closed, "LMCache's CPU backend was closed")
}

fn gives_none(layout: &ChunkLayout, e: &PyErr) -> Error {
    Error::new(ErrorKind::Other, format!("LMCache's CPU backend gives no memory for {layout}: {e}"))
}

/// Counts one object as given back when it is dropped.
pub(super) struct GivenBack(pub(super) Arc<Pool>);

impl Drop for GivenBack {
    fn drop(&mut self) {
        self.0.lent.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whether LMCache's allocator says that it has freed its memory: `MixedMemoryAllocator` and `PinMemoryAllocator` do.
fn has_freed(allocator: &Bound<'_, PyAny>) -> bool {
    let freed = allocator.getattr(intern!(allocator.py(), "_unregistered"));
    freed.is_ok_and(|freed| freed.extract().unwrap_or(false))
}

/// Bytes of the whole pool, if LMCache says.
fn heap_of(allocator: &Bound<'_, PyAny>) -> Option<usize> {
    let size = allocator.getattr(intern!(allocator.py(), "size")).ok()?;
    size.extract().ok().filter(|size| *size > 0)
}

/// The pool as a `ChunkAllocator`.
pub(super) struct LMCacheAllocator(pub(super) Arc<Pool>);

impl ChunkAllocator for LMCacheAllocator {
    fn allocate<'a>(&'a self, layout: &'a ChunkLayout) -> BoxFuture<'a, Result<MemoryObjMut>> {
        let one = self.0.clone().wait_for(vec![layout.clone()]);
        let missing = || Error::new(ErrorKind::Other, "no memory came");
        async move { one.await?.pop().ok_or_else(missing) }.boxed()
    }

    fn allocate_many<'a>(&'a self, layouts: &'a [ChunkLayout]) -> BoxFuture<'a, Result<Vec<MemoryObjMut>>> {
        self.0.clone().wait_for(layouts.to_vec()).boxed()
    }

    fn fitting(&self, layouts: &[ChunkLayout]) -> usize {
        let mut room = self.0.heap;
        let fits = |layout: &&ChunkLayout| match &mut room {
            Some(room) => {
                let left = layout.len.checked_next_multiple_of(LMCACHE_ALIGN).and_then(|size| room.checked_sub(size));
                *room = left.unwrap_or(0);
                left.is_some()
            }
            None => true,
        };
        layouts.iter().take_while(fits).count()
    }
}

/// LMCache rounds the size of a block up to this many bytes (`AddressManager.ALIGN_BYTES`).
const LMCACHE_ALIGN: usize = 4096;

/// The allocator of LMCache's scheduler, which has no memory and only asks what exists.
pub(super) struct NoMemory;

impl ChunkAllocator for NoMemory {
    fn allocate<'a>(&'a self, _layout: &'a ChunkLayout) -> BoxFuture<'a, Result<MemoryObjMut>> {
        async { Err(no_memory()) }.boxed()
    }

    fn allocate_many<'a>(&'a self, _layouts: &'a [ChunkLayout]) -> BoxFuture<'a, Result<Vec<MemoryObjMut>>> {
        async { Err(no_memory()) }.boxed()
    }
}

fn no_memory() -> Error {
    Error::new(ErrorKind::Unsupported, "LMCache's scheduler has no CPU backend to read into")
}

/// Replaces the `close` of LMCache's memory allocator, and frees the memory only after all I/O into it has ended.
#[pyclass(frozen, module = "kvconn._kvconn")]
struct PoolClose {
    pool: Mutex<Weak<Pool>>,
    closed: AtomicBool,
    original: Py<PyAny>,
}

impl PoolClose {
    /// This library's own wrapper of `close`, perhaps below those of other wheels' libraries.
    fn of<'py>(close: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, Self>>> {
        let mut next = Some(close.clone());
        while let Some(close) = next {
            if let Ok(own) = close.cast::<Self>() {
                return Ok(Some(own.clone()));
            }
            let theirs = close.get_type().name()? == "PoolClose";
            next = if theirs { close.getattr_opt(intern!(close.py(), "original"))? } else { None };
        }
        Ok(None)
    }
}

#[pymethods]
impl PoolClose {
    /// The `close` that this replaces.
    #[getter]
    fn original(&self, py: Python<'_>) -> Py<PyAny> {
        self.original.clone_ref(py)
    }

    #[pyo3(signature = (*args, **kwargs))]
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.closed.store(true, Ordering::SeqCst);
        let pool = lock(&self.pool).upgrade();
        // A forked child does not wait for its parent's calls.
        if let Some(pool) = pool.filter(|pool| pool.process.is_current()) {
            pool.closed.store(true, Ordering::SeqCst);
            let given_back = |_| {
                std::thread::sleep(Duration::from_millis(1));
                (pool.lent.load(Ordering::SeqCst) == 0).then_some(())
            };
            py.detach(|| until(Some(Instant::now() + CLOSE_TIMEOUT), given_back))?;
            let lent = pool.lent.load(Ordering::SeqCst);
            if lent > 0 {
                // Connectors would write to freed memory. The system takes the memory back when the process ends.
                tracing::error!(chunks = lent, "LMCache's CPU memory is not freed: connectors still use it");
                return Ok(py.None().into_bound(py));
            }
        }
        self.original.bind(py).call(args, kwargs)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.original)
    }
}
