//! One entry of an archive.

use std::io::{self, Read, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use connectors::chunk::Groups;
use connectors::{CacheKey, ChunkLayout, Dtype, Error, ErrorKind, Group, KeyKind, MemoryObj, Shape};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};

/// The PAX records of a chunk: extended attributes, which every `tar` knows. The key is percent-encoded, because readers
/// of PAX records take a line break as the end of a record.
const KEY: &str = "SCHILY.xattr.user.kvconn.key";
const KIND: &str = "SCHILY.xattr.user.kvconn.kind";
const FORMAT: &str = "SCHILY.xattr.user.kvconn.format";
/// A dtype and a shape for each group of layers: `float16 2,12,256,768; bfloat16 2,4,256,768`.
const GROUPS: &str = "SCHILY.xattr.user.kvconn.groups";

/// The name of the last entry.
const CONTENTS: &str = "kvconn-contents.json";
/// The most bytes of that entry.
const CONTENTS_BYTES: u64 = 64 << 10;
/// The most bytes of the records of one chunk. A key is much shorter.
const RECORDS_BYTES: u64 = 1 << 20;
/// The most bytes of a name in a header of 1988. A PAX record has longer names.
const SHORT_NAME: usize = 100;
/// Characters that a file's name may have everywhere.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'@').remove(b'.').remove(b'_').remove(b'-');
/// Memory for a chunk before its bytes come. The size in a header may be wrong.
const FIRST_BYTES: u64 = 64 << 20;

/// The chunks of an archive, in its last entry.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Contents {
    pub(super) chunks: u64,
    pub(super) bytes: u64,
    /// Chunks of the store that kvconn could not read.
    #[serde(default)]
    pub(super) failed: u64,
}

/// An entry that was read.
pub(super) enum Found {
    /// A chunk, or why it cannot be copied.
    Chunk(CacheKey, Result<MemoryObj, Error>),
    /// A chunk that is not wanted.
    Other,
    Contents(Contents),
}

pub(super) fn append(tar: &mut tar::Builder<impl Write>, key: &CacheKey, chunk: &MemoryObj) -> io::Result<()> {
    let encoded = utf8_percent_encode(key.as_str(), PLAIN).to_string();
    let name = format!("{encoded}.chunk");
    let layout = chunk.layout();
    let group = |group: &Group| {
        let dims: Vec<String> = group.shape.iter().map(usize::to_string).collect();
        format!("{} {}", group.dtype.map_or("none", Dtype::torch_name), dims.join(","))
    };
    let groups = layout.groups.iter().map(group).collect::<Vec<_>>().join("; ");
    let kind = match key.kind() {
        KeyKind::Object => "object",
        _ => "engine",
    };
    let records = [("path", &*name), (KEY, &*encoded), (KIND, kind), (FORMAT, layout.format.name()), (GROUPS, &groups)];
    tar.append_pax_extensions(records.map(|(name, value)| (name, value.as_bytes())))?;
    // Percent-encoding leaves only ASCII.
    tar.append(&header(&name[..name.len().min(SHORT_NAME)], chunk.len())?, &**chunk)
}

pub(super) fn append_contents(tar: &mut tar::Builder<impl Write>, contents: &Contents) -> io::Result<()> {
    let json = serde_json::to_vec_pretty(contents)?;
    tar.append(&header(CONTENTS, json.len())?, &*json)
}

fn header(name: &str, len: usize) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_size(len as u64);
    header.set_mode(0o644);
    header.set_mtime(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()));
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(header)
}

/// The records of the next entry, if this entry holds them. An archive of other origin may claim any size.
pub(super) fn records(entry: &mut tar::Entry<'_, impl Read>) -> io::Result<Option<Vec<u8>>> {
    if !entry.header().entry_type().is_pax_local_extensions() {
        return Ok(None);
    }
    if entry.size() > RECORDS_BYTES {
        return Err(io::Error::other(format!("it has records of {} bytes, more than {RECORDS_BYTES}", entry.size())));
    }
    let mut records = Vec::new();
    entry.read_to_end(&mut records)?;
    Ok(Some(records))
}

/// Reads an entry with its records. A chunk has at most `most` bytes.
pub(super) fn read(
    entry: &mut tar::Entry<'_, impl Read>,
    records: &[u8],
    most: usize,
    is_wanted: impl Fn(&CacheKey) -> bool,
) -> io::Result<Found> {
    if &*entry.path_bytes() == CONTENTS.as_bytes() {
        let mut json = Vec::new();
        entry.take(CONTENTS_BYTES).read_to_end(&mut json)?;
        return Ok(Found::Contents(serde_json::from_slice(&json)?));
    }
    let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let wrong = |why: String| io::Error::other(format!("the entry `{name}` {why}"));
    let mut values: [Option<String>; 4] = Default::default();
    for record in tar::PaxExtensions::new(records) {
        let record = record?;
        let at = [KEY, KIND, FORMAT, GROUPS].iter().position(|name| record.key() == Ok(*name));
        if let Some(at) = at {
            let value = record.value().map_err(|_| wrong("has a record that is not UTF-8".into()))?;
            values[at] = Some(value.to_owned());
        }
    }
    let (true, [Some(key), Some(kind), Some(format), Some(groups)]) = (entry.header().entry_type().is_file(), values)
    else {
        return Err(wrong("is not a chunk with its key and layout".into()));
    };
    let invalid = |e: Error| wrong(format!("is wrong: {e}"));
    let kind = match &*kind {
        "object" => KeyKind::Object,
        "engine" => KeyKind::Engine,
        _ => return Err(wrong("has a key that is neither an engine's nor an object's".into())),
    };
    let key = percent_decode_str(&key).decode_utf8().map_err(|_| wrong("has a key that is not UTF-8".into()))?;
    let key = CacheKey::parse(&key, kind).map_err(invalid)?;
    if !is_wanted(&key) {
        return Ok(Found::Other);
    }
    let size = entry.size();
    if size > most as u64 {
        let why = format!("the archive's chunk has {size} bytes, more than the pool of {most}");
        let e = Error::new(ErrorKind::PoolFull, why).with_hint("raise `max_local_cpu_size` in the configuration");
        return Ok(Found::Chunk(key, Err(e)));
    }
    let mut bytes = Vec::with_capacity(size.min(FIRST_BYTES) as usize);
    entry.read_to_end(&mut bytes)?;
    if bytes.len() as u64 != size {
        return Err(wrong(format!("is cut short: {} of {size} bytes", bytes.len())));
    }
    Ok(Found::Chunk(key, chunk(bytes, &format, &groups)))
}

fn chunk(bytes: Vec<u8>, format: &str, groups: &str) -> Result<MemoryObj, Error> {
    let layout = ChunkLayout { format: format.parse()?, groups: groups_of(groups)?, len: bytes.len() };
    MemoryObj::from_vec(bytes, layout)
}

fn groups_of(text: &str) -> Result<Groups, Error> {
    let group = |text: &str| {
        let (dtype, shape) = text.trim().split_once(' ').unwrap_or((text, ""));
        let dtype = if dtype == "none" { None } else { Some(dtype.parse()?) };
        Ok(Group { shape: shape.parse::<Shape>()?, dtype })
    };
    let groups: Result<Vec<Group>, Error> = text.split(';').map(group).collect();
    Groups::new(&groups?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(chunks: &[(CacheKey, MemoryObj)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        chunks.iter().for_each(|(key, chunk)| append(&mut tar, key, chunk).expect("memory takes it"));
        append_contents(&mut tar, &Contents { chunks: chunks.len() as u64, ..Contents::default() })
            .expect("memory takes it");
        tar.into_inner().expect("memory takes it")
    }

    fn unpacked(bytes: &[u8], most: usize) -> io::Result<Vec<Found>> {
        let (mut found, mut before) = (Vec::new(), Vec::new());
        for entry in tar::Archive::new(bytes).entries()?.raw(true) {
            let mut entry = entry?;
            match records(&mut entry)? {
                Some(records) => before = records,
                None => found.push(read(&mut entry, &std::mem::take(&mut before), most, |_| true)?),
            }
        }
        Ok(found)
    }

    #[test]
    fn a_chunk_keeps_its_key_and_layout() {
        let long = format!("org/{}@00000001@0@1f2e", "m".repeat(300));
        let object = CacheKey::parse(&long, KeyKind::Object).expect("it is a key");
        let engine: CacheKey = "../é%a\nb=\0 c@1@0@ff@half".parse().expect("it is a key");
        let group =
            |dims: &[usize], dtype| Group { shape: Shape::new(dims).expect("it is a shape"), dtype: Some(dtype) };
        let groups = [group(&[2, 3], Dtype::Float16), group(&[4], Dtype::Uint8)];
        let layout = ChunkLayout::from_groups("KV_2LTD".parse().expect("it is a format"), &groups).expect("it fits");
        let chunk = MemoryObj::from_vec((0..16).collect(), layout).expect("it fits");
        let plain = MemoryObj::from(vec![7; 1000]);
        let found = unpacked(&packed(&[(object.clone(), chunk.clone()), (engine.clone(), plain.clone())]), 1000);
        let [Found::Chunk(k1, Ok(c1)), Found::Chunk(k2, Ok(c2)), Found::Contents(contents)] =
            &found.expect("it is whole")[..]
        else {
            panic!("there are two chunks and the end");
        };
        assert_eq!((k1, k1.kind(), c1.layout(), &**c1), (&object, KeyKind::Object, chunk.layout(), &*chunk));
        assert_eq!((k2, k2.kind(), c2.layout(), &**c2), (&engine, KeyKind::Engine, plain.layout(), &*plain));
        assert_eq!(contents.chunks, 2);
    }

    #[test]
    fn a_chunk_over_the_limit_fails_alone() {
        let [long, short] = ["m@1@0@ff@half", "m@1@0@fe@half"].map(|key| key.parse::<CacheKey>().expect("it is a key"));
        let bytes = packed(&[(long, MemoryObj::from(vec![7; 3000])), (short, MemoryObj::from(vec![7; 2999]))]);
        let found = unpacked(&bytes, 2999).expect("the archive is whole");
        let [Found::Chunk(_, Err(e)), Found::Chunk(_, Ok(_)), Found::Contents(_)] = &found[..] else {
            panic!("the second chunk fits");
        };
        assert!(e.message().contains("3000 bytes, more than the pool"), "{e}");
    }

    #[test]
    fn a_chunk_with_a_wrong_layout_fails_alone() {
        for (format, groups) in [("KV_9X", "none 2"), ("KV_2LTD", "float99 2"), ("KV_2LTD", "float16 2,x")] {
            let e = chunk(vec![7; 2], format, groups).expect_err("the layout is wrong");
            assert!(!e.message().is_empty(), "{format}, {groups}: {e}");
        }
    }

    #[test]
    fn a_cut_and_an_entry_without_a_key_are_errors() {
        let key: CacheKey = "m@1@0@ff@half".parse().expect("it is a key");
        let bytes = packed(&[(key, MemoryObj::from(vec![7; 3000]))]);
        for cut in [1200, 2000, 3000] {
            unpacked(&bytes[..cut], 3000).err().expect("it is cut");
        }
        let mut tar = tar::Builder::new(Vec::new());
        tar.append(&header("notes.txt", 2).expect("it is short"), &b"hi"[..]).expect("memory takes it");
        let e = unpacked(&tar.into_inner().expect("memory takes it"), 3000).err().expect("it is not a chunk");
        assert!(e.to_string().contains("`notes.txt` is not a chunk"), "{e}");
    }
}
