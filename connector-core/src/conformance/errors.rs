//! The content of errors.

use super::subject::{Checked, Subject, ensure};
use crate::{Error, MemoryObjMut};

pub(super) async fn errors_say_where(s: &Subject) -> Checked {
    let (key, value) = s.put_new(1000).await?;
    let short = value.layout.len / 2;
    // The only error that every store gives.
    let one = s.store.get_into(&key, &mut MemoryObjMut::zeroed(short)).await;
    let other = s.key();
    let mut requests = [(other, MemoryObjMut::zeroed(short)), (key.clone(), MemoryObjMut::zeroed(short))];
    let many = s.store.batched_get_into(&mut requests).await;
    let mut errors: Vec<Error> = one.err().into_iter().chain(many.into_iter().filter_map(Result::err)).collect();
    ensure!(errors.len() == 2, "{} of 2 chunks that do not fit are errors", errors.len());
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
