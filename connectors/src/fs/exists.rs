//! Lookups: a key exists if a get would find its chunk.

use std::io;

use connector_core::{CacheKey, ErrorKind, Result, raw_layout};

use super::batch::{Share, Step};
use super::connector::FSConnector;
use super::dirs::Opened;
use super::files::Files;
use super::folder::{Stat, Wait};
use super::read::{self, Cache, Lookup, Purpose};
use super::threads::Pace;

/// Keys that a thread takes at once.
const KEYS_AT_ONCE: usize = 64;

impl FSConnector {
    pub(super) async fn is_there(&self, key: &CacheKey) -> Result<bool> {
        if let Some(exists) = self.files.exists(&mut self.files.dirs.opened(), key, Wait::No)? {
            return Ok(exists);
        }
        let key = key.clone();
        self.asking(move |files, _| exists(files, &mut files.dirs.opened(), &key)).await
    }

    pub(super) async fn all_exist(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        let warm = if self.files.cache == Cache::Memory { keys.len().div_ceil(2 * KEYS_AT_ONCE) } else { 0 };
        self.each(keys.to_vec(), Share { at_once: KEYS_AT_ONCE, warm }, |files, opened, key, wait, work| {
            if work.is_cancelled() {
                return Step::Done(Ok(false));
            }
            match files.exists(opened, &key, wait) {
                Ok(Some(exists)) => Step::Done(Ok(exists)),
                Ok(None) => Step::WouldWait(key),
                Err(e) => Step::Done(Err(e)),
            }
        })
        .await
    }

    /// The length of the leading run. Stops at the first key that is missing.
    pub(super) async fn leading_run(&self, keys: &[CacheKey]) -> Result<usize> {
        let mut run = 0;
        if self.files.cache == Cache::Memory {
            let (mut opened, mut pace) = (self.files.dirs.opened(), Pace::new());
            while let Some(key) = keys.get(run) {
                match self.files.exists(&mut opened, key, Wait::No) {
                    Ok(Some(true)) => run += 1,
                    Ok(None) => break,
                    Err(e) if run == 0 => return Err(e),
                    Ok(Some(false)) | Err(_) => return Ok(run),
                }
                pace.pause().await;
            }
        }
        if run == keys.len() {
            return Ok(run);
        }
        let rest = keys[run..].to_vec();
        self.asking(move |files, work| {
            let mut opened = files.dirs.opened();
            for (n, key) in rest.iter().enumerate() {
                match exists(files, &mut opened, key) {
                    Ok(true) if !work.is_cancelled() => {}
                    Err(e) if run + n == 0 => return Err(e),
                    _ => return Ok(run + n),
                }
            }
            Ok(run + rest.len())
        })
        .await
    }
}

fn exists(files: &Files, opened: &mut Opened<'_>, key: &CacheKey) -> Result<bool> {
    files.exists(opened, key, Wait::Yes).map(|exists| exists.unwrap_or(false))
}

impl Files {
    /// Whether a get would find a chunk; `None` if that is not known without waiting.
    fn exists(&self, opened: &mut Opened<'_>, key: &CacheKey, wait: Wait) -> Result<Option<bool>> {
        // On other file systems a client may answer a `stat` from memory, where an `open` asks the server.
        if self.cache != Cache::Never
            && self.is_raw(key)
            && let Some(exists) = self.raw_exists(opened, key, wait)?
        {
            return Ok(Some(exists));
        }
        match self.find(opened, key, Purpose::Inspect, wait) {
            Ok(Lookup::Found(_)) => Ok(Some(true)),
            Ok(Lookup::Miss) => Ok(Some(false)),
            Ok(Lookup::WouldWait) => Ok(None),
            Err(e) if e.kind() == ErrorKind::Corrupt => Ok(Some(false)),
            Err(e) => Err(e),
        }
    }

    /// The length of a raw file tells whether it holds a chunk, so it is not opened. `None` if only an open can tell.
    fn raw_exists(&self, opened: &mut Opened<'_>, key: &CacheKey, wait: Wait) -> Result<Option<bool>> {
        let place = self.place(key)?;
        let mut stat = || {
            let (folder, name) = opened.folder_of(&place, wait)?;
            let wait = self.wait_below(wait);
            let stat = folder.state(name, wait)?.filter(Stat::is_file);
            // Every user may read most files; only the others need the second call.
            let is_readable = stat.is_none_or(|stat| stat.mode & 0o444 == 0o444);
            if !is_readable && wait == Wait::Yes {
                folder.is_readable(name)?;
            }
            Ok((stat, is_readable || wait == Wait::Yes))
        };
        match stat() {
            Ok((stat, true)) => {
                Ok(Some(stat.is_some_and(|stat| raw_layout(self.metadata.as_deref(), read::len(&stat)).is_ok())))
            }
            Ok((_, false)) => Ok(None),
            Err(e) if io::Error::kind(&e) == io::ErrorKind::NotFound => Ok(Some(false)),
            Err(_) if wait == Wait::No => Ok(None),
            Err(e) => Err(self.failed(&place, "look at", e)),
        }
    }
}
