//! Serves the requests of one connection.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use super::fault::{Kind, Then};
use super::http::{Body, Connection, Head, Response};
use super::operation::{Operation, Target};
use super::refusal::Refusal;
use super::state::State;
use super::{Request, bucket, objects, signature, uploads};

/// Serves until the client or the server closes the connection.
///
/// # Errors
/// The connection's error.
pub(super) fn serve(state: &Mutex<State>, connection: &mut Connection) -> io::Result<()> {
    while let Some(head) = connection.head()? {
        let keep = answer(state, connection, &head)?;
        if !keep || head.header("connection") == Some("close") {
            break;
        }
    }
    Ok(())
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers one request. Gives whether the connection can serve another one.
fn answer(state: &Mutex<State>, connection: &mut Connection, head: &Head) -> io::Result<bool> {
    let parsed = Target::of(head).and_then(|target| Ok((target, head.content_length()?)));
    let (target, len) = match parsed {
        Ok(parsed) => parsed,
        Err(refusal) => {
            // The length of the body may be unknown.
            write(connection, &refusal.response(), head.method == "HEAD", None)?;
            return Ok(false);
        }
    };
    let (request, fault) = {
        let mut state = lock(state);
        let request = state.requests.len();
        state.requests.push(Request::new(head, &target));
        (request, state.fault(target.operation, &target.key))
    };
    let received = |body: &[u8]| {
        let mut state = lock(state);
        let keep = state.keep_bodies;
        // `forget_requests` may have removed it.
        if let Some(request) = state.requests.get_mut(request) {
            request.bytes += body.len();
            if keep {
                request.body.extend_from_slice(body);
            }
        }
    };
    if let Some(Kind::Close) = fault {
        return Ok(false);
    }
    // Without this line, the client waits before it sends the body.
    if head.header("expect").is_some() {
        connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    if let Some(Kind::Early { refusal, after, then }) = &fault {
        let first = len.min(*after);
        received(&connection.body(first)?);
        let mut response = refusal.response();
        // S3 closes the connection, too. Otherwise the client may send its next request to a server that does not read.
        if *then != Then::ReadOn && first < len {
            response = response.header("Connection", "close");
        }
        write(connection, &response, head.method == "HEAD", None)?;
        if first == len {
            return Ok(*then != Then::Close);
        }
        match then {
            Then::ReadOn => received(&connection.body(len - first)?),
            Then::Stall => connection.wait_for_hangup(),
            Then::Close => {}
        }
        return Ok(*then == Then::ReadOn);
    }

    let body = connection.body(len)?;
    received(&body);
    let response = match &fault {
        Some(Kind::Refuse(refusal)) => Err(refusal.clone()),
        Some(Kind::Answer { status, content_type, body }) => {
            let mut response = Response::foreign(*status).header("Content-Type", content_type);
            response.body = Body::Text(body.clone());
            Ok(response)
        }
        Some(Kind::Stall) => {
            connection.wait_for_hangup();
            return Ok(false);
        }
        _ => handle(&mut lock(state), head, &target, body),
    };
    let response = response.unwrap_or_else(|refusal| refusal.response());
    if let Some(request) = lock(state).requests.get_mut(request) {
        request.status = Some(response.status);
    }
    write(connection, &response, head.method == "HEAD", fault.as_ref())
}

/// Writes the response, as the fault says. Gives whether the connection can serve another request.
fn write(connection: &mut Connection, response: &Response, is_head: bool, fault: Option<&Kind>) -> io::Result<bool> {
    let bytes = response.bytes();
    // A `204` and a `304` have neither body nor length.
    let has_body = !matches!(response.status, 204 | 304);
    let length = |len: usize| if has_body { format!("Content-Length: {len}\r\n") } else { String::new() };
    let body = if is_head { &[] } else { bytes };
    let cut = |connection: &mut Connection, after: usize| {
        connection.write(response.head(&length(bytes.len())).as_bytes())?;
        connection.write(&body[..body.len().min(after)])
    };
    match fault {
        Some(Kind::LoseAnswer) => return Ok(false),
        Some(Kind::BodyCut { after }) => {
            cut(connection, *after)?;
            return Ok(false);
        }
        Some(Kind::BodyStall { after }) => {
            cut(connection, *after)?;
            if body.len() > *after {
                connection.wait_for_hangup();
                return Ok(false);
            }
        }
        Some(Kind::BodyDrip { bytes: part, every }) => {
            connection.write(response.head(&length(bytes.len())).as_bytes())?;
            for part in body.chunks(*part) {
                thread::sleep(*every);
                connection.write(part)?;
            }
        }
        Some(Kind::Length(difference)) => {
            connection.write(response.head(&length(bytes.len().saturating_add_signed(*difference))).as_bytes())?;
            connection.write(body)?;
            return Ok(false);
        }
        Some(Kind::FlipByte { at }) if *at < body.len() => {
            let mut changed = body.to_vec();
            changed[*at] ^= 1;
            connection.write(response.head(&length(bytes.len())).as_bytes())?;
            connection.write(&changed)?;
        }
        Some(Kind::Chunked) if has_body => {
            connection.write(response.head("Transfer-Encoding: chunked\r\n").as_bytes())?;
            for part in body.chunks(64 << 10) {
                connection.write(format!("{:x}\r\n", part.len()).as_bytes())?;
                connection.write(part)?;
                connection.write(b"\r\n")?;
            }
            if !is_head {
                connection.write(b"0\r\n\r\n")?;
            }
        }
        _ => {
            if let Some(Kind::Delay(by)) = fault {
                thread::sleep(*by);
            }
            connection.write(response.head(&length(bytes.len())).as_bytes())?;
            connection.write(body)?;
        }
    }
    Ok(true)
}

/// Serves a request without a fault.
fn handle(state: &mut State, head: &Head, target: &Target, body: Vec<u8>) -> Result<Response, Refusal> {
    let Target { operation, bucket: name, key } = target;
    signature::check(state, head, name, &body)?;
    let (now, page, id) = (state.now(), state.page, state.next_id());
    match operation {
        Operation::ListBuckets => Ok(state.list_buckets()),
        Operation::CreateBucket => state.create_bucket(name),
        Operation::DeleteBucket => state.delete_bucket(name),
        Operation::CreateSession => state.create_session(name, &id),
        Operation::HeadBucket => {
            state.bucket(name)?;
            Ok(Response::new(200).header("x-amz-bucket-region", &state.region))
        }
        Operation::GetBucketLocation => {
            state.bucket(name)?;
            Ok(Response::xml(format!("<LocationConstraint>{}</LocationConstraint>", state.region)))
        }
        Operation::Get | Operation::Head => objects::get(state.bucket(name)?, key, head),
        Operation::Put => objects::put(state.bucket(name)?, key, head, body, now),
        Operation::Delete => {
            state.bucket(name)?.objects.remove(key);
            Ok(Response::new(204))
        }
        Operation::DeleteObjects => bucket::delete_objects(state.bucket(name)?, head, &body),
        Operation::List => bucket::list(state.bucket(name)?, name, head, page),
        Operation::CreateUpload => uploads::create(state.bucket(name)?, name, key, id, head),
        Operation::UploadPart => uploads::put_part(state.bucket(name)?, key, head, body, now),
        Operation::CompleteUpload => uploads::complete(state.bucket(name)?, name, key, head, &body, now),
        Operation::AbortUpload => uploads::abort(state.bucket(name)?, head),
        Operation::ListUploads => Ok(uploads::list(state.bucket(name)?, name)),
    }
}
