//! One stop signal for the whole process.

use std::sync::Arc;

use tokio::sync::watch;

/// Tells everybody to stop. Clones share it.
#[derive(Debug, Clone)]
pub struct Stop {
    sender: Arc<watch::Sender<bool>>,
}

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}

impl Stop {
    /// A signal that was not given yet.
    pub fn new() -> Self {
        Self { sender: Arc::new(watch::Sender::new(false)) }
    }

    /// Gives the signal; more than once is the same as once.
    pub fn trigger(&self) {
        self.sender.send_replace(true);
    }

    /// Whether the signal was given.
    pub fn is_triggered(&self) -> bool {
        *self.sender.borrow()
    }

    /// Returns once the signal is given.
    pub async fn wait(&self) {
        let mut receiver = self.sender.subscribe();
        let _sender_lives_in_self = receiver.wait_for(|stopped| *stopped).await;
    }
}
