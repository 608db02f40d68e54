//! The way of the bytes out of the proxy: at once, or later and in order.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;

/// The most pieces that wait in a delay line. With pieces of 64 KiB, 16 MiB wait at most: 2 ms at 8 GiB/s.
const PIECES: usize = 256;

/// The end of a connection that the proxy writes to. `F` runs before bytes go to the system.
pub(super) struct Wire<F> {
    to: Way,
    leaves: F,
}

enum Way {
    Short(OwnedWriteHalf),
    /// Pieces wait for their latency in a line.
    Long(Duration, mpsc::Sender<Piece>),
}

/// Bytes, and when they are due.
type Piece = (Instant, Vec<u8>);

impl<F: Fn() + Clone> Wire<F> {
    /// A wire that delays every byte by `latency`, and the task that moves the delayed bytes.
    pub(super) fn new(
        to: OwnedWriteHalf,
        latency: Duration,
        leaves: F,
    ) -> (Self, impl Future<Output = io::Result<()>>) {
        let (to, line) = match latency.is_zero() {
            true => (Way::Short(to), None),
            false => {
                let (pieces, due) = mpsc::channel(PIECES);
                (Way::Long(latency, pieces), Some((due, to, leaves.clone())))
            }
        };
        let moving = async {
            match line {
                Some((due, to, leaves)) => move_pieces(due, to, leaves).await,
                None => Ok(()),
            }
        };
        (Self { to, leaves }, moving)
    }
}

impl<F: Fn()> Wire<F> {
    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.to {
            Way::Short(to) => {
                (self.leaves)();
                to.write_all(bytes).await
            }
            Way::Long(latency, pieces) => {
                let piece = (Instant::now() + *latency, bytes.to_vec());
                pieces.send(piece).await.map_err(io::Error::other)
            }
        }
    }

    /// Ends the direction after the bytes that wait.
    pub(super) async fn shutdown(self) -> io::Result<()> {
        match self.to {
            Way::Short(mut to) => to.shutdown().await,
            // The line ends with its sender.
            Way::Long(..) => Ok(()),
        }
    }
}

async fn move_pieces(mut due: mpsc::Receiver<Piece>, mut to: OwnedWriteHalf, leaves: impl Fn()) -> io::Result<()> {
    let mut timer = Timer::new()?;
    while let Some((at, bytes)) = due.recv().await {
        timer.wait_until(at).await?;
        leaves();
        to.write_all(&bytes).await?;
    }
    to.shutdown().await
}

/// A timer of the kernel, which tokio reads like a pipe. It fires within tens of microseconds on an idle machine. Tokio's own
/// timer fires up to 1 ms late.
struct Timer(Receiver);

impl Timer {
    fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Receiver::from_owned_fd_unchecked(timerfd_create(TimerfdClockId::Monotonic, flags)?).map(Self)
    }

    async fn wait_until(&mut self, at: Instant) -> io::Result<()> {
        let left = at.saturating_duration_since(Instant::now());
        // A time of 0 would stop the timer.
        if left.is_zero() {
            return Ok(());
        }
        let once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let it_value = Timespec::try_from(left).map_err(io::Error::other)?;
        let time = Itimerspec { it_interval: once, it_value };
        timerfd_settime(self.0.as_fd(), TimerfdTimerFlags::empty(), &time)?;
        self.0.read_u64().await.map(drop)
    }
}
