use std::path::{Component, PathBuf};

use connector_core::{ConnectorContext, ConnectorOptions, Error, ErrorKind, Namespace, Result, connector_options};

/// Options of `fs://`.
#[connector_options]
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct FsOptions {
    /// Directories of the store, separated by commas. Required, unless the URL has a path.
    pub base_path: Option<String>,
    /// The part of a shared store that this handle uses: a directory of this name in each base path. Handles with
    /// different namespaces never see each other's chunks. Unset, the files are in the base path itself, as in LMCache.
    pub namespace: Option<Namespace>,
    /// The program whose file names and contents the store uses: `lmcache`, `vllm` (the `fs` tier) or `sglang`
    /// (`HiCacheFile`).
    pub layout: Layout,
    /// Whether an in-process key's file starts with the chunk header, which keeps shape, dtype and format; true unless set.
    /// Layerwise mode forces it.
    pub save_chunk_meta: Option<bool>,
    /// Directory for files that are being written, relative to the directory of the chunks and on its file system; that
    /// directory itself unless set.
    pub relative_tmp_dir: Option<PathBuf>,
    /// Length of a first, separate read of a raw file, which makes some file systems read ahead.
    #[option(unit = "bytes")]
    pub read_ahead_size: Option<u64>,
    /// Whether values bypass the page cache (`O_DIRECT`). Needs `save_chunk_meta=false`. A value whose size is not a multiple
    /// of the file system's block still uses the page cache.
    pub use_odirect: bool,
    /// What a put waits for: `never` for nothing, `file` until the bytes are on the disk, `full` until the name is, too.
    pub fsync: Fsync,
    /// Largest size of the chunk files in all base paths together, of this namespace; the chunk used longest ago goes
    /// first. No limit unless set.
    #[option(unit = "bytes")]
    pub capacity: Option<u64>,
}

/// The program whose files a store has.
#[connector_options]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// LMCache: all keys.
    #[default]
    Lmcache,
    /// The `fs` tier of vLLM: object keys without a salt, in three levels of directories.
    Vllm,
    /// `HiCacheFile` of SGLang: object keys of rank 0 and group 0.
    Sglang,
}

/// What a put waits for.
#[connector_options]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Fsync {
    /// Nothing, as in LMCache. Every put survives the end of the process. After a power cut, a chunk of the last half minute
    /// may be missing, empty or zeros; with a header it is `Corrupt` then.
    #[default]
    Never,
    /// The file's bytes. After a power cut a chunk is complete or missing.
    File,
    /// The file's bytes and name. A put or remove that has ended survives a power cut.
    Full,
}

impl ConnectorOptions for FsOptions {
    const EXTRA_CONFIG_PREFIX: &'static str = "fs_connector_";
    const EXTRA_CONFIG_SHARED: &'static [(&'static str, &'static str)] =
        &[("fs_base_path", "base_path"), ("save_chunk_meta", "save_chunk_meta")];
}

impl FsOptions {
    /// The directories, from the URL's path or the option.
    pub(super) fn base_paths(&self, ctx: &ConnectorContext) -> Result<Vec<PathBuf>> {
        let location = ctx.location();
        let path = location.path();
        if location.scheme().is_some()
            && let Some(host) = location.host()
            && ctx.url().port().is_none()
        {
            return Err(Error::new(ErrorKind::InvalidUrl, format!("`{location}` has the host `{host}`, but no port"))
                .with_hint(format!("for the directory `/{host}{path}` write three slashes: `fs:///{host}{path}`")));
        }
        let in_url = Some(path).filter(|path| !path.is_empty());
        if in_url.is_some() && ctx.url().query("base_path").is_some() {
            return Err(Error::new(ErrorKind::InvalidUrl, format!("`{location}` gives the directory twice"))
                .with_hint("leave out the path or the option `base_path`"));
        }
        let text = in_url.or(self.base_path.as_deref()).ok_or_else(|| {
            Error::new(ErrorKind::InvalidUrl, format!("`{location}` names no directory"))
                .with_hint("write `fs:///path`, or set the option `base_path`")
        })?;
        let paths: Vec<PathBuf> = text.split(',').map(|p| PathBuf::from(p.trim())).collect();
        if paths.iter().any(|p| p.as_os_str().is_empty()) {
            return Err(Error::new(ErrorKind::InvalidUrl, format!("one of the directories in `{text}` is empty")));
        }
        if text.contains("://") {
            return Err(Error::new(ErrorKind::InvalidUrl, "one of the directories is a URL")
                .with_hint("write its path, `/var/cache/kv`"));
        }
        // The process may change its directory later.
        let absolute = |path: PathBuf| {
            std::path::absolute(&path)
                .map_err(|e| Error::io(e, format_args!("find the directory `{}`", path.display())))
        };
        paths.into_iter().map(absolute).collect()
    }

    /// The directory for temporary files, with LMCache's checks.
    pub(super) fn tmp_dir(&self) -> Result<Option<PathBuf>> {
        match &self.relative_tmp_dir {
            Some(dir) if dir.to_string_lossy().contains("://") => Err(Error::new(
                ErrorKind::InvalidOption,
                "option `relative_tmp_dir` is a URL, not a directory below the base path",
            )),
            Some(dir) if dir.is_absolute() || dir.components().any(|c| c == Component::ParentDir) => Err(Error::new(
                ErrorKind::InvalidOption,
                format!("option `relative_tmp_dir`: `{}` is not below the base path", dir.display()),
            )
            .with_hint("write a relative path without `..`: a rename works only within one file system")),
            other => Ok(other.clone()),
        }
    }

    /// Whether an in-process key's file starts with a header.
    pub(super) fn with_header(&self, ctx: &ConnectorContext) -> bool {
        self.layout == Layout::Lmcache && (ctx.config().use_layerwise || self.save_chunk_meta.unwrap_or(true))
    }

    /// Refuses options that contradict each other.
    pub(super) fn check(&self, ctx: &ConnectorContext) -> Result<()> {
        if self.layout != Layout::Lmcache {
            self.check_layout(ctx)?;
        }
        if self.use_odirect && self.with_header(ctx) {
            let hint = if ctx.config().use_layerwise {
                "layerwise mode forces headers: turn off `use_layerwise` or `use_odirect`"
            } else {
                "set `save_chunk_meta=false`, or turn off `use_odirect`"
            };
            return Err(Error::new(
                ErrorKind::InvalidOption,
                "option `use_odirect` needs files without a header: its length is not a multiple of a disk's block",
            )
            .with_hint(hint));
        }
        if self.capacity == Some(0) {
            return Err(Error::new(
                ErrorKind::InvalidOption,
                "option `capacity`: a store of 0 bytes cannot hold a chunk",
            )
            .with_hint("leave it out for no limit"));
        }
        Ok(())
    }

    /// Refuses options that do not fit another engine's files.
    fn check_layout(&self, ctx: &ConnectorContext) -> Result<()> {
        let (layout, writer) = (self.layout.as_str(), self.layout.writer());
        let refused = |why: String, hint: &'static str| Err(Error::new(ErrorKind::InvalidOption, why).with_hint(hint));
        if ctx.config().use_layerwise {
            let why =
                format!("option `layout={layout}`: layerwise mode has no object keys, and {writer} has no other files");
            return refused(why, "turn off `use_layerwise`, or leave out `layout`");
        }
        if self.save_chunk_meta == Some(true) {
            let why = format!("option `save_chunk_meta=true`: the files of `layout={layout}` have no header");
            return refused(why, "leave out `save_chunk_meta`");
        }
        if self.base_paths(ctx)?.len() > 1 {
            let why = format!("`layout={layout}` takes one base path: {writer} looks for all files in one directory");
            return refused(why, "give one directory");
        }
        Ok(())
    }
}
