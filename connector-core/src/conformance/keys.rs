//! Keys: odd ones, long ones and similar ones.

use super::subject::{Checked, Subject, ensure, failed, is_refusal, skip};
use super::value::Value;
use crate::{CacheKey, KeyKind, MemoryObj};

/// The kit does not try a longer limit: such keys would fill memory, the store and the report.
const MAX_TRIED: usize = 1 << 20;

/// Odd ends of the model's name.
#[rustfmt::skip]
const ODD_MODELS: [&str; 22] = [
    "/Llama-3.1-8B", "/a/b/c//d/", "/../../escape", "/..", "/.", ".hidden", " with spaces", "%2F%00%s%", "%", "-模型-é-😀",
    "e\u{301}", "?x=1&y#z", "\\back\\slash", "'quote\"s`", "*[a-z]{1}", "$HOME;true", ":6379", "\ttab", "line\nbreak",
    "\u{7f}", ".data", "--",
];

/// Odd tags.
#[rustfmt::skip]
const ODD_TAGS: [&str; 9] = [
    "@user%alice", "@t%", "@t%a%b", "@a%1@b%2", "@%", "@t%模型/.. x", "@user%ann@example.com", "@t%x@1@0@ee@half", "@t%x ",
];

/// Ends of keys that differ little.
#[rustfmt::skip]
const SIMILAR: [&str; 31] = [
    "@1@0@1@half", "@1@0@11@half", "@1@0@111@half", "@1@0@a@half", "@1@1@1@half", "@11@0@1@half", "@1@10@1@half",
    "@1@0@1@float", "@1@0@1@bfloat16", "@1@0@1@half@0", "@1@0@1@half@1", "@1@0@1@half@10", "@1@0@1@half@a%1",
    "@1@0@1@half@a%11", "@1@0@1@half@b%1", "@1@0@1@half@a%1@b%1", "x@1@0@1@half", "X@1@0@1@half", "/x@1@0@1@half",
    " x@1@0@1@half", "@00000001@0@0001", "@00000001@1@0001", "@00000001@0@0001@s", "@00000001@0@0001@S",
    "@00000001@0@000001", "@00000010@0@0001", "@00000000@0@0001", "@00000000@0@000001", "@00000000@0@0001@s",
    "@00000000@0@0001@st", "x@00000000@0@0001",
];

pub(super) async fn odd_keys_are_kept_or_refused(s: &Subject) -> Checked {
    let model = s.names.model();
    let models = ODD_MODELS.iter().map(|odd| format!("{model}{odd}@1@0@1f2e@half"));
    // In an object key the model's name contains no `@`.
    let with_at = ["@example.com", "@01000100", "@1@0@ff@half", "@0x01000100"];
    let models = models.chain(with_at.iter().map(|odd| format!("{model}{odd}@1@0@1f2e@half")));
    let tags = ODD_TAGS.iter().map(|odd| format!("{model}@1@0@1f2e@half{odd}"));
    let mut keys = Vec::new();
    for text in models.chain(tags) {
        keys.push(s.names.named(&text, KeyKind::Engine)?);
    }
    for odd in ODD_MODELS {
        keys.push(s.names.named(&format!("{model}{odd}@00000000@0@1f2e"), KeyKind::Object)?);
    }
    keys.push(s.names.named(&format!("{model}@00000000@0@1f2e@salt of %2F 模"), KeyKind::Object)?);
    let mut kept = Vec::new();
    for key in keys {
        let value = s.value_for(key.kind(), 600)?;
        if kept_or_refused(s, &key, &value).await? {
            ensure!(s.kinds().contains(&key.kind()), "the store declares object keys only, but takes `{key}`");
            kept.push((key, value));
        }
    }
    // Now that all keys are stored, none may have replaced another.
    for (key, value) in &kept {
        s.expect(key, value).await?;
    }
    Ok(())
}

pub(super) async fn long_keys_are_kept_or_refused(s: &Subject) -> Checked {
    for len in [150, 250, 300, 1100] {
        for &kind in s.kinds() {
            let key = long(s, kind, len)?;
            let value = s.value_for(kind, 600)?;
            let kept = kept_or_refused(s, &key, &value).await?;
            // A store that cuts names would find these keys.
            for at in [60, 128, 256, 512, 1024, len - 30].into_iter().filter(|at| *at <= len - 30) {
                let text = key.as_str();
                let neighbour = format!("{}n{}", &text[..at], &text[at + 1..]);
                refused_or_a_miss(s, &s.names.named(&neighbour, kind)?).await?;
            }
            // Some stores cannot tell the longest key.
            let declared = len <= s.can.max_key_bytes.unwrap_or(250);
            // The store's name of an object key may be longer than the key's text.
            ensure!(
                kept || !declared || kind == KeyKind::Object,
                "a key of {len} bytes is refused, but the store declares keys of up to {:?}",
                s.can.max_key_bytes
            );
        }
    }
    Ok(())
}

pub(super) async fn keys_over_the_limit_are_refused(s: &Subject) -> Checked {
    let limit = match s.can.max_key_bytes {
        None => skip!("the store declares no longest key"),
        Some(limit) if limit > MAX_TRIED => skip!("the longest key of {limit} bytes is too long to try"),
        Some(limit) => limit,
    };
    let shortest = s.key().as_str().len() + 1;
    ensure!(limit >= shortest, "the store declares keys of up to {limit} bytes, but this kit's keys have {shortest}");
    let value = s.value(600)?;
    let longest = long(s, s.kind(), limit)?;
    s.put_and_get(&longest, &value).await?;
    for over in [1, 2, 100] {
        let key = long(s, s.kind(), limit + over)?;
        let taken = s.put_or_refused(&key, &s.value(500)?).await?;
        ensure!(!taken, "the store takes a key of {} bytes, but declares keys of up to {limit}", limit + over);
        refused_or_a_miss(s, &key).await?;
    }
    s.expect(&longest, &value).await
}

pub(super) async fn every_hash_names_its_own_chunk(s: &Subject) -> Checked {
    let long = "fedcba98".repeat(8);
    let numbers = ["0", "1f2e", "-1f2e", "001f2e", "00001f2e", "-1", "1", "7fffffffffffffff", "-8000000000000000"];
    let hashes = ["00", "01", "0001", "1f2e00", &*long, &long[1..]];
    let mut texts = Vec::new();
    for hash in numbers.into_iter().chain(hashes) {
        texts.push(format!("{}{}", s.names.model(), s.tail(hash)));
    }
    // The store never sees a spelling that is not a key.
    texts.retain(|text| text.parse::<CacheKey>().is_ok());
    ensure!(texts.len() > 8, "only these keys of the kit are valid: {texts:?}");
    kept_apart(s, &texts).await
}

pub(super) async fn similar_keys_are_kept_apart(s: &Subject) -> Checked {
    let model = s.names.model();
    kept_apart(s, &SIMILAR.map(|tail| format!("{model}{tail}"))).await
}

pub(super) async fn escaped_keys_are_kept_apart(s: &Subject) -> Checked {
    let model = s.names.model();
    let pairs = [
        ("/b", "-SEP-b"),
        ("/c", "%2Fc"),
        ("/d", "_d"),
        ("/e", "\\e"),
        ("%2Ff", "%252Ff"),
        (" g", "%20g"),
        (" h", "+h"),
        (":i", "%3Ai"),
        ("\u{e9}", "e\u{301}"),
        ("\u{212a}", "K"),
        ("/j", "//j"),
        ("/k", "/./k"),
        ("/l/m/../n", "/l/n"),
    ];
    for (plain, escaped) in pairs {
        for (first, second) in [(plain, escaped), (escaped, plain)] {
            // Every round uses new keys, because not every store can remove them.
            let n = s.names.number();
            let tail = s.tail("1f2e");
            let named = |middle: &str| s.names.named(&format!("{model}{n}{middle}{tail}"), s.kind());
            let (first, second) = (named(first)?, named(second)?);
            let (value, other) = (s.value(700)?, s.value(800)?);
            if !kept_or_refused(s, &first, &value).await? {
                continue;
            }
            let mixed = format!("the store takes `{first}` and `{second}` for one key");
            ensure!(get_or_refused(s, &second).await?.is_none(), "{mixed}");
            kept_or_refused(s, &second, &other).await?;
            // The second put may have evicted the first key.
            let got = get_or_refused(s, &first).await?;
            s.expect_none_or_one_of(&first, got, &[&value]).map_err(|_| failed(mixed))?;
        }
    }
    Ok(())
}

/// `get`, where a refusal of the key is a miss.
async fn get_or_refused(s: &Subject, key: &CacheKey) -> Checked<Option<MemoryObj>> {
    match s.store.get(key).await {
        Err(e) if is_refusal(&e) => Ok(None),
        answer => Ok(answer?),
    }
}

/// Puts a different value under each key, and then reads all.
async fn kept_apart(s: &Subject, texts: &[String]) -> Checked {
    let mut stored = Vec::new();
    for text in texts {
        let kind = text.parse::<CacheKey>()?.kind();
        if !s.kinds().contains(&kind) {
            continue;
        }
        let (key, value) = (s.names.named(text, kind)?, s.value_for(kind, 600)?);
        refused_or_a_miss(s, &key).await?;
        // Such a store may have no name for a rank, a group or a salt.
        if s.can.object_keys_only && !s.put_or_refused(&key, &value).await? {
            continue;
        }
        s.put(&key, &value).await?;
        stored.push((key, value));
    }
    ensure!(stored.len() > 2, "the store takes only {} of the keys {texts:?}", stored.len());
    for (key, value) in &stored {
        s.expect(key, value).await?;
    }
    Ok(())
}

/// Checks that the store refuses the key or serves it as any other, and says whether it takes the key.
async fn kept_or_refused(s: &Subject, key: &CacheKey, value: &Value) -> Checked<bool> {
    if !s.put_or_refused(key, value).await? {
        refused_or_a_miss(s, key).await?;
        return Ok(false);
    }
    s.expect(key, value).await?;
    s.expect_exists(key).await?;
    if s.can.remove {
        s.remove(key).await?;
        s.put_and_get(key, value).await?;
    }
    Ok(true)
}

async fn refused_or_a_miss(s: &Subject, key: &CacheKey) -> Checked {
    let got = get_or_refused(s, key).await?;
    ensure!(got.is_none(), "`{key}` is not stored, but `get` gives {got:?}");
    match s.store.exists(key).await {
        Ok(exists) => ensure!(!exists, "`{key}` is not stored, but `exists` is true"),
        Err(e) if is_refusal(&e) => {}
        Err(e) => return Err(e.into()),
    }
    Ok(())
}

/// A key of exactly `bytes` bytes.
fn long(s: &Subject, kind: KeyKind, bytes: usize) -> Checked<CacheKey> {
    let n = s.names.number();
    let tail = match kind {
        KeyKind::Engine => format!("@1@0@{n:x}@half"),
        KeyKind::Object => format!("@00000000@0@{n:08x}"),
    };
    let padding = bytes.saturating_sub(s.names.model().len() + tail.len());
    s.names.named(&format!("{}{}{tail}", s.names.model(), "m".repeat(padding)), kind)
}
