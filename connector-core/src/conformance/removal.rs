//! What is taken away.

use super::subject::{Checked, Subject, ensure};
use crate::KeyKind;

pub(super) async fn remove_says_whether_it_was_there(s: &Subject) -> Checked {
    s.needs_remove()?;
    for kind in [KeyKind::Engine, KeyKind::Layer, KeyKind::Object] {
        let (key, value) = (s.names.key(kind), s.value_for(kind, 1000)?);
        ensure!(!s.store.remove(&key).await?, "`remove` is true of `{key}`, which was never put");
        for _ in 0..2 {
            s.put(&key, &value).await?;
            s.expect(&key, &value).await?;
            ensure!(s.store.remove(&key).await?, "`remove` is false of `{key}`, which was put");
            s.expect_none(&key).await?;
            ensure!(!s.store.remove(&key).await?, "the second `remove` of `{key}` is true");
        }
    }
    Ok(())
}

pub(super) async fn removal_leaves_the_others(s: &Subject) -> Checked {
    s.needs_remove()?;
    let model = s.names.model();
    let mut stored = Vec::new();
    for tail in ["@1@0@1@half", "@1@0@11@half", "@1@0@1@half@1", "@1@0@1@half@t%1", "x@1@0@1@half"] {
        let text = format!("{model}{tail}");
        let kind = crate::CacheKey::parse(&text)?.kind();
        let (key, value) = (s.names.named(&text, kind)?, s.value_for(kind, 1000)?);
        s.put(&key, &value).await?;
        stored.push((key, value));
    }
    while let Some((key, _)) = stored.first() {
        ensure!(s.store.remove(key).await?, "`remove` is false of `{key}`, which was put");
        s.expect_none(key).await?;
        stored.remove(0);
        for (key, value) in &stored {
            s.expect(key, value).await?;
        }
    }
    Ok(())
}
