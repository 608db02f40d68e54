//! Removal.

use super::subject::{Checked, Subject, ensure};

pub(super) async fn remove_says_whether_it_was_there(s: &Subject) -> Checked {
    s.needs_remove()?;
    for &kind in s.kinds() {
        let (key, value) = (s.names.key(kind), s.value_for(kind, 1000)?);
        ensure!(!s.store.remove(&key).await?, "`remove` is true for `{key}`, which was never put");
        for _ in 0..2 {
            s.put_and_get(&key, &value).await?;
            s.remove(&key).await?;
            ensure!(!s.store.remove(&key).await?, "the second `remove` of `{key}` is true");
        }
    }
    Ok(())
}

pub(super) async fn removal_leaves_the_others(s: &Subject) -> Checked {
    s.needs_remove()?;
    let model = s.names.model();
    let mut stored = Vec::new();
    let engine = ["@1@0@1@half", "@1@0@11@half", "@1@0@1@half@1", "@1@0@1@half@t%1", "x@1@0@1@half"];
    let object = ["@00000000@0@01", "@00000000@0@0101", "@00000000@0@010101", "@00000000@0@02", "x@00000000@0@01"];
    for tail in if s.can.object_keys_only { object } else { engine } {
        let text = format!("{model}{tail}");
        let kind = text.parse::<crate::CacheKey>()?.kind();
        let (key, value) = (s.names.named(&text, kind)?, s.value_for(kind, 1000)?);
        s.put(&key, &value).await?;
        stored.push((key, value));
    }
    while let Some((key, _)) = stored.first() {
        s.remove(key).await?;
        stored.remove(0);
        for (key, value) in &stored {
            s.expect(key, value).await?;
        }
    }
    Ok(())
}
