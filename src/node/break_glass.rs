//! The break-glass key: its hash is taken from the configuration at the start, and read again from the
//! same file at SIGHUP, so that an operator who can write that file gets in without a restart.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::auth::credential::hash_of;
use crate::config::Config;
use crate::observe::audit::Audit;
use crate::raft::replicator::RaftReplicator;
use crate::service::Service;

/// Sets the key, tells the audit of its use, and keeps it up with the file.
pub(super) fn keep(
    tasks: &mut JoinSet<()>,
    config: &Config,
    service: &Arc<Service<RaftReplicator>>,
    audit: &Arc<Audit>,
) {
    let hears = Arc::clone(audit);
    service.on_break_glass(Box::new(move |asked| hears.break_glass(asked)));
    set(service, config);
    let (service, source) = (Arc::clone(service), config.source.clone());
    tasks.spawn(async move {
        let Ok(mut told) = signal(SignalKind::hangup()) else { return };
        while told.recv().await.is_some() {
            let source = source.clone();
            let reading = tokio::task::spawn_blocking(move || Config::load(source.as_deref()));
            match reading.await {
                Ok(Ok(config)) => set(&service, &config),
                Ok(Err(errors)) => tracing::error!(
                    %errors,
                    "the configuration cannot be used; break_glass_hash stays as it was"
                ),
                Err(error) => tracing::error!(%error, "reading the configuration panicked"),
            }
        }
    });
}

fn set(service: &Service<RaftReplicator>, config: &Config) {
    let hash = hash_of(&config.break_glass_hash);
    if !service.set_break_glass(hash) {
        return;
    }
    if hash.is_some() {
        tracing::warn!(
            audit = true,
            "break_glass_hash is set: who has its token may do everything, through this node"
        );
    } else {
        tracing::warn!(audit = true, "break_glass_hash is gone: its token opens nothing any more");
    }
}
