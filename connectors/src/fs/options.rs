use std::path::PathBuf;

use connector_core::{ConnectorContext, ConnectorOptions, Error, ErrorKind, Result};
use schemars::JsonSchema;
use serde::Deserialize;

/// Options of `fs://`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FsOptions {
    /// Directories of the store, separated by commas; the URL's path if it has one. Required.
    pub base_path: Option<String>,
    /// Whether an in-process key's file starts with the chunk header, which keeps shape, dtype and format; true unless
    /// set. Layerwise mode forces it.
    pub save_chunk_meta: Option<bool>,
    /// Directory for files that are being written, relative to each base path; the base path itself unless set.
    pub relative_tmp_dir: Option<PathBuf>,
    /// How many bytes of a file the kernel is asked to read ahead when it is not in the page cache, at most.
    pub read_ahead_size: Option<u64>,
    /// LMCache's switch to pass the page cache by. Accepted, but not there yet: a warning is logged, and the page cache is
    /// used.
    pub use_odirect: bool,
}

impl ConnectorOptions for FsOptions {
    const EXTRA_CONFIG_PREFIX: &'static str = "fs_connector_";
    const EXTRA_CONFIG_SHARED: &'static [(&'static str, &'static str)] =
        &[("fs_base_path", "base_path"), ("save_chunk_meta", "save_chunk_meta")];
}

impl FsOptions {
    /// The directories, from the URL's path (of `fs://`) or the option.
    pub(super) fn base_paths(&self, ctx: &ConnectorContext) -> Result<Vec<PathBuf>> {
        let url = ctx.url();
        let in_url = (url.scheme() == "fs").then(|| url.path()).filter(|path| !path.is_empty());
        if url.scheme() == "fs"
            && let Some(host) = url.host()
            && url.port().is_none()
        {
            return Err(Error::new(ErrorKind::InvalidUrl, format!("`{url}` has the host `{host}`, but no port"))
                .with_hint(format!(
                    "for the directory `/{host}{}` write three slashes: `fs:///{host}{}`",
                    url.path(),
                    url.path()
                )));
        }
        if in_url.is_some() && url.query("base_path").is_some() {
            return Err(Error::new(ErrorKind::InvalidUrl, format!("`{url}` gives the directory twice"))
                .with_hint("leave out the path or the option `base_path`"));
        }
        let text = in_url.or(self.base_path.as_deref()).ok_or_else(|| {
            Error::new(ErrorKind::InvalidUrl, format!("`{url}` names no directory"))
                .with_hint("write `fs:///path`, or set the option `base_path`")
        })?;
        let paths: Vec<PathBuf> = text.split(',').map(|p| PathBuf::from(p.trim())).collect();
        if paths.iter().any(|p| p.as_os_str().is_empty()) {
            return Err(Error::new(ErrorKind::InvalidUrl, format!("one of the directories in `{text}` is empty")));
        }
        Ok(paths)
    }

    /// The directory for temporary files, checked as LMCache checks it.
    pub(super) fn tmp_dir(&self) -> Result<Option<PathBuf>> {
        match &self.relative_tmp_dir {
            Some(dir) if dir.is_absolute() || dir.components().any(|c| c == std::path::Component::ParentDir) => {
                Err(Error::new(
                    ErrorKind::InvalidOption,
                    format!("option `relative_tmp_dir`: `{}` does not lie below the base path", dir.display()),
                )
                .with_hint("write a relative path without `..`: a rename works within one file system only"))
            }
            other => Ok(other.clone()),
        }
    }
}
