//! `oarlock serve`: one node.

use std::path::PathBuf;

use clap::Args;
use tokio::io::AsyncReadExt;
use tracing_subscriber::EnvFilter;

use crate::cli::{Failure, stop_signal};
use crate::config::{Config, LogFormat};
use crate::node;
use crate::shutdown::Stop;
use crate::traces::{Settings, Traces};

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// TOML file; cluster/sample.toml lists every setting. Without it: the defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides `data_dir` of the file
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Join a cluster that runs, with the token that `oarlock members add` printed. Better in the
    /// variable: arguments are seen by all who use the machine. Not needed after the first start
    #[arg(long, value_name = "TOKEN", env = "OARLOCK_JOIN_TOKEN", hide_env_values = true)]
    join: Option<String>,
    /// Stop when standard input ends; for a parent that holds the other end
    #[arg(long, hide = true)]
    exit_with_stdin: bool,
}

impl Serve {
    /// The configuration as file, environment and arguments give it.
    pub(super) fn config(&self) -> Result<Config, Failure> {
        let mut config = Config::load(self.config.as_deref())
            .map_err(|errors| Failure::usage(errors.to_string()))?;
        if let Some(dir) = &self.data_dir {
            config.data_dir.clone_from(dir);
        }
        Ok(config)
    }
}

/// Runs a node until SIGTERM or SIGINT; a second signal ends it at once.
pub(super) async fn run(serve: Serve, config: Config) -> Result<(), Failure> {
    log_to_stderr(&config)?;
    #[cfg(feature = "proof")]
    is_for_the_proof()?;
    let stop = Stop::new();
    let signals = stop.clone();
    tokio::spawn(async move {
        stop_signal().await;
        tracing::info!("stopping");
        signals.trigger();
        stop_signal().await;
        #[expect(
            clippy::disallowed_methods,
            reason = "a second signal asks for just this; everything acknowledged is on disk"
        )]
        std::process::exit(130);
    });
    if serve.exit_with_stdin {
        // A thread that is never joined: the read ends with the parent or with this process.
        let parent = stop.clone();
        tokio::spawn(async move {
            let mut byte = [0; 1];
            while matches!(tokio::io::stdin().read(&mut byte).await, Ok(read) if read > 0) {}
            parent.trigger();
        });
    }
    let traces = Traces::start(&Settings {
        endpoint: &config.traces_endpoint,
        sample_ratio: config.traces_sample_ratio,
        service_name: &config.traces_service_name,
        node_id: config.node_id,
    });
    let traces = traces.map_err(Failure::usage)?;
    let ended = node::run(config, serve.join, &traces, stop).await;
    traces.finish().await;
    ended.map_err(|error| Failure::node(error.to_string()))
}

/// A build with planted bugs serves only where somebody asked for just that.
#[cfg(feature = "proof")]
fn is_for_the_proof() -> Result<(), Failure> {
    if ["OARLOCK_PROOF", "OARLOCK_PLANTED"].iter().all(|name| std::env::var_os(name).is_none()) {
        return Err(Failure::usage(
            "this is a build for the proof, with faults and planted bugs inside: install one \
             without the feature `proof`, or set OARLOCK_PROOF=1 to test with it",
        ));
    }
    tracing::warn!("THIS IS A PROOF BUILD, with faults and planted bugs inside: not for service");
    Ok(())
}

fn log_to_stderr(config: &Config) -> Result<(), Failure> {
    // The libraries tell much that only their authors need; naming them in the setting wins.
    let filter = EnvFilter::try_new(format!("openraft=warn,sled=warn,{}", config.log_level))
        .map_err(|error| Failure::usage(format!("log_level: {error}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = match config.log_format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    set.map_err(|error| Failure::usage(format!("start logging: {error}")))
}
