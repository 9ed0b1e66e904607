//! Work that waits for the disk, off the threads that must not wait.

use std::io;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::spawn_blocking;

/// Does blocking work on a thread of its own. A runtime of one thread does it in its place: there
/// the order of things is that of the program, which a simulation relies on.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => work(),
        _ => spawn_blocking(work).await.map_err(io::Error::other)?,
    }
}
