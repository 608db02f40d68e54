//! Processes that end with this one, also when it is killed.

use std::io;
use std::process::{Child, Command};
use std::sync::{LazyLock, Mutex, PoisonError, mpsc};
use std::thread;

type Job = (Command, mpsc::Sender<io::Result<Child>>);

/// Linux kills such a process when the *thread* that started it ends. A test's thread may end long before its server is
/// done with (a server that several tests share), so that one thread, which never ends, starts them all.
static STARTER: LazyLock<Mutex<mpsc::Sender<Job>>> = LazyLock::new(|| {
    let (jobs, todo) = mpsc::channel::<Job>();
    thread::spawn(move || {
        for (mut command, answer) in todo {
            // The one who asked may be gone.
            let _ = answer.send(command.spawn());
        }
    });
    Mutex::new(jobs)
});

/// Starts `program`, set up by `configure`, so that it does not outlive this process.
///
/// # Errors
/// Whatever the system says.
pub(crate) fn start(program: &str, configure: impl FnOnce(&mut Command)) -> io::Result<Child> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    configure(&mut command);
    let (answer, started) = mpsc::channel();
    // If the thread is gone, so is `answer`.
    let _ = STARTER.lock().unwrap_or_else(PoisonError::into_inner).send((command, answer));
    started.recv().map_err(io::Error::other)?
}
