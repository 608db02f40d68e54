//! A file while it is written: under a name that no other writer has and no reader looks for, renamed when it is whole.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::io::{self, IoSlice, Write};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use connector_core::{Error, Result};

/// Removes what it wrote when it is dropped before [`finish`](Self::finish).
pub(super) struct Writing {
    file: File,
    tmp: PathBuf,
    path: PathBuf,
    renamed: bool,
}

impl Writing {
    /// Makes an empty file in `dir`, to become `path`.
    pub(super) fn begin(dir: &Path, path: PathBuf) -> Result<Self> {
        /// Tells processes apart that share a process id, as containers on one directory do.
        static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()));
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let tmp = dir.join(format!(".kvconn-{}-{:016x}-{n}.tmp", std::process::id(), *PROCESS));
        let file = File::create_new(&tmp).map_err(|e| failed(e, "create", &tmp, &path))?;
        Ok(Self { file, tmp, path, renamed: false })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Writes both, one behind the other: by one system call in the usual case.
    pub(super) fn write(&mut self, header: &[u8], bytes: &[u8]) -> Result<()> {
        let mut write_both = || {
            let written = loop {
                match self.file.write_vectored(&[IoSlice::new(header), IoSlice::new(bytes)]) {
                    Ok(n) => break n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            };
            let of_header = written.min(header.len());
            self.file.write_all(&header[of_header..])?;
            self.file.write_all(&bytes[written - of_header..])
        };
        write_both().map_err(|e| failed(e, "write", &self.tmp, &self.path))
    }

    /// Gives the file its name, in place of one that had it.
    pub(super) fn finish(mut self) -> Result<()> {
        std::fs::rename(&self.tmp, &self.path).map_err(|e| failed(e, "rename", &self.tmp, &self.path))?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = std::fs::remove_file(&self.tmp);
        }
    }
}

fn failed(e: io::Error, step: &str, tmp: &Path, path: &Path) -> Error {
    Error::io(e, format_args!("{step} `{}` for `{}`", tmp.display(), path.display()))
}
