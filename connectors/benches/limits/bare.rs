//! The bare system calls, which move the same bytes.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;

use connectors::{CacheKey, MemoryObj, MemoryObjMut};

/// Redis requests on sockets.
pub(crate) struct Sockets {
    connections: Vec<BufReader<TcpStream>>,
    /// The requests that wait for their replies on each connection.
    window: usize,
}

impl Sockets {
    pub(crate) fn connect(address: SocketAddr, connections: usize, window: usize) -> io::Result<Self> {
        let connect = |_| {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            // Only heads of replies go through the buffer: a chunk is larger, so it is read into its place.
            Ok(BufReader::with_capacity(32, stream))
        };
        Ok(Self { connections: (0..connections).map(connect).collect::<io::Result<_>>()?, window })
    }

    pub(crate) fn set(&mut self, items: &mut [(CacheKey, MemoryObj)]) -> io::Result<()> {
        let request = |stream: &mut TcpStream, (key, chunk): &(CacheKey, MemoryObj)| {
            let key = key.to_string();
            let head = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n", key.len(), chunk.len());
            write_all(stream, &mut [head.as_bytes(), chunk, b"\r\n"].map(IoSlice::new))
        };
        self.spread(items, request, |stream, _| expect(stream, "+OK\r\n"))
    }

    pub(crate) fn get(&mut self, requests: &mut [(CacheKey, MemoryObjMut)]) -> io::Result<()> {
        let request = |stream: &mut TcpStream, (key, _): &(CacheKey, MemoryObjMut)| {
            let key = key.to_string();
            stream.write_all(format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len()).as_bytes())
        };
        self.spread(requests, request, |stream, (_, memory)| {
            expect(stream, &format!("${}\r\n", memory.len()))?;
            stream.read_exact(memory)?;
            expect(stream, "\r\n")
        })
    }

    /// One thread. Reads a reply while the replies of other connections arrive, so the thread seldom sleeps.
    fn spread<T>(
        &mut self,
        all: &mut [T],
        request: impl Fn(&mut TcpStream, &T) -> io::Result<()>,
        reply: impl Fn(&mut BufReader<TcpStream>, &mut T) -> io::Result<()>,
    ) -> io::Result<()> {
        let connections = self.connections.len();
        let ahead = (connections * self.window).min(all.len());
        for i in 0..all.len() + ahead {
            if let Some(answered) = i.checked_sub(ahead) {
                reply(&mut self.connections[answered % connections], &mut all[answered])?;
            }
            if let Some(one) = all.get(i) {
                request(self.connections[i % connections].get_mut(), one)?;
            }
        }
        Ok(())
    }
}

fn write_all(stream: &mut TcpStream, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
    while !parts.is_empty() {
        let written = stream.write_vectored(parts)?;
        IoSlice::advance_slices(&mut parts, written);
    }
    Ok(())
}

fn expect(stream: &mut BufReader<TcpStream>, wanted: &str) -> io::Result<()> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    if line == wanted { Ok(()) } else { Err(io::Error::other(format!("{line:?} instead of {wanted:?}"))) }
}

/// Files: `open`, `write` and `rename`; `open`, `read` and `close`. One thread makes the calls.
pub(crate) struct Files(pub(crate) PathBuf);

impl Files {
    pub(crate) fn set(&self, items: &[(CacheKey, MemoryObj)]) -> io::Result<()> {
        let temporary = self.0.join("temporary");
        items.iter().try_for_each(|(key, chunk)| {
            File::create(&temporary)?.write_all(chunk)?;
            fs::rename(&temporary, self.path(key))
        })
    }

    pub(crate) fn get(&self, requests: &mut [(CacheKey, MemoryObjMut)]) -> io::Result<()> {
        requests.iter_mut().try_for_each(|(key, memory)| File::open(self.path(key))?.read_exact(memory))
    }

    fn path(&self, key: &CacheKey) -> PathBuf {
        self.0.join(key.to_string())
    }
}
