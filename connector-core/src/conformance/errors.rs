//! The content of errors.

use super::subject::{Checked, Subject, ensure, skip};
use crate::{Error, KeyKind, MemoryObjMut};

pub(super) async fn errors_say_where(s: &Subject) -> Checked {
    let (mut key, value) = s.put_new(1000).await?;
    let short = value.layout.len / 2;
    if s.can.exact_length {
        if !s.can.object_keys_only {
            skip!("the store gives no error that the kit can cause");
        }
        key = s.names.key(KeyKind::Engine);
    }
    // The only error that every other store gives.
    let one = s.store.get_into(&key, &mut MemoryObjMut::zeroed(short)).await;
    let other = s.key();
    let mut requests = [(other, MemoryObjMut::zeroed(short)), (key.clone(), MemoryObjMut::zeroed(short))];
    let many = s.store.batched_get_into(&mut requests).await;
    let mut errors: Vec<Error> = one.err().into_iter().chain(many.into_iter().filter_map(Result::err)).collect();
    ensure!(errors.len() == 2, "{} of 2 chunks that do not fit, or keys of the wrong kind, are errors", errors.len());
    if !s.can.remove {
        errors.extend(s.store.remove(&key).await.err());
    }
    for e in errors {
        let operation = e.operation().unwrap_or_default();
        let known = ["get_into", "batched_get_into", "get", "remove"].contains(&operation);
        ensure!(known, "the error of a `get_into` or `remove` names the operation `{operation}`: {e}");
        ensure!(e.key() == Some(key.as_str()), "the error about `{key}` names the key {:?}: {e}", e.key());
        ensure!(e.connector().is_some_and(|c| !c.is_empty()), "the error names no connector: {e}");
        ensure!(!e.message().is_empty() && !e.message().contains('\n'), "the error is not one line: {:?}", e.message());
    }
    Ok(())
}
